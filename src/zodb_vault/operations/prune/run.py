"""Prune: decide which backups are removed, move them to the trash, and sweep what nothing needs any more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from datetime import timedelta

import msgspec

from ...errors import BackupMissing, Damage
from ...policy.retention import (
    RetentionDecision,
    RetentionReport,
    Rules,
    between_dailies,
    decide,
    keep_also,
)
from ...repository.references import add_names
from ...repository.repository import Repository
from ...runtime import clock
from ..catalog import Backup, Catalog
from .accounted import require_site_complete
from .sweep import SweepOptions, Swept, sweep
from .trash import move_to_trash, user_of


class PruneOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to prune; ``accept_gone`` are the ids of backups that were removed by hand."""

    rules: Rules
    grace: timedelta
    dry_run: bool = False
    accept_gone: tuple[str, ...] = ()


class Pruned(msgspec.Struct, frozen=True):
    """What was decided and done, or would be done in a dry run.

    ``frees_estimate``: bytes that only the removed backups need. ``withheld``: why less is removed than the
    rules allow. ``between``: the removed backups between two daily ones, see ``between_dailies``.
    """

    keep: list[RetentionReport]
    remove: list[RetentionReport]
    frees_estimate: int
    swept: Swept
    withheld: list[str]
    between: list[str]


def prune(repository: Repository, site: str, options: PruneOptions) -> Pruned:
    """Remove the backups that the rules do not keep.

    Raise BackupMissing when the site has no backup, Damage when the repository is not complete or cannot be
    read.
    """
    catalog = Catalog(repository, site)
    backups = list(catalog.newest_first())
    require_site_complete(repository, site, backups, options.accept_gone, dry_run=options.dry_run)
    decision = decide_for(catalog, backups, options.rules)
    frees = _frees(repository, catalog, decision)
    if not options.dry_run:
        decision = _move_to_trash(repository, catalog, backups, decision)
    swept = sweep(repository, SweepOptions(site=site, grace=options.grace, dry_run=options.dry_run))
    if not options.dry_run and catalog.register.objects:
        _forget_unneeded(repository, site)
    between = between_dailies([backup.retained() for backup in backups], decision, options.rules)
    return Pruned(decision.keep, decision.remove, frees, swept, decision.withheld, between)


def _forget_unneeded(repository: Repository, site: str) -> None:
    """Remove from the register of damaged objects what no backup needs, not even one in the trash."""
    catalog = Catalog(repository, site)
    needed = frozenset().union(*(backup.damaged for backup in catalog.newest_first()))
    for backup in repository.trash.backups(site):
        with contextlib.suppress(BackupMissing):  # undeleted, or deleted for good
            needed |= catalog.needed_damage.of(repository.trash.document(site, backup))
    catalog.register.clear(catalog.register.objects.keys() - needed)


def decide_for(catalog: Catalog, backups: Sequence[Backup], rules: Rules) -> RetentionDecision:
    """Return which backups of a site are kept and removed.

    If signatures are required, the rules are also applied to the signed backups alone, and both results are
    kept: an unsigned backup, which an attacker may have stored, never replaces a signed one.
    """
    markers = [marker for marker, _data in catalog.markers.values()]
    candidates = []
    for backup in backups:
        user = user_of(backup.manifest.id, markers, catalog.repository)
        candidates.append(backup.retained(f"the {user.what} {user.run}" if user else None))
    now, store_time = clock.now(), catalog.repository.store.clock()
    decision = decide(candidates, rules, now, store_time)
    signed = [
        candidate
        for candidate, backup in zip(candidates, backups, strict=True)
        if _is_signed(catalog.repository, backup)
    ]
    if len(signed) == len(backups):
        return decision
    return keep_also(decision, decide(signed, rules, now, store_time), "of those that are signed")


def _is_signed(repository: Repository, backup: Backup) -> bool:
    """Tell whether a backup has a valid signature, or none is required."""
    try:
        repository.signatures.require(backup.manifest)
    except (BackupMissing, Damage):
        return False
    return True


def _frees(repository: Repository, catalog: Catalog, decision: RetentionDecision) -> int:
    """Return the bytes that only the removed backups need."""
    if not decision.remove:
        return 0
    kept = _needed(repository, catalog.site, decision.keep)
    removed = _needed(repository, catalog.site, decision.remove)
    return sum(size for name, size in removed.items() if name not in kept)


def _needed(repository: Repository, site: str, backups: Iterable[RetentionReport]) -> dict[str, int]:
    """Return the names of everything that some backups need, with their bytes; raise Damage."""
    names: dict[str, int] = {}
    documents = repository.objects("")
    for backup in backups:
        try:
            data = repository.manifest_bytes(site, backup.id)
            add_names(msgspec.json.decode(data), names, documents)
            names[backup.id] = len(data)
        except (BackupMissing, Damage):
            if backup.id in repository.listing(site).backups:
                raise  # else it has just been deleted
    return names


def _move_to_trash(
    repository: Repository, catalog: Catalog, backups: Sequence[Backup], decision: RetentionDecision
) -> RetentionDecision:
    """Move the removed backups to the trash; a backup that a run has begun to use in the meantime is kept."""
    removed = {report.id for report in decision.remove}
    chosen = [backup for backup in backups if backup.manifest.id in removed]
    refused = move_to_trash(repository, catalog, chosen, force=False) if chosen else {}
    in_use = [RetentionReport(backup_id, [error.message]) for backup_id, error in refused.items()]
    keep = sorted([*decision.keep, *in_use], key=lambda report: report.id, reverse=True)
    remove = [report for report in decision.remove if report.id not in refused]
    return RetentionDecision(keep, remove, decision.withheld)
