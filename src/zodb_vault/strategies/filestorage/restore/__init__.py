"""Restore a Data.fs: beside the old one first, then by one rename, with a journal for interruptions."""
