"""Create a backup: take the cuts, copy the storages, then the blobs, and commit all of it with one write."""

from __future__ import annotations

import contextlib
import platform
import socket
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from .. import __version__
from ..errors import ConfigurationError, Damage, InUse, KeyMissing, NothingToBackUp, SourceChanged, StoreError, UsageError, VaultError, WrongSource
from ..model import chain, clock
from ..model.blob import MissingRows
from ..model.manifest import DatabaseEntry, Line, Manifest, Marker, Origin, Pack, PgTransactions, Reason, Segment, Stored, Trigger
from ..model.source import Database, Method, Site
from ..policy.continuity import Decision, next_line
from ..policy.halves import halves
from ..repository import running
from ..repository.names import new_id
from ..repository.objects import Objects
from ..repository.repository import Repository
from ..repository.running import Run
from ..strategies.base import Capture, Earlier, Progress, Resumed, Wishes
from ..strategies.blobrows import opinions
from ..strategies.table import strategy_of
from .catalog import Backup, Catalog, raw_size, stored_size
from .locks import Locks, needed_keys, trial_key
from .mirrors import Mirrored, Wanted, is_mirrored, mirrored, unportable

ATTEMPTS: Final = 4
WAIT_SECONDS: Final = 1.0
# Commits that go on all the time leave gaps between them: the site is looked at again after these seconds.
STILL_PAUSES: Final = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.13, 0.21, 0.34, 0.55)
# What a backup is then that uses nothing of an earlier one.
APART: Final = ("forced", "new-history", "parent-missing")
NOTE_BYTES: Final = 1 << 30


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks of one create."""

    name: str | None = None
    note: str | None = None
    trigger: Trigger = "on-demand"
    full: bool = False
    cold: bool = False
    only: Literal["storage", "blobs"] | None = None
    method: Method = "native"
    mirror: Path | None = None
    databases: tuple[str, ...] = ()
    skip_unchanged: bool = False
    allow_missing: int | None = None
    take_over: bool = False
    wait: bool = False
    workers: int = 2


class Created(msgspec.Struct, frozen=True, kw_only=True):
    """What a create did; ``manifest`` is that of the parent when nothing was new and that was to be skipped.

    ``findings`` are changes of the source under what was stored, ``damaged`` earlier backups that could not be read and were not used,
    ``unlocked`` says why what it takes from earlier ones is not locked for as long as it has to be.
    """

    manifest: Manifest
    skipped: bool
    missing: dict[str, list[tuple[str, str, str]]]
    findings: list[str]
    damaged: dict[str, str] = {}
    unlocked: VaultError | None = None

    @property
    def raw(self) -> int:
        """Return the bytes that a restore writes."""
        return sum(raw_size(entry) for entry in self.manifest.databases)

    @property
    def stored(self) -> int:
        """Return the bytes that the backup needs in the repository."""
        return sum(stored_size(entry) for entry in self.manifest.databases)


def create(repository: Repository, site: Site, options: Options, progress: Progress, begun: Callable[[str], None] = lambda _id: None) -> Created:
    """Back up a site; ``begun`` is told the id as soon as it is known.

    Raise InUse while another create of the site runs, NothingToBackUp, ConfigurationError, WrongSource, SourceError, BlobsMissing, StoreError.
    Whatever is raised, no backup exists then, and what was stored is used by the next run.
    """
    databases = _advised(_chosen(site, options), options)
    refuse_overlap(repository, databases)
    repository.require_recipients()
    wanted = Wanted(directory=options.mirror, afresh=options.full, take_over=options.take_over, machine=machine())
    while True:
        if options.wait:
            _wait_for_others(repository, site.name, progress)
        try:
            with (
                mirrored(repository, site, databases, options.method, wanted, progress) as sources,
                _exclusive_storages(sources.databases, options.cold),
            ):
                return _attempts(repository, site, sources, options, progress, begun)
        except InUse:
            # of several that waited one was faster
            if not options.wait or _other(repository, site.name) is None:
                raise


def _attempts(
    repository: Repository, site: Site, sources: Mirrored, options: Options, progress: Progress, begun: Callable[[str], None]
) -> Created:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _Creation(repository, site, sources, options, progress, begun).run()
        except SourceChanged as error:
            if attempt == ATTEMPTS:
                raise
            progress.note(f"{error.message}; starting over ({attempt} of {ATTEMPTS - 1})")
    raise AssertionError("unreachable")


def _other(repository: Repository, site: str) -> Marker | None:
    """Return the marker of a create of the site that is going on."""
    try:
        marker, _data = running.read(repository.store, running.marker_key(site, "create", ""))
    except KeyMissing:
        return None
    return marker if running.alive(marker, repository.store) else None


def _wait_for_others(repository: Repository, site: str, progress: Progress) -> None:
    said = None
    while (other := _other(repository, site)) is not None:
        if other.run != said:
            progress.note(f"waiting for the create {other.run} (host {other.host}, pid {other.pid}, since {other.started})")
            said = other.run
        time.sleep(WAIT_SECONDS)


def _chosen(site: Site, options: Options) -> list[Database]:
    if not site.databases:
        skipped = "; ".join(f"{one.name}: {one.why}" for one in site.skipped)
        raise NothingToBackUp(f"the site {site.name} has no persistent database of its own", skipped)
    unknown = sorted(set(options.databases) - {database.name for database in site.databases})
    if unknown:
        raise UsageError(f"there is no database {', '.join(unknown)}", "known: " + ", ".join(d.name for d in site.databases))
    chosen = [database for database in site.databases if not options.databases or database.name in options.databases]
    for database in chosen:
        if refusal := refused(database, options.method):
            raise refusal
        if options.cold and is_mirrored(database, options.method):
            raise UsageError(f"--cold locks a Data.fs, and the database {database.name} is copied while it runs", "leave out --cold")
    return [by_method(database, options.method) for database in chosen]


def by_method(database: Database, method: Method) -> Database:
    """Return a database as the method has it copied: a Data.fs is copied by transactions natively."""
    wanted = method == "transactions" and database.backend != "filestorage"
    return msgspec.structs.replace(database, method="transactions") if wanted else database


def _advised(databases: list[Database], options: Options) -> list[Database]:
    """Return the databases with the warnings of a second opinion on where their blobs are; raise ConfigurationError when some would be lost."""
    if options.only == "storage":
        return databases
    told = opinions(databases)
    return [msgspec.structs.replace(one, warnings=tuple(dict.fromkeys((*one.warnings, *told[one.name])))) for one in databases]


def refused(database: Database, method: Method = "native") -> NothingToBackUp | None:
    """Return why a database cannot be backed up here, None when it can."""
    if is_mirrored(database, method):
        return unportable(database)
    if elsewhere := halves(database).elsewhere:
        where, _, instead = elsewhere.partition(". ")
        return NothingToBackUp(f"the database {database.name}: {where}", instead)
    try:
        strategy_of(database).require(database)
    except NothingToBackUp as error:
        return error
    if method == "transactions" and database.backend != "filestorage" and database.adapter != "postgresql":
        kind = f"{database.backend} ({database.adapter})" if database.adapter else database.backend
        return NothingToBackUp(
            f"--method transactions is for databases in PostgreSQL, and {database.name} is {kind}",
            "leave it out: the native method dumps the database, and copies only the blob files that are new",
        )
    return None


def refuse_overlap(repository: Repository, databases: list[Database]) -> None:
    """Raise ConfigurationError when the repository lies in a blob directory, or one of these in the repository."""
    if "://" in repository.store.location:
        return
    root = Path(repository.store.location).resolve()
    for database in databases:
        blobs = Path(database.blob_dir).resolve() if database.blob_dir else None
        if blobs and (root == blobs or blobs in root.parents or root in blobs.parents):
            raise ConfigurationError([f"the repository {root} and the blob directory {blobs} lie in each other"], "keep the repository elsewhere")


@contextlib.contextmanager
def _exclusive_storages(databases: list[Database], cold: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for database in databases if cold else []:
            stack.enter_context(strategy_of(database).exclusive(database))
        yield


class _Keeper:
    """Renews the marker of the run while it goes on, with what it has stored."""

    def __init__(self, run: Run) -> None:
        self._run, self._since = run, 0
        self._stored = {stored.database: stored for stored in run.marker.stored}

    def due(self, size: int) -> bool:
        self._since += size
        return self._since >= NOTE_BYTES or self._run.due()

    def keep(self, stored: Stored) -> None:
        self._stored[stored.database] = stored
        self._since = 0
        self._run.renew(stored=list(self._stored.values()))

    def beat(self) -> None:
        if self._run.due():
            self._run.renew()


class _Creation:
    """One attempt."""

    def __init__(
        self, repository: Repository, site: Site, sources: Mirrored, options: Options, progress: Progress, begun: Callable[[str], None]
    ) -> None:
        self.repository, self.site, self.databases, self._mirrors_behind = repository, site, sources.databases, sources.behind
        self.options, self.progress, self.begun = options, progress, begun
        self.now = clock.now()
        self.catalog = Catalog(repository, site.name)
        # the newest one may have been deleted, which its labels outlive
        self.id = new_id([*self.catalog.listing.backups, *self.catalog.listing.labels], self.now)
        self.objects: Objects = repository.objects(self.id)
        self.locks = Locks(repository, trial_key(site.name, self.id), self.now, progress)

    def run(self) -> Created:
        stale = self._stale_marker()
        wishes = Wishes(
            forced=self.options.full, storage=self.options.only != "blobs", blobs=self.options.only != "storage",
            allow_missing=self.options.allow_missing, doubtful=self.repository.signs, workers=self.options.workers,
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            captures: list[Capture] = []
            for database in self.databases:
                restored = msgspec.structs.replace(wishes, restored=self._restored(database.name))
                capture = strategy_of(database).capture(database, self.objects, restored, self.now)
                stack.callback(capture.close)
                self._find_base(capture, database.name, stale)
                captures.append(capture)
            cuts = self._still(captures)
            decisions = [capture.decide() for capture in captures]
            # the newest one is the last: what the line goes on from
            uses = sorted({one.id for capture in captures for one in capture.uses})
            self._check_source(_starting(captures))
            for used in uses if not self.options.full else ():  # signing this backup will vouch for what it goes on from
                self.repository.require_signature(self.catalog.backup(used).manifest)
            if self.options.skip_unchanged and uses and all(d.reason.code == "unchanged" for d in decisions) and self._enough(uses):
                return Created(manifest=self.catalog.backup(uses[-1]).manifest, skipped=True, missing={}, findings=[])
            return self._copy(captures, cuts, uses, stale)

    # what there is

    def _stale_marker(self) -> tuple[Marker, bytes] | None:
        found = self.catalog.markers.get(running.marker_key(self.site.name, "create", ""))
        if found and running.alive(found[0], self.repository.store):
            marker = found[0]
            raise InUse(
                f"a create of the site {self.site.name} has been running since {marker.started} (host {marker.host}, pid {marker.pid})",
                f"wait for it; one that died counts as running for {running.STALE.seconds // 60} minutes when nothing else tells",
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

    def _read_notes(self, stored: Stored) -> None:
        """Raise Damage when a document is lost by which the next run goes on."""
        for ref in stored.segments:
            chain.load(Segment, self.objects, ref)
        for pack in (pack for ref in stored.packs for pack in chain.load(Pack, self.objects, ref)):
            self.objects.document(pack.index.meta)

    def _require_standing(self, marker: Marker, data: bytes) -> None:
        """Raise SourceChanged when the marker of a dead run has been removed since it was read: then nothing keeps what it names."""
        with contextlib.suppress(KeyMissing):
            if self.repository.store.get(running.marker_key(self.site.name, "create", "")) == data:
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

    def _earlier(self, database: str) -> Iterator[Earlier]:
        return earlier_of(self.catalog, database)

    def _resumed(self, database: str, stale: tuple[Marker, bytes] | None) -> Resumed | None:
        stored = next((one for one in stale[0].stored if one.database == database), None) if stale else None
        if stored is None:
            return None
        parent = next((one for one in self._earlier(database) if one.id == stored.parent), None)
        return Resumed(stored, parent) if parent or stored.parent is None else None

    def _restored(self, database: str) -> bool:
        """Tell whether a restore into the site was noted after its newest backup, to another state of a database than this backup's own."""
        newest = next(self._parents(), None)
        entry = next((one for one in newest.manifest.databases if one.name == database), None) if newest else None
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
        return [f"the database {name} of backup {newest.manifest.id} is not in the configuration any more, and not in this backup" for name in gone]

    # deciding

    def _still(self, captures: list[Capture]) -> Literal["still", "moving"]:
        """Take all cuts again until no end moved between two passes and nobody stands between vote and finish.

        Raise SourceChanged when a pack has put another file in the place of one: what was committed since is in that.
        """
        if len(captures) == 1:
            return "still"
        for pause in STILL_PAUSES:
            time.sleep(pause)
            _moved(captures)
            if not _moved(captures) and not any(capture.voted for capture in captures):
                return "moving" if self._mirrors_behind() else "still"
        return "moving"

    def _check_source(self, starting: list[Decision]) -> None:
        """Raise WrongSource when what the site was backed up from lies elsewhere now and has gone another way; databases may come and go."""
        parent = next(self._parents(), None)
        if parent is None or self.options.trigger == "safety":
            return
        origin = parent.manifest.source
        before = dict(zip((entry.name for entry in parent.manifest.databases), origin.paths, strict=False))
        known = [database for database in self.databases if database.name in before]
        stranger = not any(database.name in before for database in self.site.databases)
        moved = [one for one in known if (origin.machine, before[one.name]) != (machine(), strategy_of(one).location(one))]
        if not moved and not stranger:
            return
        ours = self._origin()
        came = f"backups of {self.site.name} came from {', '.join(origin.paths)} on {origin.machine}"
        where = f"{', '.join(ours.paths)} on machine {ours.machine}, {came}"
        if stranger:
            where += f", and none of its databases ({', '.join(before)}) is called {' or '.join(one.name for one in self.site.databases)}"
        if (starting or stranger) and not self.options.take_over:
            raise WrongSource(
                f"this is another source: {where}" + ("" if stranger else ", and its content does not continue the newest backup"),
                "check --site and the paths; `--take-over` says that this is the site from now on",
            )
        self.progress.note(f"the site moved: {where}" + ("" if stranger else "; its content continues the newest backup"))

    def _origin(self) -> Origin:
        return Origin(machine=machine(), config=self.site.config, paths=[strategy_of(database).location(database) for database in self.databases])

    # copying

    def _copy(
        self, captures: list[Capture], cuts: Literal["still", "moving"], uses: list[str], stale: tuple[Marker, bytes] | None
    ) -> Created:
        run = Run.start(self.repository.store, self.site.name, "create", self.id, uses, stale)
        self._resumes = bool(run.marker.stored)
        try:
            self.begun(self.id)
            self._require(uses)
            self._capture(captures, cuts, _Keeper(run))
            created = self._commit(captures, cuts, uses, run)
        except BaseException as error:
            overtaken = _overtaken(run) if isinstance(error, Damage) else None
            _give_up(run, captures)
            if overtaken:
                raise overtaken from error
            raise
        run.finish()
        return created

    def _require(self, uses: list[str]) -> None:
        """List again now that the marker says what is used: a delete that came first has taken it away by now."""
        gone = set(uses) - set(self.repository.listing(self.site.name).backups)
        if gone:
            raise SourceChanged(f"the backup {', '.join(gone)} that this one would continue has just been deleted")

    def _capture(self, captures: list[Capture], cuts: Literal["still", "moving"], keeper: _Keeper) -> None:
        for capture in captures:
            capture.begin(self.objects, keeper, self.progress)
            if cuts == "moving":
                capture.warnings.append("the databases were never still together: a commit to several of them may be in one of them only")
        captures[0].findings.extend(self._taken_out())
        for capture in captures:
            self.progress.begin("storage", capture.expected)
            capture.copy_storage()
        for capture in captures:
            self.progress.begin("blobs", None)
            capture.copy_blobs()

    def _commit(self, captures: list[Capture], cuts: Literal["still", "moving"], uses: list[str], run: Run) -> Created:
        entries = [capture.entry() for capture in captures]
        missing = {entry.name: self._missing(entry) for entry in entries}
        manifest = self._manifest(entries, captures, cuts, uses, complete=not self._unaccepted(missing))
        for fact in ("name", "note"):
            if value := getattr(self.options, fact):
                self.repository.add_label(self.site.name, self.id, fact, value, self.catalog.listing)
        manifest, unlocked = self._locked(manifest, uses, run)
        run.require()
        self.repository.commit(manifest)
        findings = [finding for capture in captures for finding in capture.findings]
        return Created(
            manifest=manifest, skipped=False, missing=missing, findings=findings, damaged=self.catalog.damaged, unlocked=unlocked
        )  # fmt: skip

    def _locked_until(self, uses: list[str]) -> datetime | None:
        return self.locks.lasting(self.catalog.backup(one).manifest for one in uses)

    def _locked(self, manifest: Manifest, uses: list[str], run: Run) -> tuple[Manifest, VaultError | None]:
        """Renew what locks have to be, and say in the manifest until when all of them last; a failure costs no backup, and is returned."""

        def beat() -> None:
            if run.due():
                run.renew()

        # of what an interrupted run has stored it is not known when that was
        until = None if self._resumes else self._locked_until(uses)
        if self.locks.until is not None and until is None:
            try:
                needed = needed_keys(msgspec.to_builtins(manifest), self.objects)
                self.locks.renew((key for key in needed if not self.objects.wrote(key)), beat)
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
            accepted = {(entry.name, row[0], row[1]) for entry in parent.manifest.databases for row in self._missing(entry)}
        return any((name, row[0], row[1]) not in accepted for name, rows in missing.items() for row in rows)

    def _manifest(
        self, entries: list[DatabaseEntry], captures: list[Capture], cuts: Literal["still", "moving"], uses: list[str],
        *, complete: bool,
    ) -> Manifest:  # fmt: skip
        decisions = [capture.decision for capture in captures]
        parent = uses[-1] if uses and any(decision.reason.code not in APART for decision in decisions) else None
        return Manifest(
            id=self.id, site=self.site.name, repository=self.repository.info.id,
            created_at=clock.iso(self.now), finished_at=clock.iso(clock.now()), trigger=self.options.trigger,
            contents=self._contents(), how="full" if any(d.how == "full" for d in decisions) else "incremental", reason=_main(captures),
            parent=parent, line=self._line(_starting(captures), uses), status="complete" if complete else "incomplete", cuts=cuts,
            source=self._origin(), software=_software_of(captures), seen=self.catalog.listing.backups, databases=entries,
            added=self.objects.written, recovery=self.repository.info.recovery, recipients=self.repository.info.recipients,
            requires=[*_required(entries), *self.repository.info.requires],
        )  # fmt: skip

    def _contents(self) -> str | list[str]:
        if self.options.only:
            return self.options.only
        chosen = [database.name for database in self.databases]
        return "all" if len(chosen) == len(self.site.databases) else chosen

    def _line(self, starting: list[Decision], uses: list[str]) -> list[Line]:
        if not uses:
            return [Line(self.id, None)]
        parent_line = self.catalog.backup(uses[-1]).manifest.line
        if not starting:
            return parent_line
        return next_line(parent_line, self.id, min(starting, key=lambda decision: decision.common_tid or ""))


