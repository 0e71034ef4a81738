"""Where responses are kept (memory, store) and who fetches what is missing (flight)."""
