"""The tables of RelStorage, which are the same in every database that it works with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...blobs.layout import detect
from ...model.source import Database
from ..sql.schema import SchemaState, StorageSchema, number_of
from ..sql.snapshot import Rows, hex_or_none
from .blobs import RelStorageBlobs


class RelStorageSchema(StorageSchema):
    """See ``StorageSchema``."""

    package = "RelStorage"

    def __init__(self, database: Database, open_rows: Callable[[Database], Rows]) -> None:
        # before a login: a directory that is not mounted is found out without it
        shared = database.blob_dir if database.blob_mode == "directory" else None
        layout = detect(Path(shared)) if shared else None
        rows = open_rows(database)
        super().__init__(database, rows, RelStorageBlobs(database, rows, layout))

    def state(self) -> SchemaState:
        """Return whether history is kept, and the last TID."""
        if not self.rows.has_table("object_state"):
            raise self.missing_tables("object_state")
        history = self.rows.has_table("current_object")
        newest = self.rows.transactions if history else "object_state"
        return SchemaState(history, hex_or_none(self.number(f"SELECT max(tid) FROM {newest}")))

    def current_table(self, state: SchemaState) -> str:
        """Return the table that has the current TID of each object."""
        return "current_object" if state.history else "object_state"

    def first_tid(self, state: SchemaState) -> str | None:
        """Return the oldest TID of any revision."""
        return hex_or_none(self.number("SELECT min(tid) FROM object_state"))

    def count_transactions(self, state: SchemaState, after: str | None) -> tuple[int | None, int]:
        """Return how many transactions there are, and how many of them are later.

        Without history only the latter is known.
        """
        table, later = self.rows.transactions, number_of(after)
        if not state.history:
            query = "SELECT count(DISTINCT tid) FROM object_state WHERE tid > %s"
            return None, self.number(query, later) or 0
        added = self.number(f"SELECT count(*) FROM {table} WHERE tid > %s", later) or 0
        return self.number(f"SELECT count(*) FROM {table}"), added

    def history_mismatch(self, state: SchemaState) -> str | None:
        """Return what to say when the configuration and the database do not agree: no site runs with that."""
        configured = self.database.history
        if configured is None or configured == state.history:
            return None
        said = f"keep-history is {configured} in the configuration, {state.history} in the database"
        return f"{said}: RelStorage refuses that"
