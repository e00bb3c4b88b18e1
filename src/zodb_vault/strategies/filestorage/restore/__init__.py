"""Restore a Data.fs: beside the old one first, then by one rename, with a journal that says how an interrupted restore goes on."""
