"""The dish tool: lists restaurants and their dishes through a relay, over HTTP only.

`list_dishes.py` is the command. It knows the relay by its URL and imports nothing of its code.
"""
