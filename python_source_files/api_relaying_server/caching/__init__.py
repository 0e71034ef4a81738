"""The rules of RFC 9111, 9110, 9213, 9875 and 5861 and the operator's rules as pure functions:
`now` is an argument, nothing is performed.
"""
