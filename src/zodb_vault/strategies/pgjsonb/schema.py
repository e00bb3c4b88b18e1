"""The tables of zodb-pgjsonb, and the objects in S3 that their rows name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import msgspec

from ...model import canonical
from ...model import tid as tids
from ...model.blob import BlobRef
from ...model.source import Database
from ..base import Sink
from ..blobs.s3 import BlobBucket
from ..postgres.snapshot import FETCH
from ..sql.schema import SchemaState, StorageSchema, number_of
from ..sql.snapshot import Rows, hex_or_none, row_ref
from .objects import S3Rows, usual_key

ONE: Final = "zoid = %s AND tid = %s"
MOVED: Final = """
SELECT zoid, tid, s3_key FROM blob_state
WHERE s3_key <> 'blobs/' || lpad(to_hex(zoid), 16, '0') || '/' || lpad(to_hex(tid), 16, '0') || '.blob' ORDER BY zoid, tid
"""
LOST: Final = """
SELECT b.zoid, b.tid FROM blob_state b WHERE b.data IS NULL AND b.s3_key IS NULL
UNION SELECT o.zoid, o.tid FROM {objects} o WHERE o.class_mod = 'ZODB.blob' AND o.class_name = 'Blob'
AND NOT EXISTS (SELECT 1 FROM blob_state b WHERE b.zoid = o.zoid AND b.tid = o.tid) ORDER BY 1, 2
"""


class PgjsonbSchema(StorageSchema):
    """See ``StorageSchema``."""

    package, blob_table = "zodb-pgjsonb", "blob_state"

    def __init__(self, database: Database, open_rows: Callable[[Database], Rows]) -> None:
        super().__init__(database, open_rows)
        self._objects = S3Rows()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self._objects.close()

    def state(self) -> SchemaState:
        """Return whether history is kept, and the last TID."""
        if not self.rows.has_table("transaction_log") or not self.rows.has_table("blob_state"):
            raise self.missing_tables("transaction_log", "blob_state")
        history = self.rows.has_table("object_history")
        # a pack removes transactions, the newest one too, of which an older revision of something is left
        found = [
            self.number(f"SELECT max(tid) FROM {table}")
            for table in ("transaction_log", *_revision_tables(history))
        ]
        return SchemaState(history, hex_or_none(max((tid for tid in found if tid is not None), default=None)))

    def current_table(self, state: SchemaState) -> str:
        """Return the table that has the current TID of each object."""
        return "object_state"

    def first_tid(self, state: SchemaState) -> str | None:
        """Return the oldest TID of any revision."""
        found = [self.number(f"SELECT min(tid) FROM {table}") for table in _revision_tables(state.history)]
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

    # blobs

    @property
    def keeps_blobs_outside(self) -> bool:
        """Tell whether blobs are in a bucket."""
        return self.database.blob_mode == "database+s3"

    @property
    def layout(self) -> str | None:
        """Return None: no directory holds the blobs."""
        return None

    def blob_source(self) -> BlobBucket:
        """Return the bucket."""
        return BlobBucket(self.database, lambda ref: self._object(ref)[1], lambda ref: self._object(ref)[0])

    def count_outside(self) -> int:
        """Return how many rows name an object in S3."""
        return self.number("SELECT count(*) FROM blob_state WHERE s3_key IS NOT NULL") or 0

    def blobs_outside(self, after: str | None) -> Iterator[BlobRef]:
        """Yield what rows later than a TID name in S3, of all revisions."""
        query = "SELECT zoid, tid, blob_size, s3_key FROM blob_state WHERE s3_key IS NOT NULL AND tid > %s"
        rows = self.rows.stream(query, number_of(after))
        while some := list(islice(rows, FETCH)):
            noted = [(row_ref(zoid, tid), int(size), str(key)) for zoid, tid, size, key in some]
            self._objects.add(noted)
            yield from (ref for ref, _size, _key in noted)

    def unusual_keys(self, sink: Sink) -> str | None:
        """Store the keys that are not those that zodb-pgjsonb would choose."""
        refs = ((row_ref(zoid, tid), key) for zoid, tid, key in self.rows.stream(MOVED))
        moved = [msgspec.json.encode((tids.to_hex(ref.oid), tids.to_hex(ref.tid), key)) for ref, key in refs]
        return sink.put_document(canonical.rows("keys", moved)).meta if moved else None

    def lost_blobs(self) -> Iterator[BlobRef]:
        """Yield blobs that are neither in a row nor in S3."""
        columns = "SELECT zoid, tid, class_mod, class_name FROM"
        tables = _revision_tables(self.rows.has_table("object_history"))
        objects = f"({' UNION ALL '.join(f'{columns} {table}' for table in tables)})"
        for zoid, tid in self.rows.stream(LOST.format(objects=objects)):
            yield row_ref(zoid, tid)

    def still_references(self, blob: BlobRef) -> bool:
        """Tell whether the revision is there now."""
        with self._lock:
            return bool(self.rows.query_latest(f"SELECT 1 FROM blob_state WHERE {ONE}", *_numbers(blob)))

    def _object(self, ref: BlobRef) -> tuple[int | None, str]:
        """Return the length and the key of an object.

        Of one that an earlier backup has, what the row says now.
        """
        found = self._objects.find(ref)
        if found is None:
            query = f"SELECT blob_size, s3_key FROM blob_state WHERE s3_key IS NOT NULL AND {ONE}"
            with self._lock:  # the first call makes the connection
                rows = self.rows.query_latest(query, *_numbers(ref))
            found = rows[0] if rows else None
        return found or (None, usual_key(ref))


def _revision_tables(history: bool) -> tuple[str, ...]:
    return ("object_state", "object_history") if history else ("object_state",)


def _numbers(ref: BlobRef) -> tuple[int, int]:
    return int.from_bytes(ref.oid), int.from_bytes(ref.tid)
