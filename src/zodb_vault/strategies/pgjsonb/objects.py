"""The objects in S3 that rows of zodb-pgjsonb name: their keys, and their lengths."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from typing import Final

import msgspec

from ...model import canonical
from ...model import tid as tids
from ...model.blob import BlobRef
from ...model.chain import Documents
from ...model.manifest import DatabaseEntry
from ...model.source import Database
from ..blobs.s3 import BlobBucket, require_client

# How zodb-pgjsonb names what it puts into a bucket; the rows have the last word.
KEY: Final = "blobs/{:016x}/{:016x}.blob"


class S3Rows:
    """What the snapshot says of objects in S3, for when it is gone already.

    The length of each, and its key where that is not the usual one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # the empty name: a temporary file that SQLite itself removes
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute(
            "CREATE TABLE object (key BLOB PRIMARY KEY, size INTEGER, s3_key TEXT) WITHOUT ROWID"
        )

    def close(self) -> None:
        """Free everything."""
        self._db.close()

    def add(self, rows: Iterable[tuple[BlobRef, int, str]]) -> None:
        """Note some rows."""
        with self._lock:
            self._db.execute("BEGIN")
            values = [
                (ref.oid + ref.tid, size, key if key != usual_key(ref) else None) for ref, size, key in rows
            ]
            self._db.executemany("INSERT OR REPLACE INTO object VALUES (?, ?, ?)", values)
            self._db.execute("COMMIT")

    def find(self, ref: BlobRef) -> tuple[int, str] | None:
        """Return the length and the key of an object, None when it was not noted."""
        with self._lock:
            row = self._db.execute(
                "SELECT size, s3_key FROM object WHERE key = ?", (ref.oid + ref.tid,)
            ).fetchone()
        return (row[0], row[1] or usual_key(ref)) if row else None


def usual_key(ref: BlobRef) -> str:
    """Return the key that zodb-pgjsonb gives an object."""
    return KEY.format(int.from_bytes(ref.oid), int.from_bytes(ref.tid))


class Moved(msgspec.Struct):
    """The document of objects that are under other keys than the usual ones: OID, TID, key."""

    rows: list[tuple[str, str, str]]


def bucket_to_fill(database: Database, entry: DatabaseEntry, documents: Documents) -> BlobBucket:
    """Return the bucket of a site as the place for the blobs of a backup.

    Each under the key that its row names.
    """
    listed = entry.blobs.keys if entry.blobs else None
    rows = canonical.decode(documents.document(listed), Moved, f"the list {listed}").rows if listed else []
    moved = {tids.from_hex(oid) + tids.from_hex(tid): key for oid, tid, key in rows}
    require_client(database)
    return BlobBucket(database, lambda ref: moved.get(ref.oid + ref.tid) or usual_key(ref))
