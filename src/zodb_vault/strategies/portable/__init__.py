"""The portable method: any storage, read through ZODB into a mirror, which is a FileStorage."""
