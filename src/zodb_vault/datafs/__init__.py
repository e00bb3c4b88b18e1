"""What a Data.fs looks like on disk. Source of the format: ZODB/FileStorage/format.py of ZODB 6."""
