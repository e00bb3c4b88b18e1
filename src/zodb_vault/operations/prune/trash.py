"""Move backups to the trash and bring them back; a backup that a run uses stays, whichever comes first."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from ...errors import BackupMissing, Damage, InUse, KeyMissing, TargetRefused, VaultError
from ...model import canonical
from ...model.manifest import Marker
from ...repository.ids import new_id
from ...repository.layout import gone_key, manifest_key, trash_key
from ...repository.markers import RunMarker, is_alive
from ...repository.repository import Repository
from ...repository.trash import forget_pending
from ..catalog import Backup, Catalog


def delete(repository: Repository, catalog: Catalog, backup: Backup, *, force: bool) -> None:
    """Move a backup to the trash.

    Raise InUse when a run uses it, TargetRefused when it is pinned, or, without ``force``, when it is the
    last complete backup or begins a new history.
    """
    for error in move_to_trash(repository, catalog, [backup], force=force).values():
        raise error


def move_to_trash(
    repository: Repository, catalog: Catalog, backups: Sequence[Backup], *, force: bool
) -> dict[str, VaultError]:
    """Move backups to the trash, and return why some of them stay, by id.

    First a marker is written: it keeps a sweep from deleting what is being moved, and other runs from moving
    it as well. Then the manifests are moved. At the end the markers and labels are read again: a run that has
    begun to use a backup in between gets it back. A run that begins later does not find the backup.
    """
    ids = [backup.manifest.id for backup in backups]
    run_id = new_id([], repository.store.clock())
    marker = RunMarker.start(repository.store, catalog.site, "delete", run_id, ids)
    try:
        # read again, since the marker protects the backups only from now on
        return _move(repository, Catalog(repository, catalog.site), backups, marker, force=force)
    finally:
        marker.remove()


def _move(
    repository: Repository, catalog: Catalog, backups: Sequence[Backup], marker: RunMarker, *, force: bool
) -> dict[str, VaultError]:
    site = catalog.site
    refused = _refused(catalog, backups, marker, force=force)
    moved = [backup for backup in backups if backup.manifest.id not in refused]
    manifests: dict[str, bytes] = {}
    for backup in moved:
        with contextlib.suppress(BackupMissing):  # another delete was faster
            manifests[backup.manifest.id] = repository.manifest_bytes(site, backup.manifest.id)
    newest = max([*catalog.listing.backups, *catalog.listing.labels], default="")
    # the grace period of a backup that was in the trash before begins again
    forget_pending(repository.store, [trash_key(site, backup_id) for backup_id in manifests])
    for backup_id, content in manifests.items():
        if backup_id == newest:
            # The next id has to be later than this one, and only the listing of the site is read for that.
            # The label stays there after the manifest has gone.
            repository.labels.add(site, backup_id, "deleted", True, catalog.listing)
        repository.store.put(trash_key(site, backup_id), [content])
        repository.store.delete(manifest_key(site, backup_id))
    in_use = _in_use_after_all(repository, site, moved, manifests, marker, force=force)
    for backup_id in sorted(in_use, reverse=True):
        repository.store.put(manifest_key(site, backup_id), [manifests[backup_id]])
        repository.store.delete(trash_key(site, backup_id))
    return refused | in_use


def _in_use_after_all(
    repository: Repository,
    site: str,
    moved: Sequence[Backup],
    manifests: Mapping[str, bytes],
    marker: RunMarker,
    *,
    force: bool,
) -> dict[str, VaultError]:
    """Return which of the moved backups have to be put back, with the reason."""
    try:
        now = Catalog(repository, site)
        again = [
            Backup(one.manifest, repository.labels.facts(now.listing, one.manifest.id))
            for one in moved
            if one.manifest.id in manifests
        ]
        found = _refused(now, again, marker, force=force)
        # An undelete that began earlier removes the copy in the trash at its end: then the backup would be
        # nowhere.
        for backup_id in manifests.keys() - set(repository.trash.backups(site)) - found.keys():
            hint = "`zodb-vault list` shows whether it exists"
            found[backup_id] = InUse(f"backup {backup_id} was just being undeleted", hint)
        return found
    except VaultError as error:
        return dict.fromkeys(manifests, error)


def _refused(
    catalog: Catalog, backups: Sequence[Backup], marker: RunMarker, *, force: bool
) -> dict[str, VaultError]:
    """Return which of these backups must stay, with the reason."""
    others = [other for other, _data in catalog.markers.values() if other.run != marker.marker.run]
    found: dict[str, VaultError] = {}
    for backup in backups:
        error = _refusal(catalog, backup, others, force=force)
        if error is not None:
            found[backup.manifest.id] = error
    if force:
        return found
    removed = {backup.manifest.id for backup in backups} - set(found)
    last = max((backup.manifest.id for backup in backups if backup.counts), default=None)
    if last and not any(one.counts for one in catalog.newest_first() if one.manifest.id not in removed):
        message = f"backup {last} is the last complete backup of the site {catalog.site}"
        found.setdefault(last, TargetRefused(message, "make another backup first, or use --force"))
    return found


def _refusal(catalog: Catalog, backup: Backup, others: Sequence[Marker], *, force: bool) -> VaultError | None:
    backup_id = backup.manifest.id
    if backup.facts.pinned:
        hint = f"remove the pin first: `zodb-vault annotate {backup_id} --unpin`"
        return TargetRefused(f"backup {backup_id} is pinned", hint)
    user = user_of(backup_id, others, catalog.repository)
    if user is not None:
        run = f"the {user.what} {user.run} (host {user.host}, pid {user.pid})"
        hint = "wait for it to end; if it is dead, remove its marker with `zodb-vault repository unlock`"
        return InUse(f"backup {backup_id} is in use by {run}", hint)
    if backup.new_history and not force and any(one < backup_id for one in catalog.listing.backups):
        return TargetRefused(
            f"backup {backup_id} begins a new history, and protects the older backups until it is confirmed",
            f"confirm it with `zodb-vault annotate {backup_id} --accept-history`, or use --force",
        )
    return None


def user_of(backup_id: str, markers: Sequence[Marker], repository: Repository) -> Marker | None:
    """Return the marker of a run that uses a backup, None if there is none.

    A dead create counts if it has stored something: the next create continues its work, and needs the backup.
    An undelete counts even if it seems dead. Its host may only sleep, and later it would delete the copy in
    the trash.
    """
    for marker in markers:
        if backup_id in marker.uses and (
            marker.stored or marker.what == "undelete" or is_alive(marker, repository.store)
        ):
            return marker
    return None


def undelete(repository: Repository, site: str, backup_id: str) -> None:
    """Bring the backup with this id back from the trash; raise BackupMissing.

    The marker is written before the manifest is read. A sweep deletes the manifest before it scans the
    markers: so either this finds no manifest, or the sweep finds the marker, and spares what the backup
    needs.
    """
    if backup_id not in repository.trash.backups(site):
        raise BackupMissing(
            f"there is no backup {backup_id} in the trash",
            "`zodb-vault list --trash` shows what is in the trash",
        )
    run_id = new_id([], repository.store.clock())
    marker = RunMarker.start(repository.store, site, "undelete", run_id, [backup_id])
    try:
        _bring_back(repository, site, backup_id, marker)
    finally:
        marker.remove()


def _bring_back(repository: Repository, site: str, backup_id: str, marker: RunMarker) -> None:
    key = trash_key(site, backup_id)
    try:
        data = canonical.check_digest(repository.store.get(key), key)
    except KeyMissing:
        raise BackupMissing(
            f"the backup {backup_id} has just been deleted for good",
            "`zodb-vault list` shows which backups exist",
        ) from None
    marker.require_unchanged()
    repository.store.put(manifest_key(site, backup_id), [data])
    repository.store.delete(gone_key(site, backup_id))
    repository.store.delete(key)
    if backup_id not in repository.listing(site).backups:
        # this run was declared dead in the meantime, and another run has deleted the backup again
        repository.store.put(manifest_key(site, backup_id), [data])
    # The backup is back. If this fails, it stays on the list of candidates until the next sweep or delete.
    with contextlib.suppress(InUse, Damage):
        forget_pending(repository.store, [key])
