"""What processes that share a store tell each other: who fetches, what has changed."""
