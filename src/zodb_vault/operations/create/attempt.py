"""One attempt to make a backup; it ends with a manifest, or with an error and nothing committed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property
from typing import Any, Final, Literal

import msgspec

from ...errors import Damage, InUse, KeyMissing, SourceChanged, StoreError, VaultError, WrongSource
from ...model import chain
from ...model.blob import MissingRows
from ...model.capture import CaptureOptions, InterruptedRun, PreviousBackup
from ...model.manifest import (
    DatabaseEntry,
    Manifest,
    Marker,
    Origin,
    Pack,
    PgTransactions,
    Reason,
    Segment,
    StoredProgress,
    Timeline,
)
from ...model.source import Site
from ...policy.continuity import Decision, next_timeline
from ...repository import markers
from ...repository.ids import new_id
from ...repository.markers import RunMarker
from ...repository.objects import Objects
from ...repository.repository import Repository
from ...runtime import clock
from ...runtime.progress import Progress
from ...strategies.base import Capture
from ...strategies.registry import copying_backend, location_of
from ..catalog import Backup, Catalog, parents, previous_backups_of
from ..locks import Locks, needed_keys, trial_key
from .mirrors import Mirrored
from .options import Created, CreateOptions
from .provenance import machine, software_of

# Commits that go on all the time leave gaps between them: the site is looked at again after these seconds.
CONSISTENCY_PAUSES: Final = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.13, 0.21, 0.34, 0.55)


# What a backup is then that uses nothing of an earlier one.
APART: Final = ("forced", "new-history", "parent-missing")


CHECKPOINT_BYTES: Final = 1 << 30


class MarkerCheckpointer:
    """Renews the marker of the run while it goes on, with what it has stored."""

    def __init__(self, run: RunMarker) -> None:
        self._run, self._since = run, 0
        self._stored = {stored.database: stored for stored in run.marker.stored}

    def due(self, size: int) -> bool:
        """Tell whether the marker should be renewed: enough was stored, or enough time has passed."""
        self._since += size
        return self._since >= CHECKPOINT_BYTES or self._run.heartbeat_is_due()

    def keep(self, stored: StoredProgress) -> None:
        """Note in the marker what is stored of one database."""
        self._stored[stored.database] = stored
        self._since = 0
        self._run.update(stored=list(self._stored.values()))

    def beat(self) -> None:
        """Renew the heartbeat of the marker when it is time."""
        if self._run.heartbeat_is_due():
            self._run.update()


class Attempt:
    """One attempt."""

    def __init__(
        self,
        repository: Repository,
        site: Site,
        sources: Mirrored,
        options: CreateOptions,
        progress: Progress,
        begun: Callable[[str], None],
    ) -> None:
        self.repository, self.site, self.databases, self._mirrors_behind = (
            repository,
            site,
            sources.databases,
            sources.behind,
        )
        self.options, self.progress, self.begun = options, progress, begun
        self.now = clock.now()
        self.catalog = Catalog(repository, site.name)
        # the newest one may have been deleted, which its labels outlive
        self.id = new_id([*self.catalog.listing.backups, *self.catalog.listing.labels], self.now)
        self.objects: Objects = repository.objects(self.id)
        self.locks = Locks(repository, trial_key(site.name, self.id), self.now, progress)

    def run(self) -> Created:
        """Make the backup; raise SourceChanged when the source changed under it and another attempt may succeed."""
        stale = self._stale_marker()
        wishes = CaptureOptions(
            forced=self.options.full,
            storage=self.options.only != "blobs",
            blobs=self.options.only != "storage",
            allow_missing=self.options.allow_missing,
            doubtful=self.repository.signs,
            workers=self.options.workers,
        )
        with contextlib.ExitStack() as stack:
            captures: list[Capture] = []
            for database in self.databases:
                restored = msgspec.structs.replace(wishes, restored=self._restored(database.name))
                capture = copying_backend(database).capture(database, self.objects, restored, self.now)
                stack.callback(capture.close)
                self._find_base(capture, database.name, stale)
                captures.append(capture)
            consistency = self._consistency(captures)
            decisions = [capture.decide() for capture in captures]
            # the newest one is the last: what the line goes on from
            uses = sorted({one.id for capture in captures for one in capture.uses})
            self._check_source(_starting(captures))
            for used in (
                uses if not self.options.full else ()
            ):  # signing this backup will vouch for what it goes on from
                self.repository.require_signature(self.catalog.backup(used).manifest)
            if (
                self.options.skip_unchanged
                and uses
                and all(d.reason.code == "unchanged" for d in decisions)
                and self._enough(uses)
            ):
                return Created(
                    manifest=self.catalog.backup(uses[-1]).manifest, skipped=True, missing={}, findings=[]
                )
            return self._copy(captures, consistency, uses, stale)

    # what there is

    def _stale_marker(self) -> tuple[Marker, bytes] | None:
        found = self.catalog.markers.get(markers.marker_key(self.site.name, "create", ""))
        if found and markers.is_alive(found[0], self.repository.store):
            marker = found[0]
            raise InUse(
                f"a create of the site {self.site.name} has been running since {marker.started} (host {marker.host}, pid {marker.pid})",
                f"wait for it; one that died counts as running for {markers.STALE.seconds // 60} minutes when nothing else tells",
            )
        if found and found[0].run in self.catalog.listing.backups:
            # it died behind its commit: its backup is to be continued, not what it had stored until then
            return msgspec.structs.replace(found[0], stored=[]), found[1]
        return self._usable(*found) if found else None

    def _usable(self, marker: Marker, data: bytes) -> tuple[Marker, bytes]:
        """Return a dead run's marker with what it has stored as far as its notes can be read: what cannot must not fail every run to come."""
        stored = []
        for one in marker.stored:
            try:
                self._read_notes(one)
                stored.append(one)
            except Damage as error:
                self._require_standing(marker, data)
                what = f"its notes of what it had stored of {one.database} are lost"
                self.catalog.damaged[marker.run] = f"it was interrupted, and {what}: {error.message}"
        return msgspec.structs.replace(marker, stored=stored), data

    def _read_notes(self, stored: StoredProgress) -> None:
        """Raise Damage when a document is lost by which the next run goes on."""
        for ref in stored.segments:
            chain.load_list(Segment, self.objects, ref)
        for pack in (pack for ref in stored.packs for pack in chain.load_list(Pack, self.objects, ref)):
            self.objects.document(pack.index.meta)

    def _require_standing(self, marker: Marker, data: bytes) -> None:
        """Raise SourceChanged when the marker of a dead run has been removed since it was read: then nothing keeps what it names."""
        with contextlib.suppress(KeyMissing):
            if self.repository.store.get(markers.marker_key(self.site.name, "create", "")) == data:
                return
        raise SourceChanged(f"what the interrupted run {marker.run} had stored has just been given up")

    def _find_base(self, capture: Capture, database: str, stale: tuple[Marker, bytes] | None) -> None:
        try:
            capture.find_base(self._earlier(database), self._resumed(database, stale))
        except Damage:
            if stale:
                self._require_standing(*stale)
            raise

    def _parents(self) -> Iterator[Backup]:
        return parents(self.catalog)

    def _earlier(self, database: str) -> Iterator[PreviousBackup]:
        return previous_backups_of(self.catalog, database)

    def _resumed(self, database: str, stale: tuple[Marker, bytes] | None) -> InterruptedRun | None:
        stored = next((one for one in stale[0].stored if one.database == database), None) if stale else None
        if stored is None:
            return None
        parent = next((one for one in self._earlier(database) if one.id == stored.parent), None)
        return InterruptedRun(stored, parent) if parent or stored.parent is None else None

    def _restored(self, database: str) -> bool:
        """Tell whether a restore into the site was noted after its newest backup, to another state of a database than this backup's own."""
        newest = next(self._parents(), None)
        entry = (
            next((one for one in newest.manifest.databases if one.name == database), None) if newest else None
        )
        notes = [(note["at"], note.get("databases", {database: note["tid"]})) for note in self._restore_notes]
        last = max(((at, tids[database]) for at, tids in notes if database in tids), default=None)
        return entry is not None and last is not None and last[1] != entry.last_tid

    @cached_property
    def _restore_notes(self) -> list[dict[str, Any]]:
        newest = next(self._parents(), None)
        labels = self.catalog.labels_since(newest.manifest.created_at) if newest else ()
        return [label.value for label in labels if label.fact == "restored"]

    def _enough(self, uses: list[str]) -> bool:
        """Tell whether a backup of which nothing has changed since does as well as a new one."""
        return not self._taken_out() and (self.locks.until is None or self._locked_until(uses) is not None)

    def _taken_out(self) -> list[str]:
        """Return what to say of databases that the newest backup holds and the site does not have any more."""
        newest = next(self._parents(), None)
        if newest is None or self.options.trigger == "safety" or self._contents() != "all":
            return []
        ours = {database.name for database in self.databases}
        gone = [entry.name for entry in newest.manifest.databases if entry.name not in ours]
        return [
            f"the database {name} of backup {newest.manifest.id} is not in the configuration any more, and not in this backup"
            for name in gone
        ]

    # deciding

    def _consistency(self, captures: list[Capture]) -> Literal["consistent", "uncoordinated"]:
        """Take all cuts again until no end moved between two passes and nobody stands between vote and finish.

        Raise SourceChanged when a pack has put another file in the place of one: what was committed since is in that.
        """
        if len(captures) == 1:
            return "consistent"
        for pause in CONSISTENCY_PAUSES:
            time.sleep(pause)
            _moved(captures)
            if not _moved(captures) and not any(capture.voted for capture in captures):
                return "uncoordinated" if self._mirrors_behind() else "consistent"
        return "uncoordinated"

    def _check_source(self, starting: list[Decision]) -> None:
        """Raise WrongSource when what the site was backed up from lies elsewhere now and has gone another way; databases may come and go."""
        parent = next(self._parents(), None)
        if parent is None or self.options.trigger == "safety":
            return
        origin = parent.manifest.source
        before = dict(zip((entry.name for entry in parent.manifest.databases), origin.paths, strict=False))
        known = [database for database in self.databases if database.name in before]
        stranger = not any(database.name in before for database in self.site.databases)
        moved = [one for one in known if (origin.machine, before[one.name]) != (machine(), location_of(one))]
        if not moved and not stranger:
            return
        ours = self._origin()
        came = f"backups of {self.site.name} came from {', '.join(origin.paths)} on {origin.machine}"
        where = f"{', '.join(ours.paths)} on machine {ours.machine}, {came}"
        if stranger:
            where += f", and none of its databases ({', '.join(before)}) is called {' or '.join(one.name for one in self.site.databases)}"
        if (starting or stranger) and not self.options.take_over:
            raise WrongSource(
                f"this is another source: {where}"
                + ("" if stranger else ", and its content does not continue the newest backup"),
                "check --site and the paths; `--take-over` says that this is the site from now on",
            )
        self.progress.note(
            f"the site moved: {where}" + ("" if stranger else "; its content continues the newest backup")
        )

    def _origin(self) -> Origin:
        return Origin(
            machine=machine(),
            config=self.site.config,
            paths=[location_of(database) for database in self.databases],
        )

    # copying

    def _copy(
        self,
        captures: list[Capture],
        consistency: Literal["consistent", "uncoordinated"],
        uses: list[str],
        stale: tuple[Marker, bytes] | None,
    ) -> Created:
        run = RunMarker.start(self.repository.store, self.site.name, "create", self.id, uses, stale)
        self._resumes = bool(run.marker.stored)
        try:
            self.begun(self.id)
            self._require(uses)
            self._capture(captures, consistency, MarkerCheckpointer(run))
            created = self._commit(captures, consistency, uses, run)
        except BaseException as error:
            overtaken = _overtaken(run) if isinstance(error, Damage) else None
            _give_up(run, captures)
            if overtaken:
                raise overtaken from error
            raise
        run.remove()
        return created

    def _require(self, uses: list[str]) -> None:
        """List again now that the marker says what is used: a delete that came first has taken it away by now."""
        gone = set(uses) - set(self.repository.listing(self.site.name).backups)
        if gone:
            raise SourceChanged(
                f"the backup {', '.join(gone)} that this one would continue has just been deleted"
            )

    def _capture(
        self,
        captures: list[Capture],
        consistency: Literal["consistent", "uncoordinated"],
        keeper: MarkerCheckpointer,
    ) -> None:
        for capture in captures:
            capture.begin(self.objects, keeper, self.progress)
            if consistency == "uncoordinated":
                capture.warnings.append(
                    "the databases were never still together: a commit to several of them may be in one of them only"
                )
        captures[0].findings.extend(self._taken_out())
        for capture in captures:
            self.progress.begin("storage", capture.expected)
            capture.copy_storage()
        for capture in captures:
            self.progress.begin("blobs", None)
            capture.copy_blobs()

    def _commit(
        self,
        captures: list[Capture],
        consistency: Literal["consistent", "uncoordinated"],
        uses: list[str],
        run: RunMarker,
    ) -> Created:
        entries = [capture.entry() for capture in captures]
        missing = {entry.name: self._missing(entry) for entry in entries}
        manifest = self._manifest(
            entries, captures, consistency, uses, complete=not self._unaccepted(missing)
        )
        for fact in ("name", "note"):
            if value := getattr(self.options, fact):
                self.repository.add_label(self.site.name, self.id, fact, value, self.catalog.listing)
        manifest, unlocked = self._locked(manifest, uses, run)
        run.require_unchanged()
        self.repository.commit(manifest)
        findings = [finding for capture in captures for finding in capture.findings]
        return Created(
            manifest=manifest,
            skipped=False,
            missing=missing,
            findings=findings,
            damaged=self.catalog.damaged,
            unlocked=unlocked,
        )

    def _locked_until(self, uses: list[str]) -> datetime | None:
        return self.locks.lasting(self.catalog.backup(one).manifest for one in uses)

    def _locked(
        self, manifest: Manifest, uses: list[str], run: RunMarker
    ) -> tuple[Manifest, VaultError | None]:
        """Renew what locks have to be, and say in the manifest until when all of them last; a failure costs no backup, and is returned."""

        def beat() -> None:
            if run.heartbeat_is_due():
                run.update()

        # of what an interrupted run has stored it is not known when that was
        until = None if self._resumes else self._locked_until(uses)
        if self.locks.until is not None and until is None:
            try:
                needed = needed_keys(msgspec.to_builtins(manifest), self.objects)
                self.locks.renew((key for key in needed if not self.objects.has_written(key)), beat)
                until = self.locks.until
            except (StoreError, Damage) as error:
                return manifest, error
        return msgspec.structs.replace(manifest, locked_until=clock.iso(until) if until else None), None

    def _missing(self, entry: DatabaseEntry) -> list[tuple[str, str, str]]:
        if entry.blobs is None or entry.blobs.missing.list is None:
            return []
        return msgspec.json.decode(self.objects.document(entry.blobs.missing.list), type=MissingRows).rows

    def _unaccepted(self, missing: dict[str, list[tuple[str, str, str]]]) -> bool:
        """Tell whether a blob is missing whose loss nobody accepted with the backup before."""
        parent = next(self._parents(), None) if any(missing.values()) else None
        accepted: set[tuple[str, str, str]] = set()
        if parent is not None and parent.complete:
            accepted = {
                (entry.name, row[0], row[1])
                for entry in parent.manifest.databases
                for row in self._missing(entry)
            }
        return any((name, row[0], row[1]) not in accepted for name, rows in missing.items() for row in rows)

    def _manifest(
        self,
        entries: list[DatabaseEntry],
        captures: list[Capture],
        consistency: Literal["consistent", "uncoordinated"],
        uses: list[str],
        *,
        complete: bool,
    ) -> Manifest:
        decisions = [capture.decision for capture in captures]
        parent = (
            uses[-1] if uses and any(decision.reason.code not in APART for decision in decisions) else None
        )
        return Manifest(
            id=self.id,
            site=self.site.name,
            repository=self.repository.info.id,
            created_at=clock.iso(self.now),
            finished_at=clock.iso(clock.now()),
            trigger=self.options.trigger,
            contents=self._contents(),
            how="full" if any(d.how == "full" for d in decisions) else "incremental",
            reason=_main(captures),
            parent=parent,
            timeline=self._timeline(_starting(captures), uses),
            status="complete" if complete else "incomplete",
            consistency=consistency,
            source=self._origin(),
            software=software_of(captures),
            seen=self.catalog.listing.backups,
            databases=entries,
            added=self.objects.written,
            recovery=self.repository.info.recovery,
            recipients=self.repository.info.recipients,
            requires=[*_required(entries), *self.repository.info.requires],
        )

    def _contents(self) -> str | list[str]:
        if self.options.only:
            return self.options.only
        chosen = [database.name for database in self.databases]
        return "all" if len(chosen) == len(self.site.databases) else chosen

    def _timeline(self, starting: list[Decision], uses: list[str]) -> list[Timeline]:
        if not uses:
            return [Timeline(self.id, None)]
        parent_line = self.catalog.backup(uses[-1]).manifest.timeline
        if not starting:
            return parent_line
        return next_timeline(
            parent_line, self.id, min(starting, key=lambda decision: decision.common_tid or "")
        )


