"""Capture zodb-pgjsonb: its dump, then exactly the objects in S3 that its rows name."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Final

import msgspec

from ...errors import SourceError
from ...model import canonical
from ...model import tid as tids
from ...model.blob import BlobRef
from ...model.capture import CaptureOptions
from ...model.chain import Documents
from ...model.manifest import Blobs, DatabaseEntry, PgDump, StoredProgress
from ...model.source import Database
from ...runtime import clock
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Checkpointer, Sink
from ..blobs.capture import BlobFiles
from ..blobs.s3 import BlobBucket, require_client
from ..postgres.blob_rows import blob_ref
from ..postgres.incremental import TransactionsCapture
from ..postgres.snapshot import FETCH, Postgres
from ..sql.capture import SqlCapture
from ..sql.history import PGJSONB
from ..sql.snapshot import Rows, StoredDump, hex_or_none

NAMED: Final = 20


# How zodb-pgjsonb names what it puts into a bucket; the rows have the last word.
KEY: Final = "blobs/{:016x}/{:016x}.blob"


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


class PgjsonbRows(Postgres):
    """The tables of zodb-pgjsonb; see ``Rows``."""

    transactions = "transaction_log"
    blob_records = PGJSONB.blob_records
    revisions = PGJSONB

    def dump(
        self, sink: Sink, folder: str, workers: Workers, keeper: Checkpointer, progress: Progress
    ) -> StoredDump:
        """Dump; there are no large objects."""
        sequences = self.sequences()
        done = self.dump_into(sink, f"{folder}/database.dump", workers, keeper, progress)
        done.large_objects.close()
        warnings = [f"pg_dump: {line}" for line in done.words.splitlines()[:NAMED]]
        return StoredDump(
            storage=partial(PgDump, sequences=sequences),
            parts=done.parts,
            tables=done.tables,
            warnings=warnings,
        )


def open_rows(database: Database) -> PgjsonbRows:
    """Log in."""
    return PgjsonbRows(database.option("dsn"))


class S3Rows:
    """What the snapshot says of objects in S3, for when it is gone already: the length of each, and its key where that is not the usual one."""

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
    """Return the bucket of a site as the place for the blobs of a backup: each under the key that its row names."""
    listed = entry.blobs.keys if entry.blobs else None
    rows = msgspec.json.decode(documents.document(listed), type=Moved).rows if listed else []
    moved = {tids.from_hex(oid) + tids.from_hex(tid): key for oid, tid, key in rows}
    require_client(database)
    return BlobBucket(database, lambda ref: moved.get(ref.oid + ref.tid) or usual_key(ref))


class PgjsonbCapture(SqlCapture):
    """Looks at a database, decides, and copies it; see ``Capture``."""

    package, blob_table = "zodb-pgjsonb", "blob_state"

    def __init__(
        self,
        open_rows: Callable[[Database], Rows],
        database: Database,
        documents: Documents,
        wishes: CaptureOptions,
        now: datetime,
    ) -> None:
        self.objects = S3Rows()
        self._lock = threading.Lock()
        super().__init__(open_rows, database, documents, wishes, now)

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self.objects.close()

    @property
    def copies_blobs(self) -> bool:
        """Tell whether blobs are in a bucket."""
        return self.database.blob_mode == "database+s3"

    def _look(self) -> None:
        if not self.rows.has_table("transaction_log") or not self.rows.has_table("blob_state"):
            raise SourceError(
                f"the database {self.database.name} has no tables transaction_log and blob_state: nothing of zodb-pgjsonb is in it",
                "check the name of the database in zope.conf",
            )
        self.history = self.rows.has_table("object_history")
        # a pack removes transactions, the newest one too, of which an older revision of something is left
        tables = ["transaction_log", "object_state", *(["object_history"] if self.history else [])]
        found = [self.rows.ask(f"SELECT max(tid) FROM {table}")[0][0] for table in tables]
        self.last_tid = hex_or_none(max((one for one in found if one is not None), default=None))

    @property
    def _current(self) -> str:
        return "object_state"

    # copying

    def begin(self, sink: Sink, keeper: Checkpointer, progress: Progress) -> None:
        """Look at what says where the bucket is; raise ConfigurationError."""
        self.sink, self.keeper, self.progress = sink, keeper, progress
        if self.database.history is not None and self.database.history != self.history:
            self.warnings.append(
                f"history-preserving is {self.database.history} in the configuration, {self.history} in the database"
            )
        if self.wishes.blobs and self.copies_blobs:
            notes = StoredProgress(
                database=self.database.name, parent=self.earlier.id if self.earlier else None, keep=0
            )
            bucket = BlobBucket(
                self.database, lambda ref: self._object(ref)[1], lambda ref: self._object(ref)[0]
            )
            self.files = BlobFiles(
                bucket, sink, self.folder, clock.now(), self.wishes, keeper, progress, notes
            )

    def _first_tid(self) -> str | None:
        tables = ["object_state", *(["object_history"] if self.history else [])]
        rows = [self.rows.ask(f"SELECT min(tid) FROM {table}")[0][0] for table in tables]
        return hex_or_none(min((one for one in rows if one is not None), default=None))

    def _ask_for_files(self, files: BlobFiles) -> None:
        super()._ask_for_files(files)
        refs = ((blob_ref(zoid, tid), key) for zoid, tid, key in self.rows.stream(MOVED))
        moved = [msgspec.json.encode((tids.to_hex(ref.oid), tids.to_hex(ref.tid), key)) for ref, key in refs]
        self.keys = self.sink.put_document(canonical.rows("keys", moved)).meta if moved else None

    def _blobs(self) -> Blobs | None:
        blobs = super()._blobs()
        return (
            msgspec.structs.replace(blobs, keys=self.keys)
            if blobs is not None and self.files is not None
            else blobs
        )

    def _count_transactions(self) -> tuple[int | None, int]:
        before = self.earlier.entry.last_tid if self.earlier and self.facts.continues else None
        ((added, total),) = self.rows.ask(
            "SELECT count(*) FILTER (WHERE tid > %s), count(*) FROM transaction_log", int(before or "-1", 16)
        )
        return int(total), int(added)

    def count_outside(self) -> int:
        """Return how many rows name an object in S3."""
        return int(self.rows.ask("SELECT count(*) FROM blob_state WHERE s3_key IS NOT NULL")[0][0])

    def blobs_outside(self, after: str | None) -> Iterator[BlobRef]:
        """Yield what rows later than a TID name in S3, of all revisions."""
        query = "SELECT zoid, tid, blob_size, s3_key FROM blob_state WHERE s3_key IS NOT NULL AND tid > %s"
        rows = self.rows.stream(query, int(after or "-1", 16))
        while some := list(islice(rows, FETCH)):
            noted = [(blob_ref(zoid, tid), int(size), str(key)) for zoid, tid, size, key in some]
            self.objects.add(noted)
            yield from (ref for ref, _size, _key in noted)

    def _not_in_database(self) -> Iterator[BlobRef]:
        """Yield blobs that are in no place at all."""
        columns = "SELECT zoid, tid, class_mod, class_name FROM"
        objects = f"({columns} object_state{f' UNION ALL {columns} object_history' if self.history else ''})"
        for zoid, tid in self.rows.stream(LOST.format(objects=objects)):
            yield blob_ref(zoid, tid)

    def _object(self, ref: BlobRef) -> tuple[int | None, str]:
        """Return the length and the key of an object; of one that an earlier backup has, what the row says now."""
        found = self.objects.find(ref)
        if found is None:
            with self._lock:  # the connection is made by the first one who asks
                rows = self.rows.ask_now(
                    f"SELECT blob_size, s3_key FROM blob_state WHERE s3_key IS NOT NULL AND {ONE}",
                    *_numbers(ref),
                )
            found = rows[0] if rows else None
        return found or (None, usual_key(ref))

    def _still_asked_for(self, blob: BlobRef) -> bool:
        with self._lock:
            return bool(self.rows.ask_now(f"SELECT 1 FROM blob_state WHERE {ONE}", *_numbers(blob)))


class PgjsonbTransactionsCapture(TransactionsCapture, PgjsonbCapture):
    """Copies what was committed since an earlier dump; see ``TransactionsCapture``."""


def _numbers(ref: BlobRef) -> tuple[int, int]:
    return int.from_bytes(ref.oid), int.from_bytes(ref.tid)
