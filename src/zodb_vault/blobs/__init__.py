"""What blob directories and packs of blobs look like."""
