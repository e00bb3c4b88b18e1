"""The backends: each can survey, back up, check and restore one kind of storage."""
