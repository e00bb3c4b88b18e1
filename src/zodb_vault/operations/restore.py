"""Restore: resolve everything, show the plan, hold the locks, save the present state, then let ``switch`` do it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from ..datafs.tail import Hopper, backwards
from ..errors import BlobsMissing, SafetyBackupFailed, SourceDamaged, StoreError, TargetRefused, UsageError, VaultError
from ..model import clock
from ..model import tid as tids
from ..model.manifest import DatabaseEntry
from ..model.source import Database, Site
from ..policy.recovery import Request
from ..repository.objects import Objects
from ..repository.repository import Repository, new_id
from ..repository.running import Run
from ..strategies.base import Progress
from ..strategies.datafile import DataFile
from ..strategies.filestorage import segments_of
from ..strategies.locking import storage_locks
from ..strategies.standing import newest_common
from . import journal as journals
from .catalog import Catalog
from .create import Options as CreateOptions
from .create import create
from .journal import Journal
from .switch import KEPT_PREFIX, Place, Switch, place_of, require_owner
from .targets import Cut, Target, resolve


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks of one restore; without ``output`` it goes into the site itself."""

    backup: str | None = None
    request: Request | None = None
    databases: tuple[str, ...] = ()
    output: Path | None = None
    only: Literal["storage", "blobs"] | None = None
    allow_incomplete: bool = False
    safety_backup: bool = True
    replace_blobs: bool = False
    workers: int = 2


class Step(msgspec.Struct, frozen=True):
    """One database of a plan: what goes where, what it replaces, and the journal of an interrupted restore of the same."""

    cut: Cut
    place: Place
    present_last_tid: str | None
    dropped: int
    needed: int
    resumed: Journal | None

    @property
    def replaces(self) -> bool:
        """Tell whether there is a Data.fs in place."""
        return self.place.data_fs.exists()


