"""Restore: resolve everything, show the plan, hold the locks, save the present state, then let ``switch`` do it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from ..blobs.layout import MARKER
from ..datafs.tail import Hopper, backwards
from ..errors import BackupMissing, BlobsMissing, Damage, InUse, SafetyBackupFailed, SourceDamaged, StoreError, TargetRefused, UsageError, VaultError
from ..model import clock
from ..model import tid as tids
from ..model.chain import segments_of
from ..model.manifest import DatabaseEntry
from ..model.source import Database, Site
from ..policy.recovery import Request
from ..repository import running
from ..repository.names import new_id
from ..repository.objects import Objects
from ..repository.repository import Repository
from ..repository.running import Run
from ..strategies.base import Progress
from ..strategies.datafile import DataFile
from ..strategies.locking import bar, storage_locks, unbar
from ..strategies.standing import newest_common
from ..strategies.table import strategy_of
from ..strategies.zeo import require_stopped
from . import journal as journals
from .caches import Cache, Left, remove_caches, require_unused, stale_caches
from .catalog import Catalog
from .create import Options as CreateOptions
from .create import create, machine, parents
from .dumps import Dumps, DumpStep, How, plan_dump
from .identity import require_key
from .journal import Journal
from .switch import KEPT_PREFIX, Place, Switch, make_directories_like_parent, place_of, replaced_name, require_owner
from .targets import Cut, Target, resolve
from .undo import kept_paths, require_together

# What is restored as a dump, or as the blobs that belong to one.
DUMPED: Final = ("relstorage", "pgjsonb")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks of one restore; without ``output`` it goes into the site itself, or (``elsewhere``) into that of another configuration.

    ``clients`` are those of the ZEO server that serves it: their caches are of the state that is replaced.
    """

    backup: str | None = None
    request: Request | None = None
    databases: tuple[str, ...] = ()
    output: Path | None = None
    elsewhere: bool = False
    only: Literal["storage", "blobs"] | None = None
    allow_incomplete: bool = False
    safety_backup: bool = True
    replace_blobs: bool = False
    clients: tuple[Site, ...] = ()
    replace: bool = False
    role: str | None = None
    workers: int = 2


class Step(msgspec.Struct, frozen=True):
    """One database of a plan: what goes where, what it replaces, and the journal (or record) of an interrupted restore of the same.

    Of the ``needed`` bytes ``needed_blobs`` are for the blob directory.
    """

    cut: Cut
    place: Place
    present_last_tid: str | None
    dropped: int
    needed: int
    needed_blobs: int
    resumed: Journal | None

    @property
    def replaces(self) -> bool:
        """Tell whether there is a Data.fs in place."""
        return self.place.data_fs.exists()

    @property
    def unsaved(self) -> bool:
        """Tell whether the file in place holds what no safety backup has; an interrupted restore may have made one, and the site gone on since."""
        journal = self.resumed
        if not self.replaces or (journal is not None and (journal.phase in ("switched", "done") or self.place.is_new(journal))):
            return False
        return journal is None or journal.saved != self.place.data_fs.stat().st_size


