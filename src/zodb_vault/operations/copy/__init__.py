"""Copy backups to another repository."""
