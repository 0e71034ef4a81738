"""Beside the requests: the access log, the container's health check, warming. Optional."""
