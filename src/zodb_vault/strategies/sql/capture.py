"""Copy a SQL storage: a dump of one snapshot, then the blobs outside that the snapshot references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

from ...errors import ConfigurationError
from ...model import tid as tids
from ...model.blob import MissingBlob
from ...model.capture import CaptureOptions, InterruptedRun, PreviousBackup
from ...model.chain import Chain, is_damaged_dump, packs_of
from ...model.manifest import Blobs, DatabaseEntry, Dump, Part, StoredProgress, Transactions
from ...policy.full_or_incremental import Decision
from ...runtime import clock
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Captured, Checkpointer, Sink, folder_of
from ..blobs.missing import limit_missing, note_missing
from ..blobs.packer import Packer
from ..checkpoint import RunNotes
from .blobs import SqlBlobs
from .history import log_since, start_of
from .marks import store_marks
from .schema import SchemaState, StorageSchema
from .snapshot import StoredDump


class Surveyed(NamedTuple):
    """A database, and how it is to be copied.

    ``survey_again`` compares the snapshot that the same connection has by then.
    """

    schema: StorageSchema
    options: CaptureOptions
    state: SchemaState
    decision: Decision
    previous: PreviousBackup | None
    interrupted: InterruptedRun | None
    survey_again: Callable[[], Surveyed]

    @property
    def continued(self) -> PreviousBackup | None:
        """Return the previous backup if the database continues it, else None."""
        return None if self.decision.starts_timeline else self.previous


class Log(NamedTuple):
    """The transactions that a dump can be truncated to, and the oldest of them (None: the first)."""

    transactions: Chain[Transactions]
    start: str | None


class SqlCapture:
    """Copies what was decided; see ``Capture``."""

    method: Literal["native", "transactions"] = "native"
    experimental = False

    def __init__(
        self, surveyed: Surveyed, sink: Sink, checkpointer: Checkpointer, progress: Progress
    ) -> None:
        schema, options = surveyed.schema, surveyed.options
        self.surveyed, self.schema = surveyed, schema
        self.sink, self.checkpointer, self.progress = sink, checkpointer, progress
        self.folder = folder_of(schema.database.name)
        # not the start of the run: the newest commit of a busy site is later than that
        captured = clock.now()
        self._notes = RunNotes(sink, checkpointer, _first_notes(surveyed))
        self._blobs: SqlBlobs | None = None
        if options.blobs and schema.blobs.are_outside:
            packer = Packer(sink, self.folder, captured, progress)
            self._blobs = SqlBlobs(
                schema.blobs.source(), sink, packer, captured, options, checkpointer, self._notes
            )
        elif options.blobs and schema.database.blob_mode == "none":
            self._require_no_blobs()

    def _require_no_blobs(self) -> None:
        """Raise ConfigurationError for the first blob that is not in the database."""
        name = self.schema.database.name
        for blob in self.schema.blobs.lost():
            which = f"OID {tids.to_hex(blob.oid)}, TID {tids.to_hex(blob.tid)}"
            raise ConfigurationError(
                [
                    f"{name} refers to blobs that are not in the database ({which}), no blob directory "
                    "is known"
                ],
                "name it with blob-dir in the configuration; `--only storage` leaves the blobs out",
            )

    def close(self) -> None:
        """Free everything."""
        if self._blobs is not None:
            self._blobs.close()

    @property
    def expected(self) -> int | None:
        """Return None: the size of a dump is not known before."""
        return None

    def stored(self) -> StoredProgress:
        """Return what has been stored so far."""
        return self._notes.stored()

    def copy_storage(self) -> SqlBlobCapture:
        """Dump the database, and list the blobs that the same snapshot references."""
        if self.schema.rows.align():
            self.surveyed = self.surveyed.survey_again()
        entry, transactions = self._entry()
        dumped = self._dump() if self.surveyed.options.storage else None
        keys = self._list_blobs(self._blobs) if self._blobs is not None else None
        lost = self._lost_blobs(dumped)
        log = self._log()
        marks = store_marks(self.schema.rows, self.schema.current_table(self.surveyed.state), self.sink)
        versions = self.schema.rows.versions
        self.schema.rows.release()
        if dumped is not None:
            storage = self._storage(dumped, log, transactions=transactions, marks=marks, versions=versions)
            warnings = [*entry.warnings, *dumped.warnings]
            entry = msgspec.structs.replace(entry, storage=storage, warnings=warnings)
        captured = Captured(
            entry=msgspec.structs.replace(entry, pack_tid=log.start),
            decision=self.surveyed.decision,
            continues=self.surveyed.previous is not None,
            software=versions | package_version(self.schema.package),
        )
        return SqlBlobCapture(captured, self.schema, self._blobs, self.sink, BlobsInside(lost, keys))

    def _dump(self) -> StoredDump:
        with Workers(self.surveyed.options.workers, self.checkpointer.heartbeat) as workers:
            return self.dump(workers)

    def dump(self, workers: Workers) -> StoredDump:
        """Store a dump of the snapshot."""
        return self.schema.rows.dump(self.sink, self.folder, workers, self.checkpointer, self.progress)

    # what the snapshot holds

    def _entry(self) -> tuple[DatabaseEntry, int | None]:
        """Return the entry of the manifest without dump and blobs, and the number of transactions."""
        schema, state = self.schema, self.surveyed.state
        database, last, continued = schema.database, state.last_tid, self.surveyed.continued
        total, added = schema.count_transactions(state, continued.entry.last_tid if continued else None)
        mismatch = schema.history_mismatch(state)
        entry = DatabaseEntry(
            name=database.name,
            folder=self.folder,
            mount_point=database.mount_point,
            backend=database.backend,
            method=self.method,
            history=state.history,
            blob_mode=database.blob_mode,
            layout=schema.blobs.layout,
            first_tid=schema.first_tid(state),
            pack_tid=None,
            last_tid=last,
            last_time=tids.iso(tids.from_hex(last)) if last else None,
            storage=None,
            blobs=None,
            transactions_added=added,
            experimental=self.experimental,
            warnings=[*database.warnings, *([mismatch] if mismatch else [])],
        )
        return entry, total

    def _list_blobs(self, blobs: SqlBlobs) -> str | None:
        """List the blobs that the snapshot references; return the document of unusual keys, if there are any.

        If the previous backup and the new blobs together have as many blobs as the snapshot, then none was
        removed, and only the new ones are listed.
        """
        continued, forced = self.surveyed.continued, self.surveyed.options.forced
        known = continued.entry.blobs if continued and not forced else None
        if continued is not None and known is not None and not known.missing.count:
            new = list(self.schema.blobs.outside(continued.entry.last_tid))
            packs = packs_of(continued.entry, self.sink)
            if known.count + len(new) == self.schema.blobs.count_outside() and not any(
                pack.future for pack in packs
            ):
                blobs.take_whole(continued)
                blobs.refs.add(new)
                return self.schema.blobs.unusual_keys(self.sink)
        blobs.refs.add(self.schema.blobs.outside(None))
        if self.surveyed.previous is not None and not forced:
            blobs.take_referenced(self.surveyed.previous, self.surveyed.decision)
        if self.surveyed.interrupted is not None:
            blobs.adopt(self.surveyed.interrupted.stored)
        return self.schema.blobs.unusual_keys(self.sink)

    def _lost_blobs(self, dumped: StoredDump | None) -> list[MissingBlob]:
        """Return the blobs that the database should have and has lost; raise BlobsMissing for too many."""
        schema, options = self.schema, self.surveyed.options
        if not options.blobs or schema.database.blob_mode not in ("database", "database+s3"):
            return []
        lost = [MissingBlob(blob, schema.blobs.table) for blob in schema.blobs.lost()]
        lost += dumped.missing if dumped else []
        where = f"the table {schema.blobs.table}"
        limit_missing([one.blob for one in lost], 0, options.allow_missing, where)
        return lost

    def _log(self) -> Log:
        """List the transactions that the dump can be truncated to: without history only the last one."""
        rows, state = self.schema.rows, self.surveyed.state
        revisions = rows.revisions
        # what the configuration says counts: tables of an earlier history may still be there
        keeps_history = state.history and self.schema.database.history is not False
        if not keeps_history or revisions is None or state.last_tid is None:
            return Log(Chain(Transactions, self.sink), state.last_tid)
        continued = self.surveyed.continued
        known = continued.entry if continued else None
        start = start_of(revisions, rows, self.sink, known, state.last_tid)
        options = self.surveyed.options
        if known is not None and (options.forced or is_damaged_dump(known, self.sink, options.damaged)):
            known = None
        heartbeat = self.checkpointer.heartbeat
        return Log(log_since(revisions, rows, self.sink, self.folder, known, heartbeat), start)

    def _storage(self, dumped: StoredDump, log: Log, **more: Any) -> Dump:
        chain = Chain(Part, self.sink, (), dumped.parts).with_short_tail()
        return dumped.storage(
            size=sum(part.raw for part in dumped.parts),
            lists=chain.lists,
            tail=chain.tail,
            tables=dumped.tables,
            log_lists=log.transactions.lists,
            log=log.transactions.tail,
            **more,
        )


class BlobsInside(NamedTuple):
    """What is known before a blob is copied: the lost ones, and the document of unusual keys."""

    lost: list[MissingBlob]
    keys: str | None


class SqlBlobCapture:
    """A database that is dumped, and its blobs outside, which are not copied; see ``BlobCapture``."""

    def __init__(
        self,
        captured: Captured,
        schema: StorageSchema,
        blobs: SqlBlobs | None,
        sink: Sink,
        known: BlobsInside,
    ) -> None:
        self._captured, self._schema, self._blobs = captured, schema, blobs
        self._sink, self._known = sink, known

    def copy_blobs(self) -> Captured:
        """Copy the blobs that no earlier backup has.

        Raise SourceChanged when a pack removed some of them, BlobsMissing.
        """
        entry, lost = self._captured.entry, self._known.lost
        if self._blobs is None:
            none = Blobs(count=0, size=0, lists=[], tail=[], missing=note_missing(self._sink, lost))
            entry = msgspec.structs.replace(entry, blobs=none if lost else None)
            return msgspec.structs.replace(self._captured, entry=entry)
        self._blobs.copy(self._schema.blobs.still_references)
        packed = self._blobs.packed
        entry = msgspec.structs.replace(
            entry,
            blobs=msgspec.structs.replace(self._blobs.result(lost), keys=self._known.keys),
            blobs_added=packed.added,
            warnings=[*entry.warnings, *packed.warnings(), *packed.findings],
        )
        return msgspec.structs.replace(self._captured, entry=entry, findings=packed.findings)


def package_version(package: str) -> dict[str, str]:
    """Return the version of a package by its name, nothing when it is not installed."""
    from importlib import metadata

    try:
        return {package: metadata.version(package)}
    except metadata.PackageNotFoundError:
        return {}


def _first_notes(surveyed: Surveyed) -> StoredProgress:
    """Return the notes to begin with: the packs that an interrupted run stored, which this one uses again."""
    previous, interrupted = surveyed.previous, surveyed.interrupted
    return StoredProgress(
        database=surveyed.schema.database.name,
        parent=previous.id if previous else None,
        keep=0,
        packs=interrupted.stored.packs if interrupted else [],
    )
