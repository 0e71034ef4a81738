"""One request to the remote API: its connection, its time limits, its protection."""
