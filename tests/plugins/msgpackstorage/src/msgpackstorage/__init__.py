"""A ZODB storage that keeps each transaction in a file of its own, and its backend for zodb-vault."""
