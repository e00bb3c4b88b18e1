"""What is configured: which sites there are, what their storages say about themselves, where backups go."""
