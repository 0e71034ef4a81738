"""Stores in a database that nodes share: Redis, MongoDB. Optional."""
