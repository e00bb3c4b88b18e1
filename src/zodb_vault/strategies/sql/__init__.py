"""What all SQL storages share: one snapshot, one dump, the history of revisions."""
