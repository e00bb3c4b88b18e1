"""Which backups are in the trash, since when, and until when at least they can be brought back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import msgspec

from ...errors import BackupMissing, Damage
from ...policy.selection import select_deleted
from ...repository.layout import trash_key, trash_prefix
from ...repository.trash import PendingList
from ...runtime import clock
from ...stores.base import RecordsTimes
from ..catalog import Catalog, raw_size, stored_size


class DeletedBackup(msgspec.Struct, frozen=True, kw_only=True):
    """A backup in the trash; times are ISO 8601, sizes are bytes.

    ``kept_until``: no prune with this grace period removes it for good before. ``deleted_at`` is None if
    neither the store nor a prune has recorded when it was deleted. ``damage`` says why its manifest cannot be
    read; then ``created_at``, ``raw`` and ``stored`` are None.
    """

    id: str
    site: str
    name: str | None
    deleted_at: str | None
    kept_until: str
    created_at: str | None = None
    raw: int | None = None
    stored: int | None = None
    damage: str | None = None


def deleted_backups(catalog: Catalog, grace: timedelta) -> list[DeletedBackup]:
    """Return the backups in the trash of a site, newest first.

    Raise Damage when the list of pending deletions cannot be read.
    """
    store = catalog.repository.store
    now, pending = store.clock(), PendingList(store).since
    prefix = trash_prefix(catalog.site)
    stored_at = dict(store.stored_at(prefix)) if isinstance(store, RecordsTimes) else {}
    found = []
    for backup_id, name in sorted(catalog.trashed().items(), reverse=True):
        key = trash_key(catalog.site, backup_id)
        listed = pending.get(key)
        deleted = stored_at.get(key, listed)
        row = DeletedBackup(
            id=backup_id,
            site=catalog.site,
            name=name,
            deleted_at=clock.iso(deleted) if deleted is not None else None,
            # The grace period begins when a prune lists the backup, which it does at the earliest now.
            kept_until=clock.iso((listed or now) + grace),
        )
        try:
            facts = _facts_of_manifest(catalog, backup_id)
        except BackupMissing:
            continue  # it has just been brought back, or removed for good
        except Damage as error:
            facts = {"damage": error.message}
        found.append(msgspec.structs.replace(row, **facts))
    return found


def _facts_of_manifest(catalog: Catalog, backup_id: str) -> Mapping[str, str | int]:
    manifest = catalog.repository.trash.manifest(catalog.site, backup_id)
    return {
        "created_at": manifest.created_at,
        "raw": sum(raw_size(entry) for entry in manifest.databases),
        "stored": sum(stored_size(entry) for entry in manifest.databases),
    }


def find_deleted(catalog: Catalog, text: str) -> str:
    """Return the id of the backup in the trash that ``text`` means: an id, a unique prefix of one, or a name.

    Raise UsageError when several match, BackupMissing when none does.
    """
    trash = catalog.repository.trash.listing(catalog.site)
    if text in trash.backups:
        return text
    if text in catalog.listing.backups:
        raise BackupMissing(f"backup {text} is not in the trash", "`zodb-vault list` shows it")
    if text in trash.gone:
        hint = (
            "a copy of the repository may still have it; `zodb-vault list --trash` shows what can come back"
        )
        raise BackupMissing(f"backup {text} was removed for good", hint)
    return select_deleted(text, catalog.trashed())
