"""Small changes to what is known of backups: annotate, delete, and the transactions of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ..errors import BackupMissing, InUse, TargetRefused, UsageError, VaultError
from ..model import canonical
from ..model import tid as tids
from ..model.chain import segments_of
from ..model.manifest import DatabaseEntry
from ..repository import running
from ..repository.objects import Objects
from ..repository.repository import Repository, manifest_key, trash_key
from ..strategies.standing import segment_tids
from .catalog import Backup, Catalog

RESERVED = ("latest",)


def annotate(repository: Repository, catalog: Catalog, backup: Backup, facts: dict[str, Any]) -> None:
    """Store facts about a backup; raise UsageError for a name that means something else."""
    if facts.get("name") in RESERVED:
        raise UsageError(f"a backup cannot be named {facts['name']!r}: the word means the newest one", "choose another name")
    for fact, value in facts.items():
        repository.add_label(catalog.site, backup.manifest.id, fact, value, catalog.listing)


def delete(repository: Repository, catalog: Catalog, backup: Backup, *, force: bool) -> None:
    """Move a backup to the trash: first the copy there, then the removal, then a look whether anybody relies on it.

    Raise InUse when a run does, TargetRefused when it is pinned or the last complete one; the backup is put back then.
    """
    backup_id = backup.manifest.id
    _require_deletable(catalog, backup, force=force)
    _require_unused(repository, catalog.site, backup_id)
    data = repository.manifest_bytes(catalog.site, backup_id)
    repository.store.put(trash_key(catalog.site, backup_id), [data])
    repository.store.delete(manifest_key(catalog.site, backup_id))
    try:
        _require_unused(repository, catalog.site, backup_id)
        # another delete, or an annotate, may have come in between
        now = Catalog(repository, catalog.site)
        _require_deletable(now, Backup(backup.manifest, repository.facts(now.listing, backup_id)), force=force)
    except VaultError:
        repository.store.put(manifest_key(catalog.site, backup_id), [data])
        repository.store.delete(trash_key(catalog.site, backup_id))
        raise


def _require_deletable(catalog: Catalog, backup: Backup, *, force: bool) -> None:
    backup_id = backup.manifest.id
    if backup.facts.pinned:
        raise TargetRefused(f"backup {backup_id} is pinned", "`zodb-vault annotate --unpin` first")
    if force or not _counts(backup):
        return
    if not any(_counts(one) for one in catalog.newest_first() if one.manifest.id != backup_id):
        raise TargetRefused(f"backup {backup_id} is the last complete one of the site {catalog.site}", "make another one first, or use --force")


def _counts(backup: Backup) -> bool:
    return backup.complete and backup.manifest.whole and backup.manifest.trigger != "safety"


def undelete(repository: Repository, site: str, backup_id: str) -> None:
    """Bring a backup back from the trash; raise BackupMissing."""
    known = repository.trashed(site)
    if backup_id not in known:
        raise BackupMissing(f"there is no backup {backup_id} in the trash", f"in the trash: {', '.join(known) or 'nothing'}")
    data = canonical.unseal(repository.store.get(trash_key(site, backup_id)), trash_key(site, backup_id))
    repository.store.put(manifest_key(site, backup_id), [data])
    repository.store.delete(trash_key(site, backup_id))


def _require_unused(repository: Repository, site: str, backup_id: str) -> None:
    catalog = Catalog(repository, site)
    for marker, _data in catalog.markers.values():
        # also a dead run protects what it relies on: the next run goes on from what it has stored
        if backup_id in marker.uses and (running.alive(marker, repository.store) or marker.stored):
            who = f"the {marker.what} {marker.run} (host {marker.host}, pid {marker.pid})"
            raise InUse(f"backup {backup_id} is in use by {who}", "wait for it to end")


class LogRow(msgspec.Struct, frozen=True):
    """One transaction of a backup; ``restorable`` unless a later pack has taken away what it needs."""

    database: str
    tid: str
    time: str
    user: str | None
    description: str | None
    size: int
    objects: int
    blobs: int
    restorable: bool


def log(documents: Objects, entry: DatabaseEntry) -> Iterator[LogRow]:
    """Yield the transactions of a database in a backup, newest first."""
    start = entry.pack_tid or entry.first_tid or ""
    for segment in reversed(segments_of(entry, documents)):
        rows = segment_tids(documents, segment)
        texts = msgspec.json.decode(b"".join(documents.read(segment.log)))["rows"] if segment.log else [[None] * 4] * len(rows)
        for (tid, _pos, size, _status, objects, blobs), (_tid, user, description, _extension) in zip(reversed(rows), reversed(texts), strict=True):
            yield LogRow(entry.name, tid, tids.iso(tids.from_hex(tid)), user, description, size, objects, blobs, tid >= start)
