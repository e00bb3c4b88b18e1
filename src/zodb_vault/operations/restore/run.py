"""Restore: make a plan, hold the locks, save the present state, then let ``switch`` and ``dumps`` do it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable

import msgspec

from ...errors import InUse, TargetRefused
from ...repository.ids import new_id
from ...repository.repository import Repository
from ...runtime import clock
from ...runtime.ownership import make_directories_like_parent
from ...runtime.progress import Progress
from ...strategies.blobs.kept import KEPT_PREFIX
from ...strategies.filestorage.lock import bar, storage_locks, unbar
from ...strategies.filestorage.restore import journal as journals
from ...strategies.filestorage.restore.client_caches import Cache, remove_caches, require_unused
from ...strategies.filestorage.restore.journal import Journal
from ...strategies.filestorage.restore.kept import replaced_name
from ...strategies.filestorage.restore.paths import DataFsPaths
from ...strategies.filestorage.restore.phases import DataFsRestore
from ...strategies.filestorage.zeo import require_stopped
from .abort import kept_paths
from .dumps import Dumps
from .plan import DataFsStep, RestorePlan, caches_of, how_of, needs_of, plan
from .preflight import RestoreOptions, database_for, require_empty, require_links
from .safeguards import marked, note_restored, safety_backup, saved_first

__all__ = ["RestoreOptions", "RestorePlan", "Restored", "execute", "plan"]


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did."""

    plan: RestorePlan
    safety_backup: str | None
    kept: list[str]
    caches: list[str]
    notes: list[str]


def _execute_dumps(repository: Repository, plan: RestorePlan, site_name: str, progress: Progress) -> Restored:
    restore_id = new_id([], clock.now())
    with marked(repository, site_name, plan, restore_id, progress) as beat:
        replaced = tuple(step.database.name for step in plan.dumps if step.database and step.replaces)
        wanted = replaced and plan.options.safety_backup and not plan.options.elsewhere
        safety = saved_first(repository, plan, replaced, progress) if wanted else None
        dumps = Dumps(
            repository.objects(restore_id),
            plan.dumps,
            how_of(plan.options, plan.target),
            restore_id,
            progress,
            beat,
        )
        dumps.run()
        notes = note_restored(repository, site_name, plan, restore_id) if plan.options.only != "blobs" else []
    return Restored(
        plan=plan, safety_backup=safety, kept=dumps.kept, notes=notes + dumps.notes, caches=dumps.caches
    )


def execute(repository: Repository, plan: RestorePlan, site_name: str, progress: Progress) -> Restored:
    """Do what the plan says, under the locks of all its storages.

    Raise InUse when a storage is open, SafetyBackupFailed, Damage, StoreError, OSError; the old state is whole then, or the
    journal says how to go on.
    """
    if not plan.dumps:
        return _execute_files(repository, plan, site_name, progress)
    if not plan.steps:
        return _execute_dumps(repository, plan, site_name, progress)
    # a directory is done when nothing says any more that a dump is being written to it
    how = how_of(plan.options, plan.target)
    Dumps(repository.objects(""), plan.dumps, how, "", progress, lambda: None).begin()
    files = _execute_files(repository, msgspec.structs.replace(plan, dumps=[]), site_name, progress)
    dumps = _execute_dumps(repository, plan, site_name, progress)
    return msgspec.structs.replace(dumps, notes=files.notes + dumps.notes)


def _execute_files(repository: Repository, plan: RestorePlan, site_name: str, progress: Progress) -> Restored:
    restore_id = next((step.resumed.restore for step in plan.steps if step.resumed), None) or new_id(
        [], clock.now()
    )
    with contextlib.ExitStack() as stack:
        if plan.in_place:
            require_stopped(database_for(step.cut.entry, plan.site, plan.target) for step in plan.steps)
        caches = caches_of(plan.target, plan.steps, plan.site, plan.options, repository.objects(""))
        require_unused(caches)
        for step in plan.steps:
            make_directories_like_parent(step.place.data_fs.parent)
            stack.enter_context(storage_locks(step.place.locked, barred=True))
        _require_as_planned(plan)
        _require_space(plan)
        beat = stack.enter_context(marked(repository, site_name, plan, restore_id, progress))
        safety = safety_backup(repository, plan, progress)
        switches = [
            _begin(repository, plan, step, restore_id, site_name, beat, progress, stack)
            for step in plan.steps
        ]
        removed, notes = _switch_all(repository, plan, switches, caches, site_name)
    kept = [
        path
        for switch, journal in switches
        for path in kept_paths(switch.place, journal)
        if journal.replaced and path.exists()
    ]
    notes += [note for switch, _journal in switches for note in switch.notes]
    return Restored(
        plan=plan, safety_backup=safety, kept=[str(path) for path in kept], caches=removed, notes=notes
    )


