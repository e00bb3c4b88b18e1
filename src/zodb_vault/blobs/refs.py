"""A set of blob revisions of any size in bounded memory.

Two million keys do not fit a budget of 200 MB as Python objects.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from typing import Final

from ..model.blob import BlobRef

CACHE_KIB: Final = 16 * 1024
FETCH: Final = 1000


class BlobSet:
    """Blob revisions that a storage references, and for each whether a pack contains it.

    They are in a private temporary database.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # With the empty name, SQLite makes a temporary file when the cache is full, and removes it itself.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(
            "CREATE TABLE ref (key BLOB PRIMARY KEY, sure INTEGER, present INTEGER) WITHOUT ROWID"
        )

    def close(self) -> None:
        """Close the database and remove its file."""
        self._db.close()

    def add(self, refs: Iterable[BlobRef]) -> None:
        """Add referenced revisions; a revision that is added twice counts once."""
        rows = [(oid + tid, sure) for oid, tid, sure in refs]
        with self._lock:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT INTO ref VALUES (?, ?, 0) ON CONFLICT DO UPDATE SET sure = max(sure, excluded.sure)",
                rows,
            )
            self._db.execute("COMMIT")

    def mark_present(self, keys: Iterable[bytes]) -> None:
        """Note that a pack contains these keys (OID + TID); unreferenced keys are ignored."""
        with self._lock:
            self._db.execute("BEGIN")
            self._db.executemany("UPDATE ref SET present = 1 WHERE key = ?", [(key,) for key in keys])
            self._db.execute("COMMIT")

    def referenced(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return which of these keys (OID + TID) are referenced."""
        with self._lock:
            query = self._db.cursor().execute
            return {
                key for key in keys if query("SELECT 1 FROM ref WHERE key = ?", (key,)).fetchone() is not None
            }

    def take_missing(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return which of these keys (OID + TID) are referenced and missing, and mark them as present."""
        with self._lock:
            query = self._db.cursor().execute
            found = {
                key
                for key in keys
                if query("SELECT 1 FROM ref WHERE key = ? AND present = 0", (key,)).fetchone() is not None
            }
        self.mark_present(found)
        return found

    def __contains__(self, key: bytes) -> bool:
        with self._lock:
            return self._db.execute("SELECT 1 FROM ref WHERE key = ?", (key,)).fetchone() is not None

    def __len__(self) -> int:
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM ref").fetchone()[0])

    def count_missing(self) -> int:
        """Return how many revisions no pack contains."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM ref WHERE present = 0").fetchone()[0])

    def missing(self) -> Iterator[BlobRef]:
        """Yield the revisions that no pack contains, ordered by OID and TID.

        Several threads may iterate, also while keys are marked as present.
        """
        last = b""
        while rows := self._after(last, "present = 0"):
            for key, sure in rows:
                yield BlobRef(key[:8], key[8:], bool(sure))
            last = rows[-1][0]

    def all(self) -> Iterator[BlobRef]:
        """Yield all revisions, ordered by OID and TID."""
        last = b""
        while rows := self._after(last, "1"):
            for key, sure in rows:
                yield BlobRef(key[:8], key[8:], bool(sure))
            last = rows[-1][0]

    def _after(self, key: bytes, condition: str) -> list[tuple[bytes, int]]:
        with self._lock:
            query = f"SELECT key, sure FROM ref WHERE key > ? AND {condition} ORDER BY key LIMIT {FETCH}"
            return self._db.execute(query, (key,)).fetchall()
