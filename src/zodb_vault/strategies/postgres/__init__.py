"""What RelStorage and zodb-pgjsonb share on PostgreSQL: connection, snapshot, dump, deltas, restore."""
