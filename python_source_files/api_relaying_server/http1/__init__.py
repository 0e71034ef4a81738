"""HTTP/1.1 messages as bytes and as objects (RFC 9112, RFC 9110): no sockets, no clock, no
caching.
"""
