"""Where responses are kept beyond this process's memory: one interface, several backends, and what
makes each of them fail open.
"""
