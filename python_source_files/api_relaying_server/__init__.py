"""A caching relay in front of one slow, rate-limited HTTP API."""

__version__ = "0.1.0"

PACKAGE = __name__