class Plan(msgspec.Struct, frozen=True):
    """What a restore is going to do; nothing has been changed yet."""

    target: Target
    steps: list[Step]
    options: Options
    site: Site | None

    @property
    def in_place(self) -> bool:
        """Tell whether the site itself is the target."""
        return self.options.output is None


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did."""

    plan: Plan
    safety_backup: str | None
    kept: list[str]
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
    steps = [_step(cut, *_destination(cut.entry, site, options, len(target.cuts)), documents, options) for cut in target.cuts]
    return Plan(target, steps, options, site)


def _destination(entry: DatabaseEntry, site: Site | None, options: Options, count: int) -> tuple[Path, Path | None]:
    if options.output is not None:
        root = options.output.absolute() / (entry.folder if count > 1 else "")
        return root / "Data.fs", root / "blobs" if entry.blobs and options.only != "storage" else None
    database = next((one for one in site.databases if one.name == entry.name), None) if site else None
    if database is None:
        raise UsageError(f"the site has no database {entry.name} to restore into", "restore into a directory with --output DIR")
    return Path(_data_fs(database)), Path(database.blob_dir) if database.blob_dir else None


def _data_fs(database: Database) -> str:
    if database.backend != "filestorage" or database.data_fs is None:
        raise UsageError(f"this version cannot restore into {database.backend}", "restore into a directory with --output DIR")
    return database.data_fs


def _step(cut: Cut, data_fs: Path, blob_dir: Path | None, documents: Objects, options: Options) -> Step:
    _require_content(cut, blob_dir, options)
    place = place_of(data_fs, blob_dir, cut.entry.layout)
    resumed = _unfinished(place, cut, options)
    present, dropped = _present(place, cut)
    if resumed is None:
        _refuse(place, cut, documents, options)
    needed = cut.end + (cut.entry.blobs.size if cut.entry.blobs and blob_dir and not blob_dir.exists() else 0)
    return Step(cut, place, present, resumed.dropped if resumed else dropped, needed, resumed)


def _require_content(cut: Cut, blob_dir: Path | None, options: Options) -> None:
    if cut.entry.storage is None:
        raise TargetRefused(f"the backup holds no storage of {cut.entry.name}, only blobs", "choose a whole backup")
    if options.only != "storage" and cut.entry.blobs is None:
        raise TargetRefused(f"the backup holds no blobs of {cut.entry.name}", "`--only storage` restores the rest")
    if options.only != "storage" and blob_dir is None and cut.entry.blobs and cut.entry.blobs.count:
        raise TargetRefused(f"the site has no blob directory for {cut.entry.name}", "name it with --blob-dir, or use --only storage")


def _unfinished(place: Place, cut: Cut, options: Options) -> Journal | None:
    journal = journals.read(journals.path_of(place.data_fs))
    if journal is None:
        return None
    same = (journal.end, journal.last_tid, journal.only) == (cut.end, cut.last_tid, options.only)
    if journal.phase == "aborting" or not same:
        raise TargetRefused(
            f"a restore of backup {journal.backup} up to {journal.last_tid} into {place.data_fs} was interrupted",
            "run that one again to finish it, or `restore --abort` to put the old state back",
        )
    return journal


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
            require_owner(path)
    if options.output is None and place.data_fs.exists() and not options.replace_blobs and options.only != "storage":
        _require_same_site(place, cut, documents)


def _require_empty(place: Place) -> None:
    for path in (place.data_fs, place.blob_dir):
        if path is not None and path.exists() and (path.is_file() or any(path.iterdir())):
            raise TargetRefused(f"{path} exists already", "choose an empty directory with --output")


def _require_same_site(place: Place, cut: Cut, documents: Objects) -> None:
    """Blobs of two sites must not be mixed: files of one would be taken for leftovers of the other."""
    if place.blob_dir is None or not place.blob_dir.exists():
        return
    try:
        with contextlib.closing(DataFile(place.data_fs)) as file:
            hopper = Hopper(file.fd, 0, str(place.data_fs))
            for _hop in hopper:
                pass
            if newest_common(file, hopper.tail.end, segments_of(cut.entry, documents), 0) is not None:
                return
    except VaultError:
        return
    raise TargetRefused(
        f"{place.data_fs} shares no transaction with the backup: {place.blob_dir} belongs to another site",
        "check --site and the paths; `--replace-blobs` puts the backup in its place all the same",
    )


def execute(repository: Repository, plan: Plan, site_name: str, progress: Progress) -> Restored:
    """Do what the plan says, under the locks of all its storages.

    Raise InUse when a storage is open, SafetyBackupFailed, Damage, StoreError, OSError; the old state is whole then, or the
    journal says how to go on.
    """
    restore_id = new_id([], clock.now())
    with contextlib.ExitStack() as stack:
        for step in plan.steps:
            _make_parent(step.place)
            stack.enter_context(storage_locks(step.place.locked))
        _require_space(plan)
        stack.enter_context(_marked(repository, site_name, plan, restore_id, progress))
        safety = _safety_backup(repository, plan, progress)
        restored = _switch_all(repository, plan, restore_id, site_name, safety, progress, stack)
    _tidy(plan)
    _label(repository, site_name, plan, restored)
    return restored


def _make_parent(place: Place) -> None:
    from ..stores.durable import make_directories

    make_directories(place.data_fs.parent)


def _require_space(plan: Plan) -> None:
    for step in plan.steps:
        free = shutil.disk_usage(step.place.data_fs.parent).free
        if step.resumed is None and free < step.needed:
            raise TargetRefused(f"{step.place.data_fs.parent} has {free} bytes free, {step.needed} are needed", "free space there first")


@contextlib.contextmanager
def _marked(repository: Repository, site_name: str, plan: Plan, restore_id: str, progress: Progress) -> Iterator[None]:
    """Hold a marker that keeps the backup from being deleted; a repository that cannot be written to needs none."""
    try:
        run = Run.start(repository.store, site_name, "restore", restore_id, [plan.target.backup.manifest.id])
    except StoreError as error:
        progress.note(f"the repository cannot be written to, so nothing keeps others from deleting the backup meanwhile: {error.message}")
        yield
        return
    try:
        yield
    finally:
        run.finish()


def _safety_backup(repository: Repository, plan: Plan, progress: Progress) -> str | None:
    replaced = [step for step in plan.steps if step.replaces and step.resumed is None]
    if not plan.in_place or not plan.options.safety_backup or not replaced or plan.site is None:
        return None
    progress.note("saving the present state first")
    options = CreateOptions(trigger="safety", note=f"before the restore of {plan.target.backup.manifest.id}", workers=plan.options.workers)
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


def _switch_all(
    repository: Repository, plan: Plan, restore_id: str, site_name: str, safety: str | None, progress: Progress, stack: contextlib.ExitStack
) -> Restored:
    objects = repository.objects(restore_id)
    work: list[tuple[Switch, Journal]] = []
    for step in plan.steps:
        switch = Switch(objects, objects, step.cut.entry, step.place, progress, plan.options.workers)
        stack.callback(switch.close)
        journal = step.resumed or journals.write(step.place.data_fs, _journal(plan, step, restore_id, site_name))
        work.append((switch, journal))
    work = [(switch, switch.build(journal) if journal.phase == "building" else journal) for switch, journal in work]
    work = [(switch, switch.switch(journal) if journal.phase == "switching" else journal) for switch, journal in work]
    work = [(switch, switch.put_aside(journal) if journal.phase == "switched" else journal) for switch, journal in work]
    notes = [note for switch, _journal in work for note in switch.notes]
    kept = [path for (switch, journal) in work for path in _kept(switch.place, journal)]
    return Restored(plan=plan, safety_backup=safety, kept=kept, notes=notes)


def _journal(plan: Plan, step: Step, restore_id: str, site_name: str) -> Journal:
    stamp = restore_id.partition("-")[0]
    return Journal(
        restore=restore_id, backup=plan.target.backup.manifest.id, site=site_name, database=step.cut.entry.name, phase="building",
        end=step.cut.end, last_tid=step.cut.last_tid, only=plan.options.only, data_fs=str(step.place.data_fs),
        blob_dir=str(step.place.blob_dir) if step.place.blob_dir else None, building=f"{step.place.data_fs.name}.restoring-{restore_id}",
        replaced=f"{step.place.data_fs.name}.replaced-{stamp}" if step.replaces and plan.options.only != "blobs" else None,
        kept_dir=KEPT_PREFIX + restore_id, dropped=step.dropped,
    )  # fmt: skip


def _kept(place: Place, journal: Journal) -> list[str]:
    paths = [place.data_fs.with_name(journal.replaced)] if journal.replaced else []
    if place.blob_dir is not None and (place.blob_dir / journal.kept_dir).exists() and journal.replaced:
        paths.append(place.blob_dir / journal.kept_dir)
    return [str(path) for path in paths]


def _tidy(plan: Plan) -> None:
    """Leave nothing of ours in a new directory: there is no old state to go back to."""
    for step in plan.steps:
        if step.replaces and not plan.in_place:
            for record in step.place.data_fs.parent.glob(f"{step.place.data_fs.name}.restored-*.json"):
                journals.remove(record)
            for kept in step.place.blob_dir.glob(f"{KEPT_PREFIX}*") if step.place.blob_dir else []:
                shutil.rmtree(kept)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{step.place.data_fs}.lock")


def _label(repository: Repository, site_name: str, plan: Plan, restored: Restored) -> None:
    """Note that the site goes on from an older state: the next create then knows why the file does not continue the newest backup."""
    if not plan.in_place:
        return
    backup = plan.target.backup.manifest.id
    value = {"at": clock.iso(clock.now()), "tid": plan.steps[0].cut.last_tid}
    try:
        repository.add_label(site_name, backup, "restored", value, repository.listing(site_name))
    except StoreError as error:
        restored.notes.append(f"the restore could not be noted in the repository: {error.message}")
