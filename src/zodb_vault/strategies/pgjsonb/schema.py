"""The tables of zodb-pgjsonb as a capture asks for them."""

from __future__ import annotations

from collections.abc import Callable

from ...model.source import Database
from ..sql.schema import SchemaState, StorageSchema, number_of
from ..sql.snapshot import Rows, hex_or_none
from .blobs import PgjsonbBlobs
from .tables import revision_tables


class PgjsonbSchema(StorageSchema):
    """See ``StorageSchema``."""

    package = "zodb-pgjsonb"

    def __init__(self, database: Database, open_rows: Callable[[Database], Rows]) -> None:
        rows = open_rows(database)
        super().__init__(database, rows, PgjsonbBlobs(database, rows))

    def state(self) -> SchemaState:
        """Return whether history is kept, and the last TID."""
        if not self.rows.has_table("transaction_log") or not self.rows.has_table("blob_state"):
            raise self.missing_tables("transaction_log", "blob_state")
        history = self.rows.has_table("object_history")
        # a pack removes transactions, the newest one too, of which an older revision of something is left
        found = [
            self.number(f"SELECT max(tid) FROM {table}")
            for table in ("transaction_log", *revision_tables(history))
        ]
        return SchemaState(history, hex_or_none(max((tid for tid in found if tid is not None), default=None)))

    def current_table(self, state: SchemaState) -> str:
        """Return the table that has the current TID of each object."""
        return "object_state"

    def first_tid(self, state: SchemaState) -> str | None:
        """Return the oldest TID of any revision."""
        found = [self.number(f"SELECT min(tid) FROM {table}") for table in revision_tables(state.history)]
        return hex_or_none(min((tid for tid in found if tid is not None), default=None))

    def count_transactions(self, state: SchemaState, after: str | None) -> tuple[int | None, int]:
        """Return how many transactions there are, and how many of them are later."""
        query = "SELECT count(*) FILTER (WHERE tid > %s), count(*) FROM transaction_log"
        ((added, total),) = self.rows.query(query, number_of(after))
        return int(total), int(added)

    def history_mismatch(self, state: SchemaState) -> str | None:
        """Return what to say when the configuration and the database do not agree."""
        configured = self.database.history
        if configured is None or configured == state.history:
            return None
        return f"history-preserving is {configured} in the configuration, {state.history} in the database"
