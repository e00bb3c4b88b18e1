"""The method ``transactions``: a dump as a base, then deltas of what was committed since and of what is left; see ``delta``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any

import msgspec

from ...errors import Damage
from ...model import canonical
from ...model.capture import PreviousBackup
from ...model.chain import Chain, deltas_of
from ...model.manifest import DatabaseEntry, Delta, DeltaBase, Dump, Part, PgDump, PgTransactions, RowFile
from ...policy.continuity import Decision
from ...policy.deltas import DeltaFacts, decide_delta
from ...runtime import clock
from ...runtime.workers import Workers
from ..sql.capture import SqlCapture
from ..sql.snapshot import StoredDump
from .delta import Changes, State
from .delta_script import script_of
from .snapshot import Postgres
from .tables import layout_of

SCRIPT = "deltas.sql"


class TransactionsCapture(SqlCapture):
    """Copies a database as a delta over an earlier dump where that is possible, else as a new dump."""

    def decide(self) -> Decision:
        """Return how this backup is made, and why."""
        dumped = super().decide()
        layout = layout_of(self.database.backend, self.history)
        self.changes = Changes(self._postgres, layout, self.last_tid, self._tick) if layout else None
        self.decision = decide_delta(self._facts(dumped))
        return self.decision

    @property
    def _postgres(self) -> Postgres:
        assert isinstance(self.rows, Postgres)
        return self.rows

    def _tick(self) -> None:
        self.keeper.beat()

    def _facts(self, dumped: Decision) -> DeltaFacts:
        plain = DeltaFacts(decision=dumped, parent=self.earlier.id if self.earlier else None, now=self.now)
        if self.earlier is None or self.wishes.forced or dumped.starts_timeline:
            return plain
        if self.changes is None:
            return msgspec.structs.replace(plain, unsupported="its tables are not known well enough")
        try:
            before = self._before
        except Damage as error:
            return msgspec.structs.replace(
                plain, parent_problem=f"backup {self.earlier.id} cannot be continued, {error.message}"
            )
        if before is None:
            return msgspec.structs.replace(
                plain, parent_problem=f"backup {self.earlier.id} is none that deltas go on from"
            )
        return self._compared_with(before, self.changes.since(before), self.earlier, plain)

    def _compared_with(
        self, before: State, changes: Changes, earlier: PreviousBackup, plain: DeltaFacts
    ) -> DeltaFacts:
        difference = changes.state.unlike(before)
        deltas, base = deltas_of(earlier.entry, self.documents), _base_of(earlier)
        return msgspec.structs.replace(
            plain,
            difference=difference,
            unsupported=changes.unsuited(before),
            backdated=changes.added(before) if difference is None else None,
            future=before.future,
            deltas=len(deltas),
            deltas_stored=deltas.stored,
            base_stored=base.stored,
            base_created=clock.parse(base.created_at),
        )

    @cached_property
    def _before(self) -> State | None:
        """Return the state that the backup before left, None when it is none to go on from."""
        entry = self.earlier.entry if self.earlier else None
        if entry is None or not isinstance(entry.dump, PgDump) or entry.dump.state is None:
            return None
        if (
            entry.blobs is not None
            and entry.blobs.missing.count
            and self._postgres.blobs_are_large_objects
            and not self.copies_blobs
        ):
            return None  # of large objects that come back no delta would know
        return msgspec.json.decode(self.documents.document(entry.dump.state), type=State)

    # copying

    def _dump(self, workers: Workers) -> StoredDump:
        if self.changes is None:
            return super()._dump(workers)
        if self.decision.how == "full":
            dumped = super()._dump(workers)
            return msgspec.structs.replace(
                dumped, storage=partial(dumped.storage, state=self._stored_state(self.changes))
            )
        assert self.earlier is not None and self._before is not None
        return self._delta(self.changes, self.earlier, self._before)

    def _stored_state(self, changes: Changes) -> str:
        return self.sink.put_document(canonical.encode(changes.state)).meta

    def _delta(self, changes: Changes, earlier: PreviousBackup, before: State) -> StoredDump:
        entry = earlier.entry
        known = entry.dump if isinstance(entry.dump, PgTransactions) else None
        sequences = changes.sequences()
        new = changes.delta(self.sink, self.folder)
        live = list(self._live(changes, before, known))
        whole = changes.copied_whole(self.sink, self.folder, known.whole if known else [])
        count, lost = self._postgres.large_objects_named()
        build = partial(
            self._built,
            changes=changes,
            earlier=earlier,
            chain=deltas_of(entry, self.sink).extended([new] if new.parts else []),
            live=live,
            whole=whole,
            large_objects=count,
            sequences=sequences,
        )
        return StoredDump(storage=build, parts=[], tables=_rows(changes, whole), missing=lost)

    def _live(self, changes: Changes, before: State, known: PgTransactions | None) -> Iterator[RowFile]:
        """Yield the keys that are left: of sets always, of revisions when some are gone, now or since the base."""
        for one in changes.layout.keyed:
            files = [file for file in known.live if file.table == changes.name(one.name)] if known else []
            if one.kind == "set":
                yield from changes.objects_left(one, self.sink, self.folder, files)
            else:
                yield from (
                    changes.keys_left(one, self.sink, self.folder) if changes.packed(one, before) else files
                )

    # the result

    def _built(self, *, changes: Changes, earlier: PreviousBackup, chain: Chain[Delta], **given: Any) -> Dump:
        """Return what the manifest says of base and deltas, with the script that puts them together."""
        dump, base = earlier.entry.dump, _base_of(earlier)
        assert isinstance(dump, PgDump)
        sealed = chain.with_short_tail()
        given |= {
            "lists": dump.lists,
            "tail": dump.tail,
            "size": Chain(Part, self.sink, dump.lists, dump.tail).raw + chain.raw,
        }
        built = PgTransactions(
            **given,
            base=base,
            delta_lists=sealed.lists,
            deltas=sealed.tail,
            derived=changes.derived,
            keys=changes.state.keys,
            encoding=changes.encoding,
            state=self._stored_state(changes),
            script=[],
        )
        writer = self.sink.content(f"{self.folder}/{SCRIPT}")
        writer.write(script_of(self.database.backend, self.history, built, chain))
        return msgspec.structs.replace(built, script=writer.close())

    def entry(self) -> DatabaseEntry:
        """Return what the manifest says of this database."""
        return msgspec.structs.replace(super().entry(), method="transactions", experimental=True)


def _rows(changes: Changes, whole: list[RowFile]) -> dict[str, int]:
    """Return how many rows each table has when it is restored."""
    keyed = {table: int(sums["rows"]) for table, sums in changes.state.keys.items()}
    return keyed | {file.table: file.rows for file in whole} | dict.fromkeys(changes.derived, 0)


def _base_of(earlier: PreviousBackup) -> DeltaBase:
    """Return the base of the deltas that go on from a backup: its own, or itself."""
    dump = earlier.entry.dump
    assert isinstance(dump, PgDump)
    if isinstance(dump, PgTransactions):
        return dump.base
    stored = sum(ref.stored for ref in dump.lists) + sum(part.stored for part in dump.tail)
    return DeltaBase(
        id=earlier.id,
        created_at=clock.iso(earlier.captured),
        last_tid=earlier.entry.last_tid,
        stored=stored,
        tables=dump.tables,
        large_objects=dump.large_objects,
        versions=dump.versions,
    )
