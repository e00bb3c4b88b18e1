"""Capture a SQL storage: one dump of one snapshot, then the blobs outside of the database that the snapshot references."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from ...blobs.layout import detect
from ...datafs.records import is_blob
from ...errors import ConfigurationError, SourceError
from ...model import canonical
from ...model import tid as tids
from ...model.blob import BlobRef
from ...model.capture import CaptureOptions, InterruptedRun, PreviousBackup
from ...model.chain import Chain, Documents, packs_of
from ...model.manifest import Blobs, DatabaseEntry, Dump, Part, StoredProgress, Transactions
from ...model.source import Database
from ...policy.continuity import Decision, DumpFacts, decide_dump
from ...runtime import clock
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Checkpointer, Sink, folder_of
from ..blobs.capture import BlobFiles, reusable_until
from ..blobs.missing import limit_missing, note_missing
from ..blobs.s3 import BlobBucket, wrapper_key
from ..blobs.source import BlobDirectory, BlobSource
from .history import log_since, start_of
from .snapshot import Rows, StoredDump, hex_of, hex_or_none

# So many objects are remembered, as many of the newest as of the oldest ones.
MARKS: Final = 128


NAMED: Final = 20


class SqlCapture:
    """Looks at a database, decides, and copies it; see ``Capture``."""

    package, blob_table = "RelStorage", "blob_chunk"

    def __init__(
        self,
        open_rows: Callable[[Database], Rows],
        database: Database,
        documents: Documents,
        wishes: CaptureOptions,
        now: datetime,
    ) -> None:
        self.database, self.documents, self.wishes, self.now = database, documents, wishes, now
        self.folder = folder_of(database.name)
        self.warnings: list[str] = list(database.warnings)
        self.findings: list[str] = []
        self.missing: list[tuple[BlobRef, str]] = []
        self.earlier: PreviousBackup | None = None
        self.resumed: InterruptedRun | None = None
        self.files: BlobFiles | None = None
        self.versions: dict[str, str] = {}
        self.layout = (
            detect(Path(database.blob_dir))
            if database.blob_mode == "directory" and database.blob_dir
            else None
        )
        self.rows = open_rows(database)

    def close(self) -> None:
        """Close the connections."""
        self.rows.close()
        if self.files is not None:
            self.files.close()

    @property
    def copies_blobs(self) -> bool:
        """Tell whether blobs are outside of the database."""
        return self.layout is not None or self.database.blob_mode == "s3"

    # deciding

    def find_base(self, earlier: Iterable[PreviousBackup], resumed: InterruptedRun | None) -> None:
        """Take the newest backup that was made of such a database."""
        self.earlier = next(
            (
                one
                for one in earlier
                if one.entry.dump is not None and one.entry.backend == self.database.backend
            ),
            None,
        )
        self.resumed = resumed
        self._look()

    def _look(self) -> None:
        """Read the state in the snapshot: whether history is kept, the last TID."""
        if not self.rows.has_table("object_state"):
            raise SourceError(
                f"the database {self.database.name} has no table object_state: nothing of RelStorage is in it",
                "check the name of the database in zope.conf",
            )
        self.history = self.rows.has_table("current_object")
        newest = self.rows.transactions if self.history else "object_state"
        ((last,),) = self.rows.ask(f"SELECT max(tid) FROM {newest}")
        self.last_tid = hex_or_none(last)

    def extend(self) -> bool:
        """Take the snapshot again; tell whether there was a commit in between."""
        before = self.last_tid
        self.rows.snapshot()
        self._look()
        return self.last_tid != before

    @property
    def voted(self) -> bool:
        """Tell nothing: what is not committed is not in the snapshot."""
        return False

    @property
    def uses(self) -> list[PreviousBackup]:
        """Return the backup that this one goes on from."""
        return [self.earlier] if self.earlier else []

    def decide(self) -> Decision:
        """Return how this backup is made, and why."""
        entry = self.earlier.entry if self.earlier else None
        common, backwards, superseded = self._compared()
        self.facts = DumpFacts(
            parent=self.earlier.id if self.earlier else None,
            last_tid=self.last_tid,
            parent_last_tid=entry.last_tid if entry else None,
            common_tid=common,
            backwards=backwards,
            superseded=superseded,
            restored=self.wishes.restored,
            forced=self.wishes.forced,
            reuses_blobs=bool(self.copies_blobs and entry and entry.blobs),
        )
        self.decision = decide_dump(self.facts)
        return self.decision

    def _compared(self) -> tuple[str | None, bool, bool]:
        """Compare the objects that the backup before remembers with what they are now."""
        marks = self.earlier.entry.dump.marks if self.earlier and self.earlier.entry.dump else None
        if marks is None:
            return None, False, False
        before = dict(msgspec.json.decode(self.documents.document(marks), type=MarkRows).rows)
        if not before:
            return None, False, True
        now = dict(self._pairs(f"SELECT zoid, tid FROM {self._current} WHERE zoid IN ({{}})", before))
        stands = {oid for oid, tid in now.items() if before[oid] == tid}
        if (
            self.history
        ):  # a revision that is no longer the current one is there all the same, unless it was packed
            query = "SELECT zoid, tid FROM object_state WHERE zoid IN ({}) AND tid IN ({})"
            stands |= {
                oid for oid, tid in self._pairs(query, before, set(before.values())) if before[oid] == tid
            }
        common = max((before[oid] for oid in stands), default=None)
        backwards = any(tid < before[oid] for oid, tid in now.items())
        # where no history is kept, a small database may have changed all over
        superseded = not self.history and bool(now) and common is None and len(before) < 2 * MARKS
        return common, backwards, superseded and not backwards

    def _pairs(self, query: str, *values: Iterable[str]) -> Iterator[tuple[str, str]]:
        numbers = [[int(text, 16) for text in some] for some in values]
        rows = self.rows.ask(
            query.format(*(", ".join(["%s"] * len(some)) for some in numbers)),
            *(number for some in numbers for number in some),
        )
        return ((hex_of(zoid), hex_of(tid)) for zoid, tid in rows)

    @property
    def _current(self) -> str:
        return "current_object" if self.history else "object_state"

    # copying

    @property
    def expected(self) -> int | None:
        """Return nothing: how long a dump gets is not known before."""
        return None

    @property
    def software(self) -> dict[str, str]:
        """Return the versions of server, tool and, if it is installed, of the package of the storage."""
        from importlib import metadata

        if self.versions:
            return self.versions
        try:
            return self.rows.versions | {self.package: metadata.version(self.package)}
        except metadata.PackageNotFoundError:
            return self.rows.versions

    def begin(self, sink: Sink, keeper: Checkpointer, progress: Progress) -> None:
        """Look at where the blobs are; raise ConfigurationError when they are asked for and nobody knows it."""
        self.sink, self.keeper, self.progress = sink, keeper, progress
        if self.database.history is not None and self.database.history != self.history:
            said = f"keep-history is {self.database.history} in the configuration, {self.history} in the database"
            self.warnings.append(f"{said}: RelStorage refuses that")
        if self.wishes.blobs and self.copies_blobs:
            notes = StoredProgress(
                database=self.database.name, parent=self.earlier.id if self.earlier else None, keep=0
            )
            # the newest commit of a busy site is younger than the start of the run
            self.files = BlobFiles(
                self._place(), sink, self.folder, clock.now(), self.wishes, keeper, progress, notes
            )
        elif self.wishes.blobs and self.database.blob_mode == "none":
            self._require_no_files()

    def _place(self) -> BlobSource:
        if self.layout is None:
            return BlobBucket(self.database, wrapper_key)
        return BlobDirectory(Path(self.database.blob_dir or ""), self.layout)

    def _require_no_files(self) -> None:
        for blob in self._not_in_database():
            raise ConfigurationError(
                [
                    f"{self.database.name} refers to blobs that are not in the database (OID {_shown(blob)}), no blob directory is known"
                ],
                "name it with blob-dir in the configuration; `--only storage` leaves the blobs out",
            )

    def copy_storage(self) -> None:
        """Dump the database, and list the blobs that the same snapshot asks for."""
        if self.rows.hold():
            self._look()
            self.decide()
        self.first_tid = self._first_tid()
        self.transactions, self.transactions_added = self._count_transactions()
        self.dumped: StoredDump | None = None
        if self.wishes.storage:
            with Workers(self.wishes.workers, self.keeper.beat) as workers:
                self.dumped = self._dump(workers)
            self.warnings += self.dumped.warnings
        if self.files is not None:
            self._ask_for_files(self.files)
        if self.wishes.blobs and self.database.blob_mode in ("database", "database+s3"):
            self.missing = [(blob, self.blob_table) for blob in self._not_in_database()] + (
                self.dumped.missing if self.dumped else []
            )
            limit_missing(
                [blob for blob, _where in self.missing],
                0,
                self.wishes.allow_missing,
                f"the table {self.blob_table}",
            )
        self._list_transactions()
        self.marks = self._marks()
        self.versions = self.software
        self.rows.let_go()

    def _list_transactions(self) -> None:
        """List the transactions to which the dump can be cut, and find out from which one on; without history there is only the last."""
        self.log, self.pack_tid, revisions = (
            Chain(Transactions, self.sink),
            self.last_tid,
            self.rows.revisions,
        )
        # who writes without keeping history leaves none, whatever tables there are
        if (
            self.history
            and self.database.history is not False
            and revisions is not None
            and self.last_tid is not None
        ):
            known = self.earlier.entry if self.earlier and self.facts.continues else None
            self.pack_tid = start_of(revisions, self.rows, self.sink, known, self.last_tid)
            self.log = log_since(
                revisions,
                self.rows,
                self.sink,
                self.folder,
                None if self.facts.forced else known,
                self.keeper.beat,
            )

    def _first_tid(self) -> str | None:
        return hex_or_none(self.rows.ask("SELECT min(tid) FROM object_state")[0][0])

    def _dump(self, workers: Workers) -> StoredDump:
        return self.rows.dump(self.sink, self.folder, workers, self.keeper, self.progress)

    def _count_transactions(self) -> tuple[int | None, int]:
        before = self.earlier.entry.last_tid if self.earlier and self.facts.continues else None
        counted, since = (
            ("count(*)", self.rows.transactions) if self.history else ("count(DISTINCT tid)", "object_state")
        )
        ((added,),) = self.rows.ask(f"SELECT {counted} FROM {since} WHERE tid > %s", _number(before))
        total = (
            self.rows.ask(f"SELECT count(*) FROM {self.rows.transactions}")[0][0] if self.history else None
        )
        return total, int(added)

    def _ask_for_files(self, files: BlobFiles) -> None:
        """List what the snapshot asks for: only what is new when it is known that everything else is in the packs of the backup before."""
        earlier, blobs = self.earlier, self.earlier.entry.blobs if self.earlier else None
        if earlier and blobs and self.facts.continues and not self.facts.forced and not blobs.missing.count:
            new = list(self.blobs_outside(earlier.entry.last_tid))
            total = self.count_outside()
            if blobs.count + len(new) == total and not any(
                pack.future for pack in packs_of(earlier.entry, self.documents)
            ):
                files.take_whole(earlier)
                files.refs.add(new)
                return
        files.refs.add(self.blobs_outside(None))
        if earlier and blobs and not self.facts.forced:
            files.take_wanted(
                packs_of(earlier.entry, self.documents),
                reusable_until(earlier, self.facts.common_tid, continues=self.facts.continues),
            )
        if self.resumed is not None:
            files.adopt(self.resumed.stored)

    def count_outside(self) -> int:
        """Return how many blob revisions of the snapshot are outside of the database."""
        return sum(1 for _blob in self.blobs_outside(None))

    def blobs_outside(self, after: str | None) -> Iterator[BlobRef]:
        """Yield the blob revisions of the snapshot that are outside of the database and later than a TID."""
        query = f"SELECT zoid, tid, state FROM object_state WHERE tid > %s AND {self.rows.blob_records}"
        for zoid, tid, state in self.rows.stream(query, _number(after)):
            if is_blob(bytes(state)):
                yield BlobRef(int(zoid).to_bytes(8), int(tid).to_bytes(8), True)

    def _not_in_database(self) -> Iterator[BlobRef]:
        there = "SELECT 1 FROM blob_chunk b WHERE b.zoid = object_state.zoid AND b.tid = object_state.tid AND b.chunk_num = 0"
        query = f"SELECT zoid, tid, state FROM object_state WHERE {self.rows.blob_records} AND NOT EXISTS ({there})"
        for zoid, tid, state in self.rows.stream(query):
            if is_blob(bytes(state)):
                yield BlobRef(int(zoid).to_bytes(8), int(tid).to_bytes(8), True)

    def copy_blobs(self) -> None:
        """Copy the files that no earlier backup has; raise SourceChanged when a pack took some away, BlobsMissing when too many are gone."""
        if self.files is not None:
            self.files.copy(self._still_asked_for)
            self.findings += self.files.findings
            self.warnings += self.files.warnings[:NAMED]

    def _still_asked_for(self, blob: BlobRef) -> bool:
        query = "SELECT 1 FROM object_state WHERE zoid = %s AND tid = %s"
        return bool(self.rows.ask_now(query, int.from_bytes(blob.oid), int.from_bytes(blob.tid)))

    def last_notes(self) -> StoredProgress | None:
        """Return what has been stored so far."""
        return self.files.noted() if self.files is not None else None

    # the result

    def entry(self) -> DatabaseEntry:
        """Return what the manifest says of this database."""
        last = self.last_tid
        return DatabaseEntry(
            name=self.database.name,
            folder=self.folder,
            mount_point=self.database.mount_point,
            backend=self.database.backend,
            method="native",
            history=self.history,
            blob_mode=self.database.blob_mode,
            layout=self.layout,
            first_tid=self.first_tid,
            pack_tid=self.pack_tid,
            last_tid=last,
            last_time=tids.iso(tids.from_hex(last)) if last else None,
            storage=self._storage(),
            blobs=self._blobs(),
            transactions_added=self.transactions_added,
            blobs_added=self.files.added if self.files else 0,
            warnings=self.warnings + self.findings,
        )

    def _storage(self) -> Dump | None:
        if self.dumped is None:
            return None
        chain = Chain(Part, self.sink, (), self.dumped.parts).with_short_tail()
        return self.dumped.storage(
            size=sum(part.raw for part in self.dumped.parts),
            lists=chain.lists,
            tail=chain.tail,
            tables=self.dumped.tables,
            versions={name: version for name, version in self.versions.items() if name != self.package},
            transactions=self.transactions,
            marks=self.marks,
            log_lists=self.log.lists,
            log=self.log.tail,
        )

    def _marks(self) -> str:
        """Store some objects with their TIDs: the newest ones, and the oldest, which seldom change."""
        rows: dict[str, str] = {}
        for order in ("DESC", "ASC"):
            found = self.rows.ask(
                f"SELECT zoid, tid FROM {self._current} ORDER BY tid {order}, zoid LIMIT {MARKS}"
            )
            rows |= {hex_of(zoid): hex_of(tid) for zoid, tid in found}
        return self.sink.put_document(
            canonical.rows("marks", [msgspec.json.encode(row) for row in sorted(rows.items())])
        ).meta

    def _blobs(self) -> Blobs | None:
        if self.files is not None:
            return self.files.blobs(self.missing)
        if not self.missing:
            return None
        return Blobs(count=0, size=0, lists=[], tail=[], missing=note_missing(self.sink, self.missing))


class MarkRows(msgspec.Struct):
    """The document of objects by which a database is known again: OID, TID."""

    rows: list[tuple[str, str]]


def _number(tid: str | None) -> int:
    return int(tid, 16) if tid else -1


def _shown(blob: BlobRef) -> str:
    return f"{tids.to_hex(blob.oid)}, TID {tids.to_hex(blob.tid)}"
