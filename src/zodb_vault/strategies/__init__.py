"""One strategy for each backend.

What is the state, what would be copied, copy it, put it back, does the result hold.
"""
