"""The straight path: the order in which a request is answered."""
