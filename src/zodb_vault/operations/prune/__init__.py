"""Remove backups, and free what nothing needs any more."""
