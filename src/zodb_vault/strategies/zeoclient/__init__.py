"""The client's view of a ZEO server: the storage is at the server, at most the blobs are here."""
