"""Restore a Data.fs.

Beside the old one first, then by one rename, with a journal that says how an interrupted restore goes on.
"""
