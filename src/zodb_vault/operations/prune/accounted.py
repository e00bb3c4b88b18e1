"""Check that no backup has disappeared: then it would not be known what the backups need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from ...errors import BackupMissing, Damage, UsageError
from ...repository.repository import Repository
from ...repository.trash import PendingList
from ..catalog import Backup
from .scan import BackupRef, Scan

ATTEMPTS: Final = 3
MAX_IDS_SHOWN: Final = 5


def require_site_complete(
    repository: Repository,
    site: str,
    backups: Sequence[Backup],
    accept_gone: Collection[str],
    *,
    dry_run: bool,
) -> None:
    """Check the backups of a site, newest first, before a prune, and note those that were accepted as gone.

    Every backup that the newest backup or the last sweep has seen must be listed, in the trash, or noted as
    gone. Raise Damage if one is not, UsageError if one was accepted as gone that is not missing,
    BackupMissing if there is none.
    """
    trash = repository.trash.listing(site)
    listed = {backup.manifest.id for backup in backups}
    if not listed and not trash.backups:
        raise BackupMissing(
            f"there is no backup of the site {site} in {repository.store.location}",
            "check --site and --repository",
        )
    seen = set(PendingList(repository.store).pending.seen.get(site, []))
    seen |= set(backups[0].manifest.seen) if backups else set()
    missing = disappeared(repository, site, seen - listed - set(trash.backups) - set(trash.gone))
    accepted = missing & set(accept_gone)
    if not_missing := set(accept_gone) - accepted:
        raise UsageError(
            f"{', '.join(sorted(not_missing))} is not missing",
            "`--accept-gone` takes the whole id of a backup that prune reports as missing",
        )
    if missing - accepted:
        raise _damage(site, missing - accepted, "the newest backup or the last sweep")
    if not dry_run:
        for backup_id in sorted(accepted):
            repository.trash.note_gone(site, backup_id)


def require_sites_complete(repository: Repository, found: Scan, pending: PendingList) -> None:
    """Raise Damage when a backup of any site that the last sweep has seen has disappeared."""
    before = {BackupRef(site, backup) for site, ids in pending.pending.seen.items() for backup in ids}
    for ref in sorted(before - found.backups - set(found.gone)):
        if missing := disappeared(repository, ref.site, {ref.id}):
            raise _damage(ref.site, missing, "the last sweep")


def disappeared(repository: Repository, site: str, ids: set[str]) -> set[str]:
    """Return the ids that are neither listed nor in the trash nor noted as gone.

    A backup may move from one place to the other between two looks, so the places are looked at several
    times.
    """
    for _ in range(ATTEMPTS):
        if not ids:
            break
        ids = ids - set(repository.listing(site).backups)
        trash = repository.trash.listing(site)
        ids = ids - set(trash.backups) - set(trash.gone) - set(repository.listing(site).backups)
    return ids


def _damage(site: str, missing: Iterable[str], witness: str) -> Damage:
    ids = sorted(missing)
    more = f" and {len(ids) - MAX_IDS_SHOWN} more" if len(ids) > MAX_IDS_SHOWN else ""
    return Damage(
        f"backups of the site {site} that {witness} has seen are neither listed nor in the trash: "
        f"{', '.join(ids[:MAX_IDS_SHOWN])}{more}; nothing is removed",
        "check that the repository is complete; if a backup was removed by hand, confirm that with "
        "`zodb-vault prune --accept-gone ID`",
    )
