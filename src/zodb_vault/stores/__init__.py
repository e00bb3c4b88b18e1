"""Where a repository's bytes live: keys to bytes, durable when a call returns."""
