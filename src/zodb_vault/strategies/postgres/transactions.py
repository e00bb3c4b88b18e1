"""The method ``transactions``: a dump as a base, then deltas of what was committed and removed since."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import msgspec

from ...errors import Damage
from ...model import canonical
from ...model.capture import PreviousBackup
from ...model.chain import Chain, deltas_of, is_damaged_dump
from ...model.manifest import Delta, DeltaBase, Dump, Part, PgDump, PgTransactions, RowFile
from ...policy.deltas import DeltaFacts, decide_delta
from ...policy.full_or_incremental import Decision
from ...runtime import clock
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Checkpointer, Sink, SurveyContext
from ..sql.capture import SqlCapture, Surveyed
from ..sql.schema import StorageSchema
from ..sql.snapshot import StoredDump
from ..sql.survey import SqlSurvey
from .delta import Changes, DeltaWriter
from .delta_script import script_of
from .delta_state import DatabaseState, SnapshotTables
from .snapshot import Postgres
from .tables import TablesOf

SCRIPT = "deltas.sql"


class KnownState(NamedTuple):
    """The state that the previous backup stored, None when no delta can continue it.

    ``problem`` says why it cannot be read.
    """

    state: DatabaseState | None
    problem: str | None = None


class TransactionsSurvey(SqlSurvey):
    """Survey a database that is copied as a delta to an earlier dump if possible, else as a new dump."""

    def __init__(self, schema: StorageSchema, context: SurveyContext, tables_of: TablesOf) -> None:
        super().__init__(schema, context)
        self._tables_of = tables_of
        self._before = self._known_state()
        self.tables = self._tables()
        self.changes = self._changes()

    def inspect(self) -> None:
        """Read the state again, after another snapshot was taken."""
        super().inspect()
        self.tables = self._tables()
        self.changes = self._changes()

    @property
    def _server(self) -> Postgres:
        assert isinstance(self.rows, Postgres)
        return self.rows

    def _tables(self) -> SnapshotTables:
        return SnapshotTables(self._server, self._tables_of(self.state.history), self.state.last_tid)

    def _changes(self) -> Changes | None:
        before = self._before.state
        return Changes(self.tables, before) if before is not None else None

    def _known_state(self) -> KnownState:
        entry = self.previous.entry if self.previous else None
        if entry is None or not isinstance(entry.dump, PgDump) or entry.dump.state is None:
            return KnownState(None)
        lost = entry.blobs is not None and entry.blobs.missing.count
        chunks = self._tables_of(self.state.history).chunks
        if lost and chunks is not None and not self.schema.blobs.are_outside:
            return KnownState(None)  # a lost large object that comes back is in no delta
        try:
            document = self.documents.document(entry.dump.state)
            state = canonical.decode(document, DatabaseState, f"the state {entry.dump.state}")
        except Damage as error:
            return KnownState(None, error.message)
        return KnownState(state)

    def decide(self) -> Decision:
        """Return how this backup is made, and why."""
        return decide_delta(self._facts(self.continuity()))

    def _facts(self, dumped: Decision) -> DeltaFacts:
        previous, changes = self.previous, self.changes
        plain = DeltaFacts(decision=dumped, parent=previous.id if previous else None, now=self.now)
        if previous is None or self.options.forced or dumped.starts_timeline:
            return plain
        if changes is None:
            problem = self._before.problem
            why = f"cannot be continued, {problem}" if problem else "is none that deltas go on from"
            return msgspec.structs.replace(plain, parent_problem=f"backup {previous.id} {why}")
        if is_damaged_dump(previous.entry, self.documents, self.options.damaged):
            why = f"backup {previous.id} needs damaged objects"
            return msgspec.structs.replace(plain, parent_problem=why)
        difference = self.tables.state.difference(changes.before)
        deltas, base = deltas_of(previous.entry, self.documents), _base_of(previous)
        return msgspec.structs.replace(
            plain,
            difference=difference,
            unsupported=changes.unsuited(),
            backdated=changes.added() if difference is None else None,
            future=changes.before.future,
            deltas=len(deltas),
            deltas_stored=deltas.stored,
            base_stored=base.stored,
            base_created=clock.parse(base.created_at),
        )

    def begin(
        self, decision: Decision, sink: Sink, checkpointer: Checkpointer, progress: Progress
    ) -> SqlCapture:
        """Return what copies the database as it was decided."""
        surveyed = self._surveyed(decision)
        if decision.how == "incremental" and self.changes is not None and self.previous is not None:
            return DeltaCapture(surveyed, self.changes, self.previous, sink, checkpointer, progress)
        return BaseCapture(surveyed, self.tables, sink, checkpointer, progress)


class BaseCapture(SqlCapture):
    """Copies a database as a dump that later backups add deltas to."""

    method, experimental = "transactions", True

    def __init__(
        self,
        surveyed: Surveyed,
        tables: SnapshotTables,
        sink: Sink,
        checkpointer: Checkpointer,
        progress: Progress,
    ) -> None:
        super().__init__(surveyed, sink, checkpointer, progress)
        self._tables = tables

    def dump(self, workers: Workers) -> StoredDump:
        """Store a dump, and the state by which the next run recognises the database."""
        dumped = super().dump(workers)
        state = store_state(self._tables, self.sink)
        return msgspec.structs.replace(dumped, storage=partial(dumped.storage, state=state))


class DeltaCapture(SqlCapture):
    """Copies what was committed since the previous backup, and which rows are left."""

    method, experimental = "transactions", True

    def __init__(
        self,
        surveyed: Surveyed,
        changes: Changes,
        previous: PreviousBackup,
        sink: Sink,
        checkpointer: Checkpointer,
        progress: Progress,
    ) -> None:
        super().__init__(surveyed, sink, checkpointer, progress)
        self._changes, self._previous = changes, previous
        self._writer = DeltaWriter(changes, sink, self.folder, checkpointer.heartbeat)

    def dump(self, workers: Workers) -> StoredDump:
        """Store a delta in place of a dump."""
        entry, tables = self._previous.entry, self._changes.tables
        known = entry.dump if isinstance(entry.dump, PgTransactions) else None
        sequences = tables.sequences()
        new = self._writer.delta()
        live = list(self._live(known))
        whole = self._writer.copied_whole(known.whole if known else [])
        count, lost = tables.server.large_objects_named()
        build = partial(
            self._built,
            chain=deltas_of(entry, self.sink).extended([new] if new.parts else []),
            live=live,
            whole=whole,
            large_objects=count,
            sequences=sequences,
        )
        return StoredDump(storage=build, parts=[], tables=_row_counts(tables, whole), missing=lost)

    def _live(self, known: PgTransactions | None) -> Iterator[RowFile]:
        """Yield the keys that are left.

        Those of sets always, those of revisions after a pack: of now, or of an earlier delta.
        """
        tables = self._changes.tables
        for one in tables.storage.keyed:
            files = [file for file in known.live if file.table == tables.name(one.name)] if known else []
            if one.kind == "set":
                yield from self._writer.objects_left(one, files)
            elif self._changes.packed(one):
                yield from self._writer.keys_left(one)
            else:
                yield from files

    def _built(self, *, chain: Chain[Delta], **given: Any) -> Dump:
        """Return what the manifest says of base and deltas, with the script that applies them."""
        dump, tables = self._previous.entry.dump, self._changes.tables
        assert isinstance(dump, PgDump)
        shortened = chain.with_short_tail()
        given |= {
            "lists": dump.lists,
            "tail": dump.tail,
            "size": Chain(Part, self.sink, dump.lists, dump.tail).raw + chain.raw,
        }
        built = PgTransactions(
            **given,
            base=_base_of(self._previous),
            delta_lists=shortened.lists,
            deltas=shortened.tail,
            derived=tables.derived,
            keys=tables.state.keys,
            encoding=tables.encoding,
            state=store_state(tables, self.sink),
            script=[],
        )
        writer = self.sink.content(f"{self.folder}/{SCRIPT}")
        writer.write(script_of(tables.storage, built, chain))
        return msgspec.structs.replace(built, script=writer.close())


def store_state(tables: SnapshotTables, sink: Sink) -> str:
    """Store the state by which the next run recognises the database; return the name of the document."""
    return sink.put_document(canonical.encode(tables.state)).meta


def _row_counts(tables: SnapshotTables, whole: list[RowFile]) -> dict[str, int]:
    """Return how many rows each table has when it is restored."""
    keyed = {table: int(sums["rows"]) for table, sums in tables.state.keys.items()}
    return keyed | {file.table: file.rows for file in whole} | dict.fromkeys(tables.derived, 0)


def _base_of(previous: PreviousBackup) -> DeltaBase:
    """Return the base of the deltas that go on from a backup: its own, or the backup itself."""
    dump = previous.entry.dump
    assert isinstance(dump, PgDump)
    if isinstance(dump, PgTransactions):
        return dump.base
    stored = sum(ref.stored for ref in dump.lists) + sum(part.stored for part in dump.tail)
    return DeltaBase(
        id=previous.id,
        created_at=clock.iso(previous.captured),
        last_tid=previous.entry.last_tid,
        stored=stored,
        tables=dump.tables,
        large_objects=dump.large_objects,
        versions=dump.versions,
    )
