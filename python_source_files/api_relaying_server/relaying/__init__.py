"""The straight path: the order in which a request is answered, from memory, store or upstream."""
