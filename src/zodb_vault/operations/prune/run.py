"""Prune: decide which backups go, move them to the trash, and sweep what nothing names any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

import msgspec

from ...errors import BackupMissing, Damage, UsageError
from ...policy.retention import RetentionDecision, RetentionReport, Rules, decide, keep_also
from ...repository.references import add_names
from ...repository.repository import Repository
from ...repository.trash import PendingList
from ...runtime import clock
from ..catalog import Backup, Catalog
from .sweep import SweepOptions, Swept, sweep, unaccounted, unexplained
from .trash import move_to_trash, user_of


class PruneOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to prune; ``accept_gone`` are ids of backups that somebody removed by hand."""

    rules: Rules
    grace: timedelta
    dry_run: bool = False
    accept_gone: tuple[str, ...] = ()


class Pruned(msgspec.Struct, frozen=True):
    """What was decided and done; with ``dry_run`` what would have been. ``frees_estimate`` are the bytes that only the removed backups need."""

    keep: list[RetentionReport]
    remove: list[RetentionReport]
    frees_estimate: int
    swept: Swept
    withheld: list[str]


def prune(repository: Repository, site: str, options: PruneOptions) -> Pruned:
    """Remove what the rules let go; raise BackupMissing when the site has no backup, Damage when the repository does not show all there should be."""
    catalog = Catalog(repository, site)
    backups = list(catalog.newest_first())
    require_accounted(repository, site, backups, options)
    decision = judge(catalog, backups, options.rules)
    frees = _frees(repository, catalog, decision)
    if not options.dry_run:
        decision = _removed(repository, catalog, backups, decision)
    swept = sweep(repository, SweepOptions(site=site, grace=options.grace, dry_run=options.dry_run))
    return Pruned(decision.keep, decision.remove, frees, swept, decision.withheld)


def judge(catalog: Catalog, backups: Sequence[Backup], rules: Rules) -> RetentionDecision:
    """Return what becomes of the backups of a site; none that is not signed, where signers are named, takes the place of one that is."""
    markers = [marker for marker, _data in catalog.markers.values()]
    candidates = []
    for backup in backups:
        user = user_of(backup.manifest.id, markers, catalog.repository)
        candidates.append(backup.retained(f"the {user.what} {user.run}" if user else None))
    now, there = clock.now(), catalog.repository.store.clock()
    decision = decide(candidates, rules, now, there)
    signed = [
        candidate
        for candidate, backup in zip(candidates, backups, strict=True)
        if _is_signed(catalog.repository, backup)
    ]
    return (
        keep_also(decision, decide(signed, rules, now, there), "of those that are signed")
        if len(signed) < len(backups)
        else decision
    )


def _is_signed(repository: Repository, backup: Backup) -> bool:
    try:
        repository.require_signature(backup.manifest)
    except (BackupMissing, Damage):
        return False
    return True


def require_accounted(
    repository: Repository, site: str, backups: Sequence[Backup], options: PruneOptions
) -> None:
    """Raise Damage unless every backup that the newest one or the last sweep has seen is listed, in the trash, or noted there as gone for good."""
    trash = repository.trash(site)
    listed = {backup.manifest.id for backup in backups}
    if not listed and not trash.backups:
        raise BackupMissing(
            f"there is no backup of the site {site} in {repository.store.location}",
            "check --site and --repository",
        )
    seen = set(PendingList(repository.store).pending.seen.get(site, []))
    seen |= set(backups[0].manifest.seen) if backups else set()
    missing = unexplained(repository, site, seen - listed - set(trash.backups) - set(trash.gone))
    accepted = missing & set(options.accept_gone)
    if known := set(options.accept_gone) - accepted:
        raise UsageError(
            f"{', '.join(sorted(known))} is not missed",
            "`--accept-gone` takes the whole id of a backup that prune says is nowhere",
        )
    if missing - accepted:
        raise unaccounted(site, missing - accepted, "the newest backup or the last sweep has seen")
    if not options.dry_run:
        for backup_id in sorted(accepted):
            repository.note_gone(site, backup_id)


def _frees(repository: Repository, catalog: Catalog, decision: RetentionDecision) -> int:
    """Return the bytes that only the backups to be removed need."""
    documents = repository.objects("")

    def needed(verdicts: Iterable[RetentionReport]) -> dict[str, int]:
        names: dict[str, int] = {}
        for verdict in verdicts:
            try:
                data = repository.manifest_bytes(catalog.site, verdict.id)
                add_names(msgspec.json.decode(data), names, documents)
                names[verdict.id] = len(data)
            except (BackupMissing, Damage):
                if verdict.id in repository.listing(catalog.site).backups:
                    raise  # else it has just been deleted
        return names

    if not decision.remove:
        return 0
    kept = needed(decision.keep)
    return sum(size for name, size in needed(decision.remove).items() if name not in kept)


def _removed(
    repository: Repository, catalog: Catalog, backups: Sequence[Backup], decision: RetentionDecision
) -> RetentionDecision:
    """Move to the trash what goes; what turns out to be needed meanwhile stays after all."""
    going = {verdict.id for verdict in decision.remove}
    chosen = [backup for backup in backups if backup.manifest.id in going]
    refused = move_to_trash(repository, catalog, chosen, force=False) if chosen else {}
    keep = [
        *decision.keep,
        *(RetentionReport(backup_id, [error.message]) for backup_id, error in refused.items()),
    ]
    keep.sort(key=lambda verdict: verdict.id, reverse=True)
    remove = [verdict for verdict in decision.remove if verdict.id not in refused]
    return RetentionDecision(keep, remove, decision.withheld)