def _overtaken(run: RunMarker) -> InUse | None:
    """Return why something is not there that this run has stored: it slept, was taken for dead, and nothing was kept for it. Else None."""
    with contextlib.suppress(VaultError):
        if not run.is_unchanged():
            return run.lost_error()
    return None


def _required(entries: list[DatabaseEntry]) -> list[str]:
    """Return what a reader has to know of: who did not would restore a base without what is laid over it."""
    dumps = [entry.dump for entry in entries if entry.dump]
    return [
        *(["dump"] if dumps else []),
        *(["deltas"] if any(isinstance(dump, PgTransactions) for dump in dumps) else []),
    ]


def _give_up(run: RunMarker, captures: list[Capture]) -> None:
    """Leave what was stored, by this run or by the one that it went on from, to the next one; the cause is on its way to the user already."""
    stored = {one.database: one for one in run.marker.stored}
    with contextlib.suppress(VaultError, OSError):
        for capture in captures:
            if (notes := capture.last_notes()) is not None:
                stored[notes.database] = notes
    with contextlib.suppress(VaultError, OSError):
        if any(notes.segments or notes.packs for notes in stored.values()):
            run.update(stored=list(stored.values()), ended=True)
            return
    with contextlib.suppress(VaultError, OSError):
        if not any(notes.segments or notes.packs for notes in run.marker.stored):
            run.remove()


def _moved(captures: list[Capture]) -> bool:
    """Take every cut again, one right after the other, and tell whether one moved; raise SourceChanged when a storage is another one now."""
    return any([capture.extend() for capture in captures])


def _starting(captures: list[Capture]) -> list[Decision]:
    """Return the decisions that start a line of the site: a database that no backup knows has left nothing behind."""
    return [capture.decision for capture in captures if capture.decision.starts_timeline and capture.uses]


def _main(captures: list[Capture]) -> Reason:
    """Return the reason that says most: of several databases the first that is not simply going on, with its name."""
    plain = ("unchanged", "continued")
    telling = [one for one in captures if one.decision.reason.code not in plain]
    grown = [one for one in captures if one.decision.reason.code == "continued"]
    chosen = [*telling, *grown, *captures][0]
    reason = chosen.decision.reason
    return reason if len(captures) == 1 else Reason(reason.code, f"{chosen.database.name}: {reason.text}")
