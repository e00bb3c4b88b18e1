"""A random history with a repository: backups, restores, returns and killed runs, all known to the model.

``Vaulted(directory, seed)`` owns a ``random_histories.History`` and a clock for both ZODB and zodb_vault, so
that a seed always gives the same history. ``check`` restores the backups and compares them with the model and
the files of their time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import independent_reader
import pytest
import random_histories
import ZODB.BaseStorage
from ZODB.TimeStamp import TimeStamp

from zodb_vault.blobs.packs import pack_members
from zodb_vault.cli.progress import Silent
from zodb_vault.datafs.index import write_index
from zodb_vault.errors import TargetAmbiguous, TargetMissing
from zodb_vault.model import chain
from zodb_vault.model import tid as tids
from zodb_vault.model.chain import Chain, packs_of, segments_of
from zodb_vault.model.manifest import DatabaseEntry, Manifest, Pack, Segment
from zodb_vault.model.source import Database, Site
from zodb_vault.operations.catalog import Catalog, stored_size
from zodb_vault.operations.create import resume
from zodb_vault.operations.create import run as create
from zodb_vault.operations.create.options import CreateOptions
from zodb_vault.operations.restore import run as restore
from zodb_vault.operations.restore.targets import RestoreTarget, resolve
from zodb_vault.operations.verify.options import VerifyOptions
from zodb_vault.operations.verify.run import verify
from zodb_vault.policy.recovery import AtTimestamp, BeforeTid, Request, ToTid
from zodb_vault.repository import markers, objects
from zodb_vault.repository.labels import Level
from zodb_vault.repository.repository import Repository
from zodb_vault.runtime import clock
from zodb_vault.stores.local import LocalStore
from zodb_vault.strategies.blobs import compaction, directory_restore, packer
from zodb_vault.strategies.filestorage import cut, segments
from zodb_vault.strategies.filestorage.restore import index as indexing

START = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
SITE = "default"
DATABASE = "main"
DAY = 86_400.0
Blobs = dict[tuple[bytes, bytes], str]


class Killed(BaseException):
    """What ends a run in the middle: nothing may catch it, and nothing of the run works any more."""


class Clock:
    """The time: it moves whenever it is read.

    ZODB's can be ``ahead``; ``at_tick`` makes its TIDs whole seconds that repeat after ``rewind``.
    """

    def __init__(self) -> None:
        self.seconds = START
        self.ahead = 0.0
        self.tick: float | None = None

    def now(self) -> datetime:
        """Return the time for zodb_vault."""
        self.seconds += 0.001
        return datetime.fromtimestamp(self.seconds, UTC)

    def time(self) -> float:
        """Return the time for ZODB."""
        if self.tick is not None:
            self.tick += 1.0
            return self.tick
        self.seconds += 0.037
        return self.seconds + self.ahead

    def rewind(self, tid: bytes) -> None:
        """Let ZODB's ticks continue after a transaction."""
        if self.tick is not None:
            self.tick = float(int(TimeStamp(tid).timeTime()) + 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class RecordedInput(io.BytesIO):
    """A standard input that can be read when it has been closed."""

    def close(self) -> None:
        """Keep everything."""


class InProcess:
    """Replaces ``subprocess``: writes the index of a Data.fs in this process, which is much faster."""

    DEVNULL = PIPE = None

    class Popen:
        """The one program that is run, once it has all its input."""

        def __init__(self, command: list[str], **_streams: Any) -> None:
            self._index, self._killed = Path(command[-1]), False
            self.stdin, self.returncode = RecordedInput(), 0

        def kill(self) -> None:
            """Let it end without having done anything."""
            self._killed = True

        def wait(self) -> None:
            """Do what it does."""
            if not self._killed:
                self.stdin.seek(0)
                write_index(self.stdin, self._index)


class Mortal:
    """A store whose nth write kills the run, before or after it is done.

    Afterwards every write fails, unless it is to fail ``once``.
    """

    def __init__(self, store: LocalStore, left: int, after: bool, once: bool) -> None:
        self._store, self._left, self._after, self._once = store, left, after, once

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return self.mortal(found) if name in ("put", "stage", "replace", "delete") else found

    def mortal(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if (self._left < 0 and not self._once) or (self._left == 0 and not self._after):
                raise Killed
            done = call(*arguments, **options)
            if self._left == 0:
                raise Killed
            return _MortalStaging(self, done) if call.__name__ == "stage" else done

        return called


class _MortalStaging:
    """Content under way: giving it its key is a call of the store."""

    def __init__(self, mortal: Mortal, staging: Any) -> None:
        self._staging = staging
        self.write, self.discard = staging.write, staging.discard
        self.store = mortal.mortal(staging.store)


class Saved(NamedTuple):
    """A backup as the model knows it: the files when it was made, and what can be restored of it.

    ``states`` holds all transactions of the line, ``valid`` those of them that this backup can bring back.
    """

    id: str
    trigger: str
    data: bytes
    ends: dict[bytes, int]
    blobs: Blobs
    valid: list[bytes]
    states: dict[bytes, random_histories.State]
    model: tuple[dict[bytes, Any], dict[bytes, Any], list[bytes]]


SMALL_LIMITS: list[tuple[Any, str, int]] = [
    (cut, "SEGMENT_LIMIT", 12_000),
    (segments, "SEGMENT_LIMIT", 12_000),
    (compaction, "SMALL", 4000),
    (compaction, "NEIGHBOURS", 3),
    (packer, "PACK_LIMIT", 14_000),
    (chain, "TAIL_LIMIT", 5),
    (chain, "TAIL_KEPT", 2),
    (chain, "LIST_LIMIT", 4),
    (objects, "PART_RAW", 3000),
    (segments, "CHUNK", 1000),
    (packer, "CHUNK", 700),
    (compaction, "REWRITE_BYTES", 30_000),
]
# so small that hardly anything is compacted, and everything soon goes into lists
MANY_LISTS: list[tuple[Any, str, int]] = [
    (cut, "SEGMENT_LIMIT", 1500),
    (compaction, "SMALL", 60),
    (packer, "PACK_LIMIT", 2000),
    (chain, "TAIL_LIMIT", 3),
    (chain, "TAIL_KEPT", 1),
    (chain, "LIST_LIMIT", 4),
]


class Vaulted:
    """A site, its history, its repository, and the model of all three."""

    def __init__(self, directory: Path, seed: int, patch: pytest.MonkeyPatch) -> None:
        self.directory, self.patch = directory, patch
        self.random = random.Random(f"vaulted {seed}")
        self.clock, self.process = Clock(), 0
        self.saved: list[Saved] = []
        self.log: list[str] = []
        self.events: dict[str, int] = {}
        self.lost_track = self.returned = self.by_hand = False
        self.repeating = self.random.random() < 0.15
        self.limits = self.random.choice(["normal", "small", "tiny", "lists"])
        self.workers = self.random.choice([1, 2])
        self._patch()
        self.store = LocalStore(directory / "repository")
        self.repository = Repository.create(self.store)
        site = directory / "site"
        site.mkdir(parents=True)
        self.history = random_histories.History(site, seed)
        self.site = Site(
            name=SITE,
            config=None,
            databases=(
                Database(
                    name=DATABASE,
                    backend="filestorage",
                    mount_point="/",
                    data_fs=str(site / "Data.fs"),
                    blob_dir=str(site / "blobs"),
                ),
            ),
        )

    def _patch(self) -> None:
        self.patch.setattr(clock, "now", self.clock.now)
        for module in (ZODB.BaseStorage, sys.modules["ZODB.FileStorage.FileStorage"], random_histories):
            self.patch.setattr(module, "time", self.clock)
        # what makes durable has tests of its own; here it would only cost time
        self.patch.setattr(os, "fsync", lambda _fd: None)
        self.patch.setattr(directory_restore, "sync_file_system", lambda _path: None)
        self.patch.setattr(indexing, "subprocess", InProcess)
        self.patch.setattr(markers, "process_identity", lambda _pid: f"boot/space/{self.process}")
        for module, name, value in SMALL_LIMITS if self.limits != "normal" else []:
            self.patch.setattr(module, name, value // 4 if value > 100 and self.limits == "tiny" else value)
        for module, name, value in MANY_LISTS if self.limits == "lists" else []:
            self.patch.setattr(module, name, value)
        if self.repeating:
            self.clock.tick = START + 30 * DAY

    def close(self) -> None:
        """Close the storage."""
        self.history.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What happens

    def step(self) -> None:
        """Let something happen: mostly to the site, sometimes to its backups."""
        self.clock.seconds += self.random.choice([0.2, 3, 100])
        actions: list[tuple[Callable[[], object], int]] = [
            (self.history_step, 24),
            (self.backup, 6),
            (self.backup_pending, 1),
            (self.interrupted, 3),
            (self.restore_in_place, 1),
            (self.put_back_by_hand, 1),
            (self.restore_abandoned, 1),
            (self.time_passes, 1),
        ]
        action = self.random.choices([action for action, _ in actions], [weight for _, weight in actions])[0]
        self.log.append(action.__name__)
        action()

    def history_step(self) -> None:
        """Let the site change."""
        operation = None
        if self.by_hand and not self.repeating:
            # A pack right after an unnoticed return to an older state looks like a pack of the old timeline.
            operation = self.random.choice(["commit", "several", "changed_blob", "new_blob", "undo"])
        name = self.history.step(operation)
        self.log[-1] += " " + name
        # it is unknown then which of the lost transactions a pack removed and which a restore discarded
        self.lost_track = self.lost_track or (self.returned and name.startswith("pack"))

    def time_passes(self) -> None:
        """Let the clock of zodb_vault pass all TIDs; they are never used again then."""
        if self.clock.tick is not None:
            self.clock.seconds = max(self.clock.seconds, self.clock.tick + 10)
            self.clock.tick, self.clock.ahead = None, 0.0
        self.clock.seconds += 3600

    def backup(self, **options: Any) -> Manifest:
        """Make a backup, and check what its manifest says."""
        before = self._sizes()
        seen = self._look()
        chosen = CreateOptions(workers=self.workers, full=self.random.random() < 0.05, **options)
        made = create.create(self.repository, self.site, chosen, Silent()).manifest
        self.clock.seconds += 2
        self._save(made, seen)
        self._check_sizes(made, before)
        self._check_joins(made)
        self._verify(made)
        return made

    def backup_pending(self) -> None:
        """Make a backup while a transaction is pending."""

        def once() -> None:
            self.history.when_pending = None
            self.backup()

        self.history.when_pending = once
        self.history_step()
        self.history.when_pending = None

    def interrupted(self) -> None:
        """Kill a create at some call of its store; the repository shows whether it had committed."""
        seen, known = self._look(), set(self.catalog().listing.backups)
        self.patch.setattr(resume, "CHECKPOINT_BYTES", self.random.choice([1, 5000, 1 << 30]))
        at, after, once = self.random.randrange(1, 24), self.random.random() < 0.5, self.random.random() < 0.5
        mortal = Repository(Mortal(self.store, at, after, once), self.repository.info)
        try:
            create.create(mortal, self.site, CreateOptions(workers=self.workers), Silent())
            self.log[-1] += " (it was done before)"
        except Killed:
            self._count("killed")
            self._count("left", sum(len(marker.stored) for marker, _ in self.catalog().markers.values()))
        self.process += 1
        self.clock.seconds += 2
        for new in set(self.catalog().listing.backups) - known:
            self._save(self.repository.manifest(SITE, new), seen)

    def restore_in_place(self) -> None:
        """Restore some transaction of the current timeline into the site, as the command does it."""
        if self.saved:
            self._restore_into_site(
                self.random.choice([one for one in self.saved if self._current(one)] or self.saved)
            )

    def restore_abandoned(self) -> None:
        """Restore some transaction of any backup into the site."""
        if self.saved:
            self._restore_into_site(self.random.choice(self.saved))

    def _restore_into_site(self, saved: Saved) -> None:
        tid = self.random.choice(saved.valid)
        self.history.close()
        seen = self._look()
        # A pack can remove every transaction of an old backup from a small site: it looks like another site.
        foreign = not set(seen.ends) & set(saved.ends)
        options = restore.RestoreOptions(
            backup=saved.id,
            request=ToTid(hex_of(tid)),
            workers=self.workers,
            safety_backup=self.random.random() < 0.5,
            replace_blobs=foreign,
        )
        plan = restore.plan(self.repository, SITE, self.site, options)
        done = restore.execute(self.repository, plan, SITE, Silent())
        self.clock.seconds += 2
        if done.safety_backup:
            self._save(self.repository.manifest(SITE, done.safety_backup), seen)
        self._go_on_from(saved, tid)
        self.by_hand = False
        random_histories.assert_state(self.history.data_fs, self.history.blob_dir, saved.states[tid])

    def put_back_by_hand(self) -> None:
        """Put an older state in the place of the site without a word to the repository."""
        if not self.saved:
            return
        saved = self.random.choice(self.saved)
        tid = self.random.choice(saved.valid)
        self.history.close()
        output = self._restored(saved, ToTid(hex_of(tid)))
        for name in ("Data.fs", "blobs"):
            old, new = self.directory / "site" / name, output / name
            shutil.rmtree(old) if old.is_dir() else old.unlink()
            new.rename(old)
        for leftover in (self.directory / "site").iterdir():
            if leftover.name not in ("Data.fs", "blobs"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        shutil.rmtree(output)
        self._go_on_from(saved, tid)
        self.by_hand = True

    def _go_on_from(self, saved: Saved, tid: bytes) -> None:
        self._count("returned")
        self.returned = True
        if not self._current(saved, tid):
            self.lost_track = True
        changes, snapshots, undos = saved.model
        self.history.states, self.history.changes = dict(saved.states), dict(changes)
        self.history.snapshots, self.history.undos = dict(snapshots), list(undos)
        self.clock.rewind(tid)
        self.log[-1] += f" {saved.id} {hex_of(tid)}"
        self.history.reset_to(self.history.data_fs, self.history.blob_dir, tid)

    def _current(self, saved: Saved, tid: bytes | None = None) -> bool:
        """Return whether a backup (up to a transaction) is the past of the site as it is."""
        limit = tid or saved.valid[-1]
        return all(
            self.history.states.get(one) is state for one, state in saved.states.items() if one <= limit
        )

    # What the model takes note of

    def catalog(self) -> Catalog:
        """Return the backups as they are now."""
        return Catalog(self.repository, SITE)

    def _count(self, event: str, number: int = 1) -> None:
        self.events[event] = self.events.get(event, 0) + number

    def _look(self) -> Saved:
        """Take note of the site as it is now."""
        data_fs, blob_dir = self.history.data_fs, self.history.blob_dir
        headers = [header for header in independent_reader.headers(data_fs) if header.status != "c"]
        data = data_fs.read_bytes()[: headers[-1].end]
        copy = self.directory / "copy.fs"
        copy.write_bytes(data)
        blobs = independent_reader.blob_files(copy, blob_dir)
        copy.unlink()
        assert independent_reader.MISSING not in blobs.values()
        packed = [number for number, header in enumerate(headers) if header.status == "p"]
        valid = [header.tid for header in headers[packed[-1] if packed else 0 :]]
        history = self.history
        model = (dict(history.changes), dict(history.snapshots), list(history.undos))
        return Saved(
            "",
            "",
            data,
            {header.tid: header.end for header in headers},
            blobs,
            valid,
            dict(history.states),
            model,
        )

    def _save(self, made: Manifest, seen: Saved) -> None:
        self.saved.append(seen._replace(id=made.id, trigger=made.trigger))
        self.log[-1] += (
            f" -> {made.id} {made.reason.code} {made.how} line "
            f"{[line.id[9:15] + ':' + str(line.until_tid) for line in made.timeline]}"
        )
        self._count(made.reason.code)
        assert made.status == "complete"
        # A pack can remove every transaction of the backups from a small site: then it begins a new history.
        self.lost_track = self.lost_track or (made.timeline[0].id == made.id and len(self.saved) > 1)
        if made.trigger != "safety":
            self.by_hand = self.returned = False

    def _sizes(self) -> dict[str, int]:
        return {
            entry.key: entry.size for prefix in ("objects/", "meta/") for entry in self.store.list(prefix)
        }

    # What must hold of a manifest

    def _check_sizes(self, made: Manifest, before: dict[str, int]) -> None:
        after = self._sizes()
        new = {key: size for key, size in after.items() if key not in before}
        assert made.added == sum(new.values()), (
            f"says that it added {made.added} bytes, not {sum(new.values())}"
        )
        for entry in made.databases:
            self._check_chains(entry, after)

    def _check_chains(self, entry: DatabaseEntry, sizes: dict[str, int]) -> None:
        documents = self.repository.objects("")
        assert entry.data_fs is not None
        assert entry.blobs is not None
        kept, packs = segments_of(entry, documents), packs_of(entry, documents)
        assert [segment.start for segment in kept] == [0, *(segment.end for segment in kept)][:-1]
        assert len(kept) == len(list(kept))
        assert len(packs) == len(list(packs))
        assert kept.raw == entry.data_fs.end == sum(segment.raw for segment in kept)
        assert entry.data_fs.transactions == sum(segment.transactions for segment in kept)
        assert (entry.blobs.count, entry.blobs.size) == (
            sum(p.count for p in packs),
            sum(p.size for p in packs),
        )
        assert max(len(entry.data_fs.tail), len(entry.blobs.tail)) <= chain.TAIL_LIMIT
        self._count("lists", len(kept.lists) + len(packs.lists))
        self._count("parts", sum(len(segment.parts) > 1 for segment in kept))
        assert stored_size(entry) == sum(_chain_size(one, sizes) for one in (kept, packs))

    def _check_joins(self, made: Manifest) -> None:
        """Note segments of the previous backup that were stored again as part of larger ones.

        Bytes that stayed in place remain stored once.
        """
        if len(self.saved) < 2 or made.reason.code not in ("continued", "unchanged"):
            return
        documents = self.repository.objects("")
        entries = [self.repository.manifest(SITE, one.id).databases[0] for one in self.saved[-2:]]
        old, new = ({segment.start for segment in segments_of(entry, documents)} for entry in entries)
        self._count("joined", len(old - new))
        old_packs, new_packs = ({pack.index.meta for pack in packs_of(entry, documents)} for entry in entries)
        self._count("rewritten", len(old_packs - new_packs))

    def _verify(self, made: Manifest) -> None:
        level: Level = "records" if self.random.random() < 0.4 else "objects"
        backup = self.catalog().backup(made.id)
        report = verify(
            self.repository, SITE, backup, VerifyOptions(level=level, workers=self.workers), Silent()
        )
        assert not report.damage
        assert not report.source

    # What must hold of the restored

    def check(self) -> None:
        """Restore every backup up to some transaction (in some histories one backup up to each of them).

        Look for every transaction without naming a backup.
        """
        self.history.close()
        thorough = self.random.choice(self.saved) if self.random.random() < 0.4 else None
        for saved in self.saved:
            self._check_content(saved)
            self._check_targets(saved)
            chosen = saved.valid if saved is thorough else self.random.sample(saved.valid, 1)
            for tid in chosen:
                self.check_restored(saved, ToTid(hex_of(tid)), tid)
            self._check_neighbours(saved)
        if self.saved and not self.repeating:
            self._check_line()

    def _check_content(self, saved: Saved) -> None:
        """Compare every stored byte of a backup with what the site had."""
        content = self.repository.objects("")
        entry = self.repository.manifest(SITE, saved.id).databases[0]
        parts = [part for segment in segments_of(entry, content) for part in segment.parts]
        assert b"".join(content.read(parts)) == saved.data, f"{saved.id}: the Data.fs is another one"
        blobs: Blobs = {}
        for pack in packs_of(entry, content):
            tar = b"".join(content.read(pack.parts))
            for row in pack_members(content, pack):
                data = tar[row.offset : row.offset + row.size]
                blobs[tids.from_hex(row.oid), tids.from_hex(row.tid)] = hashlib.sha256(data).hexdigest()
        assert {key: blobs.get(key) for key in saved.blobs} == saved.blobs, f"{saved.id}: blobs are others"
        assert blobs.keys() == saved.blobs.keys(), (
            f"{saved.id}: the packs list blobs that the storage does not refer to"
        )

    def _check_targets(self, saved: Saved) -> None:
        """Every transaction is a target from the last packed one on, and only these are."""
        catalog = self.catalog()
        order = list(saved.ends)
        for number, tid in enumerate(order):
            if tid in saved.valid:
                cut = resolve(catalog, saved.id, ToTid(hex_of(tid))).cuts[0]
                assert (cut.end, cut.last_tid, cut.dropped) == (
                    saved.ends[tid],
                    hex_of(tid),
                    len(order) - number - 1,
                )
            else:
                with pytest.raises(TargetMissing, match=hex_of(saved.valid[0])):
                    resolve(catalog, saved.id, ToTid(hex_of(tid)))

    def _check_neighbours(self, saved: Saved) -> None:
        """``--before-tid`` and ``--at`` in a named backup mean the transaction before."""
        number = self.random.randrange(len(saved.valid))
        tid = saved.valid[number]
        if number:
            before = saved.valid[number - 1]
            cut = resolve(self.catalog(), saved.id, BeforeTid(hex_of(tid))).cuts[0]
            assert (cut.end, cut.last_tid) == (saved.ends[before], hex_of(before))
            between = tids.to_datetime(before) + (tids.to_datetime(tid) - tids.to_datetime(before)) / 2
            assert resolve(self.catalog(), saved.id, AtTimestamp(between)).cuts[0].last_tid == hex_of(before)
        else:
            with pytest.raises(TargetMissing):
                resolve(self.catalog(), saved.id, BeforeTid(hex_of(tid)))
        # a time slightly after the TID itself: TIDs are finer than microseconds
        moment = tids.to_datetime(tid).replace(microsecond=0).timestamp() + 1
        exact = AtTimestamp(datetime.fromtimestamp(moment, UTC))
        with contextlib.suppress(TargetMissing):
            found = resolve(self.catalog(), saved.id, exact).cuts[0].last_tid
            assert found == hex_of(
                max(one for one in saved.valid if one <= TimeStamp(*_fields(moment)).raw())
            )

    def check_restored(self, saved: Saved, request: Request, tid: bytes, backup: str | None = "") -> None:
        """Restore into a directory, and compare every byte, every blob and what a Connection shows."""
        self._count("restored")
        output = self._restored(saved, request, saved.id if backup == "" else backup)
        data_fs, blob_dir = output / "Data.fs", output / "blobs"
        assert data_fs.read_bytes() == saved.data[: saved.ends[tid]]
        wanted = independent_reader.blob_files(data_fs, blob_dir)
        assert wanted == {key: saved.blobs[key] for key in wanted}
        assert len(list(blob_dir.rglob("*.blob"))) == len(wanted)
        random_histories.assert_state(data_fs, blob_dir, saved.states[tid])
        random_histories.assert_all_references_resolve(data_fs, blob_dir)
        shutil.rmtree(output)

    def _restored(self, saved: Saved, request: Request, backup: str | None = None) -> Path:
        output = self.directory / "output"
        options = restore.RestoreOptions(
            backup=backup or saved.id, request=request, output=output, workers=self.workers
        )
        plan = restore.plan(self.repository, SITE, None, options)
        assert plan.target.backup.manifest.id == saved.id
        restore.execute(self.repository, plan, SITE, Silent())
        return output

    def _check_line(self) -> None:
        """Without a backup named, transactions of the current timeline are found and no others."""
        known = {saved.id: saved for saved in self.saved}
        eligible = [saved for saved in self.saved if saved.trigger != "safety"]
        if not eligible:
            return
        newest, catalog = max(eligible, key=lambda saved: saved.id), self.catalog()
        try:
            assert resolve(catalog, None, None).backup.manifest.id == newest.id
        except TargetMissing:  # a new history that nobody has accepted: the user has to choose (T23)
            assert catalog.unaccepted_history() is not None
        for tid in sorted({tid for saved in self.saved for tid in saved.valid}):
            found = self._find(catalog, ToTid(hex_of(tid)))
            if isinstance(found, TargetMissing):
                self._check_refusal(found, tid, newest, eligible)
                continue
            if isinstance(found, TargetAmbiguous):  # two timelines have this TID: the user has to choose (P1)
                self._count("ambiguous")
                continue
            assert isinstance(found, RestoreTarget), found
            holder = known[found.backup.manifest.id]
            assert tid in newest.states, f"{hex_of(tid)} of an abandoned line was served from {holder.id}"
            assert holder.states[tid] == newest.states[tid]
            assert found.cuts[0].end == holder.ends[tid]
            self._check_before(catalog, tid, newest, known)

    def _check_refusal(
        self, refused: TargetMissing, tid: bytes, newest: Saved, eligible: list[Saved]
    ) -> None:
        self._count("refused")
        assert tid not in newest.valid, refused
        holders = [saved.id for saved in self.saved if tid in saved.valid]
        assert any(holder in refused.message for holder in holders), (refused, holders)
        line = list(newest.states)
        # A transaction without effect that a pack removed at the end of the file looks like a discarded one.
        without_effect = (
            tid in newest.states and newest.states[tid] == newest.states[line[max(0, line.index(tid) - 1)]]
        )
        if not self.lost_track and tid in newest.states and not without_effect:
            assert not [saved for saved in eligible if tid in saved.valid], (
                f"{hex_of(tid)} is on the current timeline: {refused}"
            )

    def _check_before(self, catalog: Catalog, tid: bytes, newest: Saved, known: dict[str, Saved]) -> None:
        line = sorted(newest.states)
        before = [one for one in line if one < tid]
        moment = tids.to_datetime(tid)
        until = [one for one in line if one <= tids.from_datetime(moment)]
        for request, expected in ((BeforeTid(hex_of(tid)), before[-1:]), (AtTimestamp(moment), until[-1:])):
            found = self._find(catalog, request)
            if isinstance(found, RestoreTarget):
                assert expected, f"{request} was found before the first transaction"
                # A pack can have removed a transaction without effect, but never the state after it.
                last = tids.from_hex(found.cuts[0].last_tid or "")
                assert newest.states[last] == newest.states[expected[0]], (
                    f"{request} is not {hex_of(expected[0])}"
                )
                assert found.cuts[0].end == known[found.backup.manifest.id].ends[last]
            elif isinstance(found, TargetAmbiguous):
                self._count("ambiguous")  # tests/property/test_timelines.py says when
            else:
                assert not (expected and expected[0] in newest.valid and tid in newest.valid), found

    def _find(self, catalog: Catalog, request: Request) -> RestoreTarget | TargetMissing | TargetAmbiguous:
        try:
            return resolve(catalog, None, request)
        except (TargetMissing, TargetAmbiguous) as error:
            return error


def _chain_size(one: Chain[Segment] | Chain[Pack], sizes: dict[str, int]) -> int:
    """Return the bytes that the files of everything in a chain have."""
    total = sum(sizes[objects.meta_key(ref.list)] for ref in one.lists)
    for entry in one:
        parts = [*entry.parts, *(entry.log if isinstance(entry, Segment) else [])]
        metas = [entry.tids] if isinstance(entry, Segment) else [entry.index]
        total += sum(sizes[objects.object_key(part.object)] for part in parts)
        total += sum(sizes[objects.meta_key(meta.meta)] for meta in metas if meta)
    return total


def _fields(seconds: float) -> tuple[int, int, int, int, int, float]:
    utc = time.gmtime(seconds)
    return utc.tm_year, utc.tm_mon, utc.tm_mday, utc.tm_hour, utc.tm_min, seconds % 60


def hex_of(tid: bytes) -> str:
    """Return a TID as commands print it."""
    return "0x" + tid.hex()


@contextlib.contextmanager
def vaulted(directory: Path, seed: int) -> Iterator[Vaulted]:
    """Open a site with its repository; everything that was patched is as before afterwards."""
    with pytest.MonkeyPatch.context() as patch, Vaulted(directory, seed, patch) as site:
        try:
            yield site
        except BaseException as error:
            error.add_note(
                "\n".join(
                    [
                        (
                            f"seed {seed}, limits {site.limits}, repeating {site.repeating}, workers "
                            f"{site.workers}"
                        ),
                        *site.log,
                    ]
                )
            )
            raise


def run(directory: Path, seed: int, steps: int | None = None) -> dict[str, int]:
    """Run one history with its backups and check it; return what happened."""
    with vaulted(directory, seed) as site:
        for _ in range(steps if steps is not None else site.random.randrange(8, 32)):
            site.step()
        site.log.append("last")
        site.backup()
        site.check()
        return site.events
