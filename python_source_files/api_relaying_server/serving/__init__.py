"""Connections of clients: the event loop in front, the threads behind it."""