def parents(catalog: Catalog) -> Iterator[Backup]:
    """Yield the backups that a whole one may continue, newest first; one that lacks blobs may, its child looks for them again."""
    return (backup for backup in catalog.readable() if backup.manifest.whole and backup.manifest.trigger != "safety")


def earlier_of(catalog: Catalog, database: str) -> Iterator[Earlier]:
    """Yield what these backups have of one database."""
    for backup in parents(catalog):
        for entry in backup.manifest.databases:
            if entry.name == database and entry.storage is not None:
                yield Earlier(id=backup.manifest.id, captured=clock.parse(backup.manifest.created_at), entry=entry)


def _overtaken(run: Run) -> InUse | None:
    """Return why something is not there that this run has stored: it slept, was taken for dead, and nothing was kept for it. Else None."""
    with contextlib.suppress(VaultError):
        if not run.stands():
            return run.lost()
    return None


def _required(entries: list[DatabaseEntry]) -> list[str]:
    """Return what a reader has to know of: who did not would restore a base without what is laid over it."""
    dumps = [entry.dump for entry in entries if entry.dump]
    return [*(["dump"] if dumps else []), *(["overlays"] if any(isinstance(dump, PgTransactions) for dump in dumps) else [])]


def _give_up(run: Run, captures: list[Capture]) -> None:
    """Leave what was stored, by this run or by the one that it went on from, to the next one; the cause is on its way to the user already."""
    stored = {one.database: one for one in run.marker.stored}
    with contextlib.suppress(VaultError, OSError):
        for capture in captures:
            if (notes := capture.last_notes()) is not None:
                stored[notes.database] = notes
    with contextlib.suppress(VaultError, OSError):
        if any(notes.segments or notes.packs for notes in stored.values()):
            run.renew(stored=list(stored.values()), ended=True)
            return
    with contextlib.suppress(VaultError, OSError):
        if not any(notes.segments or notes.packs for notes in run.marker.stored):
            run.finish()


