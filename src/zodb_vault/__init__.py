"""Back up, prove and restore every ZODB database as one unit."""

__version__ = "1.0.0a1"
