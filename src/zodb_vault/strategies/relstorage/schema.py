"""The tables of RelStorage, which are the same in every database that it works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ...blobs.layout import detect
from ...datafs.records import is_blob
from ...model.blob import BlobRef
from ...model.source import Database
from ..blobs.s3 import BlobBucket, wrapper_key
from ..blobs.source import BlobDirectory, BlobSource
from ..sql.schema import SchemaState, StorageSchema, number_of
from ..sql.snapshot import Rows, hex_or_none, row_ref

IN_DATABASE = (
    "SELECT 1 FROM blob_chunk b WHERE b.zoid = object_state.zoid AND b.tid = object_state.tid AND "
    "b.chunk_num = 0"
)


class RelStorageSchema(StorageSchema):
    """See ``StorageSchema``."""

    package, blob_table = "RelStorage", "blob_chunk"

    def __init__(self, database: Database, open_rows: Callable[[Database], Rows]) -> None:
        # before a login: a directory that is not mounted is found out without it
        shared = database.blob_dir if database.blob_mode == "directory" else None
        self._layout = detect(Path(shared)) if shared else None
        super().__init__(database, open_rows)

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

    # blobs

    @property
    def keeps_blobs_outside(self) -> bool:
        """Tell whether blobs are files of a shared directory, or objects of a bucket."""
        return self._layout is not None or self.database.blob_mode == "s3"

    @property
    def layout(self) -> str | None:
        """Return the layout of the blob directory."""
        return self._layout

    def blob_source(self) -> BlobSource:
        """Return the bucket, or the directory."""
        if self._layout is None:
            return BlobBucket(self.database, wrapper_key)
        return BlobDirectory(Path(self.database.blob_dir or ""), self._layout)

    def blobs_outside(self, after: str | None) -> Iterator[BlobRef]:
        """Yield the blob revisions of the snapshot that are later than a TID."""
        return self._blobs(f"tid > %s AND {self.rows.blob_records}", number_of(after))

    def lost_blobs(self) -> Iterator[BlobRef]:
        """Yield the blob revisions of the snapshot that are not in the table of blobs."""
        return self._blobs(f"{self.rows.blob_records} AND NOT EXISTS ({IN_DATABASE})")

    def _blobs(self, condition: str, *parameters: object) -> Iterator[BlobRef]:
        query = f"SELECT zoid, tid, state FROM object_state WHERE {condition}"
        for zoid, tid, state in self.rows.stream(query, *parameters):
            if is_blob(bytes(state)):
                yield row_ref(zoid, tid)

    def still_references(self, blob: BlobRef) -> bool:
        """Tell whether the revision is there now."""
        query = "SELECT 1 FROM object_state WHERE zoid = %s AND tid = %s"
        return bool(self.rows.query_latest(query, int.from_bytes(blob.oid), int.from_bytes(blob.tid)))
