"""The rules of RFC 9111, 9110, 9213 and 5861 as pure functions: `now` is an argument, nothing is
performed.
"""
