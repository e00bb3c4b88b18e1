"""Check that backups can be made and restored here."""
