"""The portable method: any storage is copied through ZODB into a mirror, which is a FileStorage."""