def _moved(captures: list[Capture]) -> bool:
    """Take every cut again, one right after the other, and tell whether one moved; raise SourceChanged when a storage is another one now."""
    return any([capture.extend() for capture in captures])


def _starting(captures: list[Capture]) -> list[Decision]:
    """Return the decisions that start a line of the site: a database that no backup knows has left nothing behind."""
    return [capture.decision for capture in captures if capture.decision.starts_line and capture.uses]


def _main(captures: list[Capture]) -> Reason:
    """Return the reason that says most: of several databases the first that is not simply going on, with its name."""
    plain = ("unchanged", "continued")
    telling = [one for one in captures if one.decision.reason.code not in plain]
    grown = [one for one in captures if one.decision.reason.code == "continued"]
    chosen = [*telling, *grown, *captures][0]
    reason = chosen.decision.reason
    return reason if len(captures) == 1 else Reason(reason.code, f"{chosen.database.name}: {reason.text}")


def machine() -> str:
    """Return what tells this machine from others."""
    with contextlib.suppress(OSError):
        if name := Path("/etc/machine-id").read_text(encoding="ascii").strip():
            return name
    return socket.gethostname()


def _software_of(captures: list[Capture]) -> dict[str, str]:
    versions = dict(software())
    for capture in captures:
        versions |= capture.software
    return versions


@cache
def software() -> dict[str, str]:
    """Return the versions of what made a backup, as far as they are installed."""
    versions = {"zodb-vault": __version__, "python": platform.python_version()}
    for package in ("ZODB", "Zope", "Products.CMFPlone"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