class Plan(msgspec.Struct, frozen=True):
    """What a restore is going to do; nothing has been changed yet. ``notes`` are what to know before it is agreed to, ``caches`` what goes."""

    target: Target
    steps: list[Step]
    options: Options
    site: Site | None
    notes: list[str]
    caches: list[Cache]
    dumps: list[DumpStep] = []

    @property
    def in_place(self) -> bool:
        """Tell whether the site itself is the target."""
        return self.options.output is None


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did."""

    plan: Plan
    safety_backup: str | None
    kept: list[str]
    caches: list[str]
    notes: list[str]


def plan(repository: Repository, site_name: str, site: Site | None, options: Options) -> Plan:
    """Resolve what is to be restored and where it goes; raise whatever stands against it, change nothing."""
    catalog = Catalog(repository, site_name)
    target = resolve(catalog, options.backup, options.request, options.databases)
    if not target.backup.complete and not options.allow_incomplete:
        raise TargetRefused(
            f"the backup {target.backup.manifest.id} is incomplete: blobs were missing when it was made",
            "`zodb-vault show` names them; `--allow-incomplete` restores what there is",
        )
    documents = repository.objects("")
    repository.require_signature(target.backup.manifest)
    require_key((cut.entry for cut in target.cuts), documents)
    if any(_is_dump(cut) for cut in target.cuts):
        return _plan_dumps(target, site, options)
    places = [_place(cut, site, options, target) for cut in target.cuts]
    for place in places:
        _refuse_within(repository, place)
    if site is not None and options.output is None:
        into = {_database(cut.entry, site, target).name for cut in target.cuts}
        require_together(places, [one for one in site.databases if one.name not in into], done=False)
    unfinished = _unfinished(places, target, options)
    steps = [_step(cut, place, journal, documents, options) for cut, place, journal in zip(target.cuts, places, unfinished, strict=True)]
    caches = _caches(target, steps, site, options, documents)
    notes = [*_notes(target, site, options), *(note for cache in caches for note in cache.notes)]
    return Plan(target, steps, options, site, notes, caches)


def _caches(target: Target, steps: list[Step], site: Site | None, options: Options, documents: Objects) -> list[Cache]:
    """Return what clients keep of the state that is replaced."""
    if not options.clients or options.output is not None or options.only == "blobs":
        return []
    left = [Left(_database(step.cut.entry, site, target), _left_after(step, documents)) for step in steps]
    return stale_caches(options.clients, left)


def _left_after(step: Step, documents: Objects) -> str | None:
    """Return the TID up to which clients may have seen what is restored: behind it the replaced file and the backup may differ."""
    place, journal = step.place, step.resumed
    replaced = place.data_fs.with_name(journal.replaced) if journal and journal.replaced and place.is_new(journal) else place.data_fs
    try:
        common = _newest_common(replaced, step.cut, documents) if replaced.exists() else None
    except VaultError:
        common = None  # a damaged file is what restores are for
    last = step.cut.last_tid
    return min(tids.to_hex(common), last) if common and last else last


def _is_dump(cut: Cut) -> bool:
    return cut.entry.dump is not None or (cut.entry.storage is None and cut.entry.backend in DUMPED)


def _plan_dumps(target: Target, site: Site | None, options: Options) -> Plan:
    """Plan databases that are dumps; a Data.fs and a dump have no step in common that would make both valid."""
    if not all(_is_dump(cut) for cut in target.cuts):
        names = ", ".join(cut.entry.name for cut in target.cuts)
        raise TargetRefused(f"the databases {names} are of different kinds", "restore them one after the other, with --database NAME")
    steps = []
    for cut in target.cuts:
        directory = options.output.absolute() / (cut.entry.folder if len(target.cuts) > 1 else "") if options.output else None
        database = None if directory else _database(cut.entry, site, target)
        steps.append(plan_dump(cut, database, directory, _how(options)))
    notes = [note for step in steps if step.seen for note in step.seen.notes]
    return Plan(target, [], options, site, [*_notes(target, site, options), *notes], [], dumps=steps)


def _how(options: Options) -> How:
    return How(replace=options.replace, role=options.role, only=options.only, workers=options.workers)


def _execute_dumps(repository: Repository, plan: Plan, site_name: str, progress: Progress) -> Restored:
    restore_id = new_id([], clock.now())
    with _marked(repository, site_name, plan, restore_id, progress) as beat:
        replaced = tuple(step.database.name for step in plan.dumps if step.database and step.replaces)
        wanted = replaced and plan.options.safety_backup and not plan.options.elsewhere
        safety = _saved_first(repository, plan, replaced, progress) if wanted else None
        dumps = Dumps(repository.objects(restore_id), plan.dumps, _how(plan.options), restore_id, progress, beat)
        dumps.run()
        notes = _label(repository, site_name, plan, restore_id) if plan.options.only != "blobs" else []
    return Restored(plan=plan, safety_backup=safety, kept=dumps.kept, notes=notes + dumps.notes, caches=dumps.caches)


def _refuse_within(repository: Repository, place: Place) -> None:
    """Raise TargetRefused where a restored file would lie among those of a repository or of a blob directory."""
    store, ours = repository.store.location, place.blob_dir.resolve() if place.blob_dir else None
    root = Path(store).resolve() if "://" not in store else None
    for path in filter(None, (place.data_fs, ours)):
        for parent in (path, *path.parents):
            if parent == root:
                raise TargetRefused(f"{path} lies in the repository {root}", "choose another place")
            if parent not in (path, ours) and (parent / MARKER).exists():
                raise TargetRefused(f"{path} lies in the blob directory {parent}", "choose another place")


def _notes(target: Target, site: Site | None, options: Options) -> Iterator[str]:
    manifest = target.backup.manifest
    into = {_database(cut.entry, site, target).name for cut in target.cuts} if site is not None and options.output is None else set()
    for database in site.databases if into and site and not options.databases else ():
        if database.name not in into:
            yield f"{database.name} is not in this backup and stays as it is: it may not fit to the others"
    if manifest.cuts == "moving" and len(target.cuts) > 1:
        yield "the databases were never still together when this backup was made: a commit to several of them may be in one of them only"


def _place(cut: Cut, site: Site | None, options: Options, target: Target) -> Place:
    data_fs, blob_dir = _destination(cut.entry, site, options, target)
    _require_content(cut, blob_dir, options)
    return place_of(data_fs, blob_dir, cut.entry.layout)


def _destination(entry: DatabaseEntry, site: Site | None, options: Options, target: Target) -> tuple[Path, Path | None]:
    if options.output is not None:
        root = options.output.absolute() / (entry.folder if len(target.cuts) > 1 else "")
        return root / "Data.fs", root / "blobs" if entry.blobs and options.only != "storage" else None
    database = _database(entry, site, target)
    return Path(_data_fs(database)), Path(database.blob_dir) if database.blob_dir else None


def _database(entry: DatabaseEntry, site: Site | None, target: Target) -> Database:
    """Return the database of the site that one of a backup goes into: that of the same name, or the only one where there is only one."""
    databases = site.databases if site else ()
    manifest = target.backup.manifest
    alone = databases[0] if manifest.whole and len(manifest.databases) == len(databases) == 1 else None
    database = next((one for one in databases if one.name == entry.name), alone)
    if database is None:
        raise UsageError(
            f"the site has no database {entry.name} to restore into, it has {', '.join(one.name for one in databases) or 'none'}",
            "restore into a directory with --output DIR, or only what the site has with --database NAME",
        )
    return database


def _data_fs(database: Database) -> str:
    if database.backend != "filestorage" or database.data_fs is None:
        raise UsageError(f"this version cannot restore into {database.backend}", "restore into a directory with --output DIR")
    return database.data_fs


def _step(cut: Cut, place: Place, resumed: Journal | None, documents: Objects, options: Options) -> Step:
    present, dropped = _present(place, cut)
    if resumed is None:
        _refuse(place, cut, documents, options)
    blob_dir = place.blob_dir
    blobs = cut.entry.blobs.size if cut.entry.blobs and blob_dir and not blob_dir.exists() else 0
    return Step(cut, place, present, resumed.dropped if resumed else dropped, cut.end + blobs, blobs, resumed)


def _require_content(cut: Cut, blob_dir: Path | None, options: Options) -> None:
    if cut.entry.storage is None:
        raise TargetRefused(f"the backup holds no storage of {cut.entry.name}, only blobs", "choose a whole backup")
    if options.only != "storage" and cut.entry.blobs is None:
        raise TargetRefused(f"the backup holds no blobs of {cut.entry.name}", "`--only storage` restores the rest")
    if options.only != "storage" and blob_dir is None and cut.entry.blobs and cut.entry.blobs.count:
        raise TargetRefused(f"the site has no blob directory for {cut.entry.name}", "name it with --blob-dir, or use --only storage")


def _unfinished(places: list[Place], target: Target, options: Options) -> list[Journal | None]:
    """Return what an interrupted run of the same restore left for each database; raise TargetRefused when it was another one."""
    found = [journals.read(journals.path_of(place.data_fs)) for place in places]
    restores = {journal.restore for journal in found if journal is not None}
    for n, (place, cut) in enumerate(zip(places, target.cuts, strict=True)):
        if found[n] is None:
            known = list(journals.records(place.data_fs)) if options.output else sorted(restores)
            done = (one for restore in known if (one := journals.read_record(place.data_fs, restore)))
            found[n] = next((one for one in done if not options.output or _stands(place, cut, one, target, options)), None)
    for place, cut, journal in zip(places, target.cuts, found, strict=True):
        if journal is not None:
            _require_same(place, cut, journal, target, options)
    return found


def _stands(place: Place, cut: Cut, record: Journal, target: Target, options: Options) -> bool:
    """Tell whether a directory holds exactly what a finished restore of the same made: that one only had to clean up after itself."""
    whole = record.only == "blobs" or (place.is_new(record) and place.data_fs.stat().st_size == record.end)
    return whole and _same(place, cut, record, target, options)


def _same(place: Place, cut: Cut, journal: Journal, target: Target, options: Options) -> bool:
    ours = (target.backup.manifest.id, cut.end, cut.last_tid, options.only, str(place.blob_dir) if place.blob_dir else None)
    return ours == (journal.backup, journal.end, journal.last_tid, journal.only, journal.blob_dir)


def _require_same(place: Place, cut: Cut, journal: Journal, target: Target, options: Options) -> None:
    aborting = journal.phase == "aborting" and not place.is_new(journal)
    if aborting or not _same(place, cut, journal, target, options):
        raise TargetRefused(
            f"a restore of backup {journal.backup} up to {journal.last_tid} into {place.data_fs} was interrupted",
            "run `restore --abort` again to put the old state back"
            if aborting
            else "run that one again to finish it, or `restore --abort` to put the old state back",
        )


def _present(place: Place, cut: Cut) -> tuple[str | None, int]:
    """Return the last TID of the file in place and how many of its transactions are later than the cut."""
    if not place.data_fs.exists():
        return None, cut.dropped
    limit = tids.from_hex(cut.last_tid) if cut.last_tid else b""
    last, count = None, 0
    try:
        with contextlib.closing(DataFile(place.data_fs)) as file:
            hopper = Hopper(file.fd, 0, str(place.data_fs))
            for _hop in hopper:
                pass
            for hop in backwards(file.fd, hopper.tail.end):
                last = last or tids.to_hex(hop.tid)
                if hop.tid <= limit:
                    break
                count += 1
    except (SourceDamaged, VaultError):
        return last, count  # a damaged file is what restores are for
    return last, count


def _refuse(place: Place, cut: Cut, documents: Objects, options: Options) -> None:
    if options.output is not None:
        _require_empty(place)
    for path in (place.data_fs, place.blob_dir):
        if path is not None:
            require_owner(path, ours=options.output is not None)
    if options.output is None and place.data_fs.exists() and not options.replace_blobs and options.only != "storage":
        _require_same_site(place, cut, documents)


def _require_empty(place: Place) -> None:
    for path in (place.data_fs, place.blob_dir):
        if path is not None and path.exists() and (path.is_file() or any(path.iterdir())):
            # a restore that was killed behind its last step has left no journal
            hint = "choose an empty directory with --output; if a restore went here before, it had finished: nothing says that it was interrupted"
            raise TargetRefused(f"{path} exists already", hint)


def _require_same_site(place: Place, cut: Cut, documents: Objects) -> None:
    """Blobs of two sites must not be mixed: files of one would be taken for leftovers of the other."""
    if place.blob_dir is None or not place.blob_dir.exists():
        return
    try:
        if _newest_common(place.data_fs, cut, documents) is not None:
            return
    except VaultError:
        return
    raise TargetRefused(
        f"{place.data_fs} shares no transaction with the backup: {place.blob_dir} belongs to another site",
        "check --site and the paths; `--replace-blobs` puts the backup in its place all the same",
    )


def _newest_common(data_fs: Path, cut: Cut, documents: Objects) -> bytes | None:
    """Return the newest TID that a file and a backup share; raise SourceError."""
    with contextlib.closing(DataFile(data_fs)) as file:
        hopper = Hopper(file.fd, 0, str(data_fs))
        for _hop in hopper:
            pass
        return newest_common(file, hopper.tail.end, segments_of(cut.entry, documents), 0)


def execute(repository: Repository, plan: Plan, site_name: str, progress: Progress) -> Restored:
    """Do what the plan says, under the locks of all its storages.

    Raise InUse when a storage is open, SafetyBackupFailed, Damage, StoreError, OSError; the old state is whole then, or the
    journal says how to go on.
    """
    if plan.dumps:
        return _execute_dumps(repository, plan, site_name, progress)
    restore_id = next((step.resumed.restore for step in plan.steps if step.resumed), None) or new_id([], clock.now())
    with contextlib.ExitStack() as stack:
        if plan.in_place:
            require_stopped(_database(step.cut.entry, plan.site, plan.target) for step in plan.steps)
        caches = _caches(plan.target, plan.steps, plan.site, plan.options, repository.objects(""))
        require_unused(caches)
        for step in plan.steps:
            make_directories_like_parent(step.place.data_fs.parent)
            stack.enter_context(storage_locks(step.place.locked, barred=True))
        _require_as_planned(plan)
        _require_space(plan)
        beat = stack.enter_context(_marked(repository, site_name, plan, restore_id, progress))
        safety = _safety_backup(repository, plan, progress)
        switches = [_begin(repository, plan, step, restore_id, site_name, beat, progress, stack) for step in plan.steps]
        removed, notes = _switch_all(repository, plan, switches, caches, site_name)
    kept = [path for switch, journal in switches for path in kept_paths(switch.place, journal) if journal.replaced and path.exists()]
    notes += [note for switch, _journal in switches for note in switch.notes]
    return Restored(plan=plan, safety_backup=safety, kept=[str(path) for path in kept], caches=removed, notes=notes)


def _require_as_planned(plan: Plan) -> None:
    """Look again, now that nobody else can change it: the plan was made without the locks, and the answer to its question takes time."""
    for step in plan.steps:
        journal = journals.read(journals.path_of(step.place.data_fs))
        if journal != step.resumed and not (step.resumed and step.resumed.phase == "done"):
            raise InUse(f"another restore into {step.place.data_fs} has run meanwhile", "look at the plan again")
        if step.resumed is None and not plan.in_place:
            _require_empty(step.place)
        if step.resumed is None and step.replaces and plan.options.only != "blobs":
            _require_links(step.place)


def _require_links(place: Place) -> None:
    """Raise TargetRefused where the old file could not be kept beside the new one."""
    probe = place.data_fs.with_name(f"{place.data_fs.name}.restore.probe")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(probe)
        os.link(place.data_fs, probe)
        os.unlink(probe)
    except OSError as error:
        raise TargetRefused(
            f"{place.data_fs} cannot be hard-linked: {error.strerror}",
            "in place the replaced file is kept by a hard link; restore into a directory of another file system with --output DIR",
        ) from None


def _require_space(plan: Plan) -> None:
    """Raise TargetRefused when what all databases together need does not fit on one of the file systems."""
    needs = [need for step in plan.steps if step.resumed is None for need in _needs(step)]
    for device in dict.fromkeys(directory.stat().st_dev for directory, _size in needs):
        here = [(directory, size) for directory, size in needs if directory.stat().st_dev == device]
        free, needed = shutil.disk_usage(here[0][0]).free, sum(size for _directory, size in here)
        if free < needed:
            raise TargetRefused(f"{here[0][0]} has {free} bytes free, {needed} are needed", "free space there first")


def _needs(step: Step) -> list[tuple[Path, int]]:
    """Return the directories that are there now and what a database needs below them."""
    blob_dir = step.place.blob_dir or step.place.data_fs
    existing = next(parent for parent in (blob_dir, *blob_dir.parents) if parent.is_dir())
    return [(step.place.data_fs.parent, step.needed - step.needed_blobs), (existing, step.needed_blobs)]


@contextlib.contextmanager
def _marked(repository: Repository, site_name: str, plan: Plan, restore_id: str, progress: Progress) -> Iterator[Callable[[], None]]:
    """Hold a marker that keeps the backup from being deleted, and give what keeps it fresh; a repository that cannot be written to needs none."""
    try:
        left = running.left_by(repository.store, running.marker_key(site_name, "restore", restore_id))
        backup = plan.target.backup.manifest.id
        run = Run.start(repository.store, site_name, "restore", restore_id, [backup], left)
        # from here on nobody takes it away; until here a sweep may have
        if backup not in repository.listing(site_name).backups and backup not in repository.trashed(site_name):
            run.finish()
            raise BackupMissing(f"the backup {backup} has just been removed for good", "`zodb-vault list` shows what there is")
    except (StoreError, Damage) as error:
        progress.note(f"the repository cannot be written to, so nothing keeps others from deleting the backup meanwhile: {error.message}")
        yield lambda: None
        return

    def beat() -> None:
        with contextlib.suppress(VaultError):  # a restore does not end because its marker is gone
            if run.due():
                run.renew()

    try:
        yield beat
    finally:
        with contextlib.suppress(StoreError):
            run.finish()


def _safety_backup(repository: Repository, plan: Plan, progress: Progress) -> str | None:
    unsaved = any(step.unsaved for step in plan.steps)
    if not plan.in_place or not plan.options.safety_backup or not unsaved or plan.site is None:
        return None
    # what is not replaced need not be saved, and what is not there cannot be
    replaced = tuple(_database(step.cut.entry, plan.site, plan.target).name for step in plan.steps if step.replaces)
    return _saved_first(repository, plan, replaced, progress)


def _saved_first(repository: Repository, plan: Plan, replaced: tuple[str, ...], progress: Progress) -> str:
    progress.note("saving the present state first")
    assert plan.site is not None
    options = CreateOptions(
        trigger="safety", note=f"before the restore of {plan.target.backup.manifest.id}", databases=replaced, workers=plan.options.workers
    )
    hint = "correct the cause, or use --no-safety-backup: the replaced file is kept in any case"
    try:
        try:
            done = create(repository, plan.site, options, progress)
        except BlobsMissing:
            done = create(repository, plan.site, msgspec.structs.replace(options, allow_missing=2**62), progress)
    except (VaultError, OSError) as error:
        raise SafetyBackupFailed(f"the present state could not be saved: {error}", hint) from error
    if done.manifest.status == "incomplete":
        progress.note(f"the present state is damaged; the safety backup {done.manifest.id} holds what there is")
    return done.manifest.id


def _begin(
    repository: Repository, plan: Plan, step: Step, restore_id: str, site_name: str, beat: Callable[[], None], progress: Progress,
    stack: contextlib.ExitStack,
) -> tuple[Switch, Journal]:  # fmt: skip
    """Write the journal of a database, or take up the one that is there."""
    objects = repository.objects(restore_id)
    switch = Switch(objects, objects, step.cut.entry, step.place, progress, plan.options.workers, beat)
    stack.callback(switch.close)
    if step.resumed is None:
        return switch, journals.write(step.place.data_fs, _journal(plan, step, restore_id, site_name))
    journal = switch.resume(step.resumed)
    if journal.phase == "building":
        journal = journals.write(step.place.data_fs, msgspec.structs.replace(journal, saved=_saved(plan, step)))
    elif journal.only != "blobs" and (not step.place.is_new(journal) or step.place.data_fs.stat().st_size != journal.end):
        switch.notes.append(f"{step.place.data_fs} was restored already and written to since; it is left as it is")
    return switch, journal


def _switch_all(
    repository: Repository, plan: Plan, work: list[tuple[Switch, Journal]], caches: list[Cache], site_name: str
) -> tuple[list[str], list[str]]:
    """Bring all databases from each phase to the next one together; update ``work``, return the caches that were removed, and notes.

    The journals go last: as long as one is there, a run knows what belongs to the restore. From the first of several renames to the
    last one nobody can open any of the storages for writing, even if this process dies.
    """
    for n, (switch, journal) in enumerate(work):
        work[n] = (switch, switch.build(journal) if journal.phase == "building" else journal)
    # before the first rename: the new state is never valid while they are there, and the old one does without them
    removed = remove_caches(caches)
    for switch, _journal in work if len(work) > 1 else []:
        bar(switch.place.locked)
    for n, (switch, journal) in enumerate(work):
        work[n] = (switch, switch.switch(journal) if journal.phase == "switching" else journal)
    for switch, _journal in work:
        unbar(switch.place.locked)
    notes = _label(repository, site_name, plan, work[0][1].restore) if work else []
    for switch, journal in work:
        if journal.phase == "switched":
            switch.put_aside(journal)
    for n, (switch, journal) in enumerate(work):
        work[n] = (switch, journals.finish(switch.place.data_fs, journal) if journal.phase == "switched" else journal)
    for switch, journal in work:
        switch.tidy(journal)
    for switch, journal in work if not plan.in_place else []:
        _tidy_output(switch.place, journal)
    return removed, notes


def _journal(plan: Plan, step: Step, restore_id: str, site_name: str) -> Journal:
    data_fs = step.place.data_fs
    return Journal(
        restore=restore_id, backup=plan.target.backup.manifest.id, site=site_name, database=step.cut.entry.name, phase="building",
        end=step.cut.end, last_tid=step.cut.last_tid, only=plan.options.only, data_fs=str(data_fs),
        blob_dir=str(step.place.blob_dir) if step.place.blob_dir else None, building=f"{data_fs.name}.restoring-{restore_id}",
        replaced=replaced_name(data_fs, restore_id) if step.replaces and plan.options.only != "blobs" else None,
        kept_dir=KEPT_PREFIX + restore_id, dropped=step.dropped, saved=_saved(plan, step),
    )  # fmt: skip


def _saved(plan: Plan, step: Step) -> int | None:
    return step.place.data_fs.stat().st_size if plan.options.safety_backup and step.replaces else None


def _tidy_output(place: Place, journal: Journal) -> None:
    """Leave nothing of ours in a new directory: there is no old state to go back to."""
    if journal.replaced is not None:  # somebody has used the directory between two runs
        return
    if place.blob_dir is not None:
        shutil.rmtree(place.blob_dir / journal.kept_dir, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{place.data_fs}.lock")
    journals.remove(journals.record_of(place.data_fs, journal.restore))


def _label(repository: Repository, site_name: str, plan: Plan, restore_id: str) -> list[str]:
    """Note that the site goes on from an older state: the next create then knows why the file does not continue the newest backup.

    It stands before the restore counts as done, and is written once, however often that is interrupted.
    """
    if not plan.in_place or (plan.options.elsewhere and not _is_the_site(repository, site_name, plan)):
        return []
    backup = plan.target.backup
    if any(note.get("restore") == restore_id for note in backup.facts.restored):
        return []
    cuts = [step.cut for step in plan.steps] + [step.cut for step in plan.dumps]
    kept = {cut.entry.name: cut.last_tid for cut in cuts}
    value = {"at": clock.iso(clock.now()), "tid": cuts[0].last_tid, "databases": kept, "restore": restore_id}
    try:
        repository.add_label(site_name, backup.manifest.id, "restored", value, repository.listing(site_name))
    except StoreError as error:
        return [f"the restore could not be noted in the repository: {error.message}"]
    return []


def _is_the_site(repository: Repository, site_name: str, plan: Plan) -> bool:
    """Tell whether the other configuration names the very files that the backups of the site come from."""
    newest = next(parents(Catalog(repository, site_name)), None)
    paths = {str(step.place.locked) for step in plan.steps}
    paths |= {strategy_of(step.database).location(step.database) for step in plan.dumps if step.database}
    return newest is not None and newest.manifest.source.machine == machine() and not paths.isdisjoint(newest.manifest.source.paths)