def _require_as_planned(plan: RestorePlan) -> None:
    """Look again, now that nobody else can change it: the plan was made without the locks, and the answer to its question takes time."""
    for step in plan.steps:
        journal = journals.read(journals.path_of(step.place.data_fs))
        if journal != step.resumed and not (step.resumed and step.resumed.phase == "done"):
            raise InUse(
                f"another restore into {step.place.data_fs} has run meanwhile", "look at the plan again"
            )
        if step.resumed is None and not plan.in_place:
            require_empty(step.place)
        if step.resumed is None and step.replaces and plan.options.only != "blobs":
            require_links(step.place)


def _require_space(plan: RestorePlan) -> None:
    """Raise TargetRefused when what all databases together need does not fit on one of the file systems."""
    needs = [need for step in plan.steps if step.resumed is None for need in needs_of(step)]
    for device in dict.fromkeys(directory.stat().st_dev for directory, _size in needs):
        here = [(directory, size) for directory, size in needs if directory.stat().st_dev == device]
        free, needed = shutil.disk_usage(here[0][0]).free, sum(size for _directory, size in here)
        if free < needed:
            raise TargetRefused(
                f"{here[0][0]} has {free} bytes free, {needed} are needed", "free space there first"
            )


def _begin(
    repository: Repository,
    plan: RestorePlan,
    step: DataFsStep,
    restore_id: str,
    site_name: str,
    beat: Callable[[], None],
    progress: Progress,
    stack: contextlib.ExitStack,
) -> tuple[DataFsRestore, Journal]:
    """Write the journal of a database, or take up the one that is there."""
    objects = repository.objects(restore_id)
    switch = DataFsRestore(
        objects,
        objects,
        step.cut.entry,
        step.place,
        progress,
        plan.options.workers,
        beat,
        exchange=plan.options.replace_blobs,
    )
    stack.callback(switch.close)
    if step.resumed is None:
        return switch, journals.write(step.place.data_fs, _journal(plan, step, restore_id, site_name))
    journal = switch.resume(step.resumed)
    if journal.phase == "building":
        journal = journals.write(
            step.place.data_fs, msgspec.structs.replace(journal, saved=_saved(plan, step))
        )
    elif journal.only != "blobs" and (
        not step.place.is_new(journal) or step.place.data_fs.stat().st_size != journal.end
    ):
        switch.notes.append(
            f"{step.place.data_fs} was restored already and written to since; it is left as it is"
        )
    return switch, journal


def _switch_all(
    repository: Repository,
    plan: RestorePlan,
    work: list[tuple[DataFsRestore, Journal]],
    caches: list[Cache],
    site_name: str,
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
    notes = note_restored(repository, site_name, plan, work[0][1].restore) if work else []
    for switch, journal in work:
        if journal.phase == "switched":
            switch.put_aside(journal)
    for n, (switch, journal) in enumerate(work):
        work[n] = (
            switch,
            journals.finish(switch.place.data_fs, journal) if journal.phase == "switched" else journal,
        )
    for switch, journal in work:
        switch.tidy(journal)
    for switch, journal in work if not plan.in_place else []:
        _tidy_output(switch.place, journal)
    return removed, notes


def _journal(plan: RestorePlan, step: DataFsStep, restore_id: str, site_name: str) -> Journal:
    data_fs = step.place.data_fs
    return Journal(
        restore=restore_id,
        backup=plan.target.backup.manifest.id,
        site=site_name,
        database=step.cut.entry.name,
        phase="building",
        end=step.cut.end,
        last_tid=step.cut.last_tid,
        only=plan.options.only,
        data_fs=str(data_fs),
        blob_dir=str(step.place.blob_dir) if step.place.blob_dir else None,
        bucket=step.place.bucket.root if step.place.bucket else None,
        building=f"{data_fs.name}.restoring-{restore_id}",
        replaced=replaced_name(data_fs, restore_id)
        if step.replaces and plan.options.only != "blobs"
        else None,
        kept_dir=KEPT_PREFIX + restore_id,
        dropped=step.dropped,
        saved=_saved(plan, step),
    )


def _saved(plan: RestorePlan, step: DataFsStep) -> int | None:
    return step.place.data_fs.stat().st_size if plan.options.safety_backup and step.replaces else None


def _tidy_output(place: DataFsPaths, journal: Journal) -> None:
    """Leave nothing of ours in a new directory: there is no old state to go back to."""
    if journal.replaced is not None:  # somebody has used the directory between two runs
        return
    if place.blob_dir is not None:
        shutil.rmtree(place.blob_dir / journal.kept_dir, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{place.data_fs}.lock")
    journals.remove(journals.record_of(place.data_fs, journal.restore))
