"""Blobs that lie outside of the storage.

In a directory or in a bucket, packed for the repository and restored.
"""
