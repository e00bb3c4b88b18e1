"""The backend FileStorage: Data.fs and its blobs, opened directly or on the host of a ZEO server."""
