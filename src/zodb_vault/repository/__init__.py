"""The files of a repository, and how they are read and written: repository format 1."""
