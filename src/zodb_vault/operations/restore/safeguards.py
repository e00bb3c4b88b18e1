"""What guards a restore in the repository: a marker that keeps its backup, a safety backup, and a note."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import msgspec

from ...errors import BackupMissing, BlobsMissing, Damage, SafetyBackupFailed, StoreError, VaultError
from ...model.source import Site
from ...repository import markers
from ...repository.markers import RunMarker
from ...repository.repository import Repository
from ...runtime import clock
from ...runtime.progress import Progress
from ...strategies.backend_lookup import location_of
from ..catalog import Catalog, parents
from ..create.options import CreateOptions
from ..create.provenance import machine
from ..create.run import create
from .plan import RestorePlan


@contextlib.contextmanager
def marked(
    repository: Repository, site_name: str, plan: RestorePlan, restore_id: str, progress: Progress
) -> Iterator[Callable[[], None]]:
    """Hold a marker that keeps the backup from being deleted, and give what renews it.

    In a repository that cannot be written to nothing can be marked, and usually nothing is deleted either.
    """
    try:
        left = markers.marker_of_dead_run(
            repository.store, markers.marker_key(site_name, "restore", restore_id)
        )
        backup = plan.target.backup.manifest.id
        run = RunMarker.start(repository.store, site_name, "restore", restore_id, [backup], left)
        # from here on nothing removes the backup; until here a sweep may have
        if not _is_there(repository, site_name, backup):
            run.remove()
            raise BackupMissing(
                f"the backup {backup} has just been removed for good", "`zodb-vault list` shows what there is"
            )
    except (StoreError, Damage) as error:
        progress.note(
            "the repository cannot be written to, so nothing keeps other runs from deleting the backup "
            f"during the restore: {error.message}"
        )
        yield lambda: None
        return

    def heartbeat() -> None:
        with contextlib.suppress(VaultError):  # a restore does not end because its marker is gone
            if run.heartbeat_is_due():
                run.update()

    try:
        yield heartbeat
    finally:
        with contextlib.suppress(StoreError):
            run.remove()


def _is_there(repository: Repository, site_name: str, backup: str) -> bool:
    return backup in repository.listing(site_name).backups or backup in repository.trash.backups(site_name)


def safety_backup(repository: Repository, plan: RestorePlan, progress: Progress) -> str | None:
    """Save what is replaced and nothing else holds.

    Return the id of the backup, None where none is wanted.
    """
    unsaved = any(step.planned.unsaved() for step in plan.steps)
    if not unsaved or not plan.options.safety_backup or plan.site is None:
        return None
    # what is not replaced need not be saved, and what is not there cannot be
    replaced = tuple(step.database.name for step in plan.steps if step.database and step.planned.exists())
    return _save(repository, plan, plan.site, replaced, progress)


def _save(
    repository: Repository, plan: RestorePlan, site: Site, replaced: tuple[str, ...], progress: Progress
) -> str:
    """Back up databases that are replaced, even damaged ones; raise SafetyBackupFailed."""
    progress.note("saving the present state first")
    options = CreateOptions(
        trigger="safety",
        note=f"before the restore of {plan.target.backup.manifest.id}",
        databases=replaced,
        workers=plan.options.workers,
    )
    hint = "correct the cause, or use --no-safety-backup: the replaced file is kept in any case"
    try:
        try:
            done = create(repository, site, options, progress)
        except BlobsMissing:
            done = create(repository, site, msgspec.structs.replace(options, allow_missing=2**62), progress)
    except (VaultError, OSError) as error:
        raise SafetyBackupFailed(f"the present state could not be saved: {error}", hint) from error
    if done.manifest.status == "incomplete":
        progress.note(
            f"the present state is damaged; the safety backup {done.manifest.id} holds what there is"
        )
    return done.manifest.id


def note_restored(repository: Repository, site_name: str, plan: RestorePlan, restore_id: str) -> list[str]:
    """Note that the site goes on from an older state.

    The next create then knows why it does not continue the newest backup.

    Noted before the restore counts as done, and only once, however often that is interrupted. Blobs alone
    change no state.
    """
    if not plan.in_place or plan.options.only == "blobs":
        return []
    if plan.options.elsewhere and not _is_the_site(repository, site_name, plan):
        return []
    backup = plan.target.backup
    if any(note.get("restore") == restore_id for note in backup.facts.restored):
        return []
    tids = {step.cut.entry.name: step.cut.last_tid for step in plan.steps}
    first = next(iter(tids.values()))
    value = {"at": clock.iso(clock.now()), "tid": first, "databases": tids, "restore": restore_id}
    try:
        repository.labels.add(site_name, backup.manifest.id, "restored", value, repository.listing(site_name))
    except StoreError as error:
        return [f"the restore could not be noted in the repository: {error.message}"]
    return []


def _is_the_site(repository: Repository, site_name: str, plan: RestorePlan) -> bool:
    """Tell whether the other configuration names the databases that the backups of the site come from."""
    newest = next(parents(Catalog(repository, site_name)), None)
    if newest is None or newest.manifest.source.machine != machine():
        return False
    restored = {location_of(step.database) for step in plan.steps if step.database}
    return not restored.isdisjoint(newest.manifest.source.paths)
