"""Blobs that lie outside of the storage: in a directory or in a bucket, packed for the repository and restored."""
