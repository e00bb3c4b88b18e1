"""The blobs of zodb-pgjsonb: rows of the database, and the objects in S3 that rows name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
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
from ..sql.schema import StorageBlobs, number_of
from ..sql.snapshot import Rows, row_ref
from .objects import S3Rows, usual_key
from .tables import revision_tables

ONE: Final = "zoid = %s AND tid = %s"
MOVED: Final = """
SELECT zoid, tid, s3_key FROM blob_state
WHERE s3_key <> 'blobs/' || lpad(to_hex(zoid), 16, '0') || '/' || lpad(to_hex(tid), 16, '0') || '.blob'
ORDER BY zoid, tid
"""
LOST: Final = """
SELECT b.zoid, b.tid FROM blob_state b WHERE b.data IS NULL AND b.s3_key IS NULL
UNION SELECT o.zoid, o.tid FROM {objects} o WHERE o.class_mod = 'ZODB.blob' AND o.class_name = 'Blob'
AND NOT EXISTS (SELECT 1 FROM blob_state b WHERE b.zoid = o.zoid AND b.tid = o.tid) ORDER BY 1, 2
"""


class PgjsonbBlobs(StorageBlobs):
    """See ``StorageBlobs``."""

    table = "blob_state"

    def __init__(self, database: Database, rows: Rows) -> None:
        super().__init__(database, rows)
        self._objects = S3Rows()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Free everything."""
        self._objects.close()

    @property
    def are_outside(self) -> bool:
        """Tell whether blobs are in a bucket."""
        return self.database.blob_mode == "database+s3"

    def source(self) -> BlobBucket:
        """Return the bucket."""
        return BlobBucket(self.database, lambda ref: self._object(ref)[1], lambda ref: self._object(ref)[0])

    def count_outside(self) -> int:
        """Return how many rows name an object in S3."""
        return int(self.rows.query("SELECT count(*) FROM blob_state WHERE s3_key IS NOT NULL")[0][0])

    def outside(self, after: str | None) -> Iterator[BlobRef]:
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

    def lost(self) -> Iterator[BlobRef]:
        """Yield blobs that are neither in a row nor in S3."""
        columns = "SELECT zoid, tid, class_mod, class_name FROM"
        tables = revision_tables(self.rows.has_table("object_history"))
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


def _numbers(ref: BlobRef) -> tuple[int, int]:
    return int.from_bytes(ref.oid), int.from_bytes(ref.tid)
