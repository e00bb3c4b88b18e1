"""What lies in a repository and how it gets there: repository format 1."""
