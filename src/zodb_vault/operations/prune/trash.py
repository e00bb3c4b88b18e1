"""Move backups to the trash and bring them back; what a run relies on stays, whoever comes first."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from ...errors import BackupMissing, Damage, InUse, KeyMissing, TargetRefused, VaultError
from ...model import canonical
from ...model.manifest import Marker
from ...repository import markers as running
from ...repository.ids import new_id
from ...repository.markers import RunMarker
from ...repository.repository import Repository, gone_key, manifest_key, trash_key
from ...repository.trash import forget_pending
from ..catalog import Backup, Catalog


def delete(repository: Repository, catalog: Catalog, backup: Backup, *, force: bool) -> None:
    """Move a backup to the trash; raise InUse when a run relies on it, TargetRefused when it is pinned or the last complete one."""
    for error in move_to_trash(repository, catalog, [backup], force=force).values():
        raise error


def move_to_trash(
    repository: Repository, catalog: Catalog, backups: Sequence[Backup], *, force: bool
) -> dict[str, VaultError]:
    """Move backups to the trash, and return why some of them stay, by id.

    A marker keeps what is moved, so that it can be put back, and others from moving it. Then come the copies in the trash, the removals, and
    a look whether anybody relies on them: what comes in between is seen here, or sees that they are gone.
    """
    run = RunMarker.start(
        repository.store,
        catalog.site,
        "delete",
        new_id([], repository.store.clock()),
        [one.manifest.id for one in backups],
    )
    try:
        return _moved(repository, Catalog(repository, catalog.site), backups, run, force=force)
    finally:
        run.remove()


def _moved(
    repository: Repository, catalog: Catalog, backups: Sequence[Backup], run: RunMarker, *, force: bool
) -> dict[str, VaultError]:
    site, refused = catalog.site, _refused(catalog, backups, run, force=force)
    moved = [backup for backup in backups if backup.manifest.id not in refused]
    data = {}
    for backup in moved:
        with contextlib.suppress(BackupMissing):  # somebody else was faster
            data[backup.manifest.id] = repository.manifest_bytes(site, backup.manifest.id)
    newest = max([*catalog.listing.backups, *catalog.listing.labels], default="")
    # that they were in the trash before does not count for the grace period
    forget_pending(repository.store, [trash_key(site, backup_id) for backup_id in data])
    for backup_id, content in data.items():
        if backup_id == newest:  # later ids have to go on behind it, and its label is listed with the site
            repository.add_label(site, backup_id, "deleted", True, catalog.listing)
        repository.store.put(trash_key(site, backup_id), [content])
        repository.store.delete(manifest_key(site, backup_id))
    try:
        # another delete, or an annotate, may have come in between
        now = Catalog(repository, site)
        again = [
            Backup(one.manifest, repository.facts(now.listing, one.manifest.id))
            for one in moved
            if one.manifest.id in data
        ]
        later = _refused(now, again, run, force=force)
        lost = data.keys() - set(repository.trashed(site))
        later |= {
            one: InUse(f"backup {one} was being brought back", "look at `zodb-vault list`")
            for one in lost
            if one not in later
        }
    except VaultError as error:
        later = dict.fromkeys(data, error)
    for backup_id in sorted(later, reverse=True):
        repository.store.put(manifest_key(site, backup_id), [data[backup_id]])
        repository.store.delete(trash_key(site, backup_id))
    return refused | later


def _refused(
    catalog: Catalog, backups: Sequence[Backup], run: RunMarker, *, force: bool
) -> dict[str, VaultError]:
    """Return what must stay of the backups that are going, with the reason."""
    going = {backup.manifest.id for backup in backups}
    markers = [marker for marker, _data in catalog.markers.values() if marker.run != run.marker.run]
    found: dict[str, VaultError] = {}
    for backup in backups:
        backup_id = backup.manifest.id
        user = user_of(backup_id, markers, catalog.repository)
        if backup.facts.pinned:
            found[backup_id] = TargetRefused(
                f"backup {backup_id} is pinned", "`zodb-vault annotate --unpin` first"
            )
        elif user is not None:
            who = f"the {user.what} {user.run} (host {user.host}, pid {user.pid})"
            found[backup_id] = InUse(
                f"backup {backup_id} is in use by {who}",
                "wait for it to end; `repository unlock` if it is dead",
            )
        elif backup.new_history and not force and any(one < backup_id for one in catalog.listing.backups):
            message = f"backup {backup_id} begins a new history; without it nothing would keep the older ones"
            found[backup_id] = TargetRefused(
                message, f"`zodb-vault annotate {backup_id} --accept-history` first, or use --force"
            )
    last = max((backup.manifest.id for backup in backups if backup.counts), default=None)
    if (
        last
        and not force
        and not any(one.counts for one in catalog.newest_first() if one.manifest.id not in going - set(found))
    ):
        message = f"backup {last} is the last complete one of the site {catalog.site}"
        found.setdefault(last, TargetRefused(message, "make another one first, or use --force"))
    return found


def user_of(backup_id: str, markers: Sequence[Marker], repository: Repository) -> Marker | None:
    """Return who relies on a backup.

    Also a dead create does, as the next one goes on from what it has stored, and an undelete, which may only sleep and would take the
    copy in the trash away.
    """
    using = [marker for marker in markers if backup_id in marker.uses]
    return next(
        (
            one
            for one in using
            if one.stored or one.what == "undelete" or running.is_alive(one, repository.store)
        ),
        None,
    )


def undelete(repository: Repository, site: str, backup_id: str) -> None:
    """Bring a backup back from the trash; raise BackupMissing.

    The marker comes first, then the look whether the manifest is still there: a sweep removes it before it looks for markers.
    """
    trash = repository.trashed(site)
    if backup_id not in trash:
        raise BackupMissing(
            f"there is no backup {backup_id} in the trash", f"in the trash: {', '.join(trash) or 'nothing'}"
        )
    run = RunMarker.start(
        repository.store, site, "undelete", new_id([], repository.store.clock()), [backup_id]
    )
    try:
        key = trash_key(site, backup_id)
        try:
            data = canonical.check_digest(repository.store.get(key), key)
        except KeyMissing:
            raise BackupMissing(
                f"the backup {backup_id} has just been removed for good",
                "`zodb-vault list` shows what there is",
            ) from None
        run.require_unchanged()
        repository.store.put(manifest_key(site, backup_id), [data])
        repository.store.delete(gone_key(site, backup_id))
        repository.store.delete(key)
        if (
            backup_id not in repository.listing(site).backups
        ):  # declared dead, and deleted again by somebody else
            repository.store.put(manifest_key(site, backup_id), [data])
        with contextlib.suppress(
            InUse, Damage
        ):  # it is back; and it is taken off the list again when it is deleted
            forget_pending(repository.store, [key])
    finally:
        run.remove()
