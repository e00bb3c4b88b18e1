"""The formats of blob directories and of packs of blobs."""
