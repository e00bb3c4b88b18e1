"""What users do with backups; commands only parse and print."""
