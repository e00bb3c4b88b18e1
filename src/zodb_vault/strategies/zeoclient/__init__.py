"""The backend of a ZEO client: the storage is on the server, and at most the blobs are on this machine."""
