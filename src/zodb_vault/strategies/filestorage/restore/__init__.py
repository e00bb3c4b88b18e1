"""Restore a Data.fs: write the new one beside the old one, then rename it. A journal covers interruptions."""
