"""The format of a Data.fs on disk. Source: ZODB/FileStorage/format.py of ZODB 6."""
