"""Commit a backup: write its labels, lock the objects that it uses, and last write the manifest.

The backup exists as soon as its manifest is written.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from ...errors import Damage, StoreError, VaultError
from ...model.blob import MissingRow
from ...model.manifest import Manifest
from ...repository.labels import LabelFacts
from ...repository.markers import RunMarker
from ...runtime import clock
from ...strategies.blobs.missing import missing_rows
from ..catalog import Backup, Catalog
from ..findings import SiteFinding, findings_of
from ..object_lock import Locks, needed_keys
from .draft import Draft
from .healing import compare
from .manifest import CapturedDatabases, manifest_of
from .options import Created

MissingOfDatabases = dict[str, list[MissingRow]]


def commit(
    draft: Draft, copied: CapturedDatabases, locks: Locks, run: RunMarker, *, resumed: bool
) -> Created:
    """Write labels and manifest; raise InUse when the marker of this run was removed or replaced.

    ``resumed`` tells that an interrupted run has stored a part of the backup.
    """
    missing = {one.entry.name: missing_rows(one.entry, draft.objects) for one in copied.databases}
    manifest = manifest_of(draft, copied, complete=not _is_new_loss(draft, missing))
    accepted = _carries_acceptance(draft, manifest) or None
    for fact, value in (
        ("name", draft.options.name),
        ("note", draft.options.note),
        ("accept-history", accepted),
    ):
        if value:
            draft.repository.labels.add(draft.site.name, draft.id, fact, value, draft.catalog.listing)
    # It is not known when an interrupted run has stored its objects, nor when their locks expire.
    known = None if resumed else locked_until(locks, draft.catalog, copied.uses)
    until, unlocked = _renewed_until(draft, manifest, locks, known, run)
    if unlocked is None:
        manifest = msgspec.structs.replace(manifest, locked_until=clock.iso(until) if until else None)
    run.require_unchanged()
    draft.repository.commit(manifest)
    healing = compare(draft.catalog, draft.known_damage, manifest)
    draft.catalog.add(manifest, LabelFacts(accept_history=bool(accepted)))
    return Created(
        manifest=manifest,
        skipped=False,
        missing=missing,
        findings=[finding for one in copied.databases for finding in one.findings],
        damaged=draft.catalog.damaged,
        unlocked=unlocked,
        healed=len(healing.healed),
        still_damaged=sorted(healing.left),
        lasting=lasting_findings(draft),
    )


def lasting_findings(draft: Draft) -> list[SiteFinding]:
    """Return what every create reports until it is accepted; a safety backup is no time for that."""
    return [] if draft.options.trigger == "safety" else findings_of(draft.catalog)


def locked_until(locks: Locks, catalog: Catalog, uses: list[str]) -> datetime | None:
    """Return the time until which all used objects of earlier backups are locked.

    None when it is not known, or when the locks expire too early.
    """
    return locks.lasting(catalog.backup(one).manifest for one in uses)


def _carries_acceptance(draft: Draft, manifest: Manifest) -> bool:
    """Tell whether a user has accepted the history that this backup continues.

    The backup whose label says so may be pruned one day.
    """
    accepted = draft.newest is not None and draft.newest.facts.accept_history
    return accepted and not Backup(manifest, LabelFacts()).new_history


def _renewed_until(
    draft: Draft, manifest: Manifest, locks: Locks, known: datetime | None, run: RunMarker
) -> tuple[datetime | None, VaultError | None]:
    """Renew the locks of used objects if they expire too early; return when the first lock expires.

    An error is returned and not raised: without these locks the backup is still a good one.
    """
    if locks.until is None or known is not None:
        return known, None

    def heartbeat() -> None:
        if run.heartbeat_is_due():
            run.update()

    try:
        needed = needed_keys(msgspec.to_builtins(manifest), draft.objects)
        locks.renew((key for key in needed if not draft.objects.has_written(key)), heartbeat)
    except (StoreError, Damage) as error:
        return None, error
    return locks.until, None


def _is_new_loss(draft: Draft, missing: MissingOfDatabases) -> bool:
    """Tell whether a blob is missing that was not already missing in the newest complete backup."""
    if not any(missing.values()):
        return False
    accepted: set[tuple[str, str, str]] = set()
    if draft.newest is not None and draft.newest.complete:
        for entry in draft.newest.manifest.databases:
            accepted |= {(entry.name, row.oid, row.tid) for row in missing_rows(entry, draft.objects)}
    lost = {(name, row.oid, row.tid) for name, rows in missing.items() for row in rows}
    return not lost <= accepted
