"""Make the manifest of a backup after its databases were copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from ...model.manifest import DatabaseEntry, Manifest, Reason, Timeline
from ...policy.full_or_incremental import Decision, next_timeline
from ...runtime import clock
from ...strategies.base import Captured
from .consistency import Consistency
from .draft import Draft
from .provenance import origin_of, software_of

# The codes of the reasons for a backup without a parent: it uses nothing of an earlier backup.
WITHOUT_PARENT: Final = ("forced", "new-history", "parent-missing")


class CapturedDatabases(NamedTuple):
    """The databases that an attempt has copied; ``uses`` are the ids of the used backups, newest last."""

    databases: list[Captured]
    consistency: Consistency
    uses: list[str]


def manifest_of(draft: Draft, copied: CapturedDatabases, *, complete: bool) -> Manifest:
    """Return the manifest; ``complete`` is False when blobs are missing whose loss was not accepted."""
    decisions = [one.decision for one in copied.databases]
    entries = [one.entry for one in copied.databases]
    info = draft.repository.info
    return Manifest(
        id=draft.id,
        site=draft.site.name,
        repository=info.id,
        created_at=clock.iso(draft.now),
        finished_at=clock.iso(clock.now()),
        trigger=draft.options.trigger,
        contents=draft.contents,
        how="full" if any(decision.how == "full" for decision in decisions) else "incremental",
        reason=_main_reason(copied.databases),
        parent=_parent(decisions, copied.uses),
        timeline=_timeline(draft, copied),
        status="complete" if complete else "incomplete",
        consistency=copied.consistency,
        source=origin_of(draft.site, draft.databases),
        software=software_of(copied.databases),
        seen=draft.catalog.listing.backups,
        databases=entries,
        added=draft.objects.written,
        recovery=info.recovery,
        recipients=info.recipients,
        requires=[*_required(entries), *info.requires],
    )


def _parent(decisions: Iterable[Decision], uses: Sequence[str]) -> str | None:
    continues = any(decision.reason.code not in WITHOUT_PARENT for decision in decisions)
    return uses[-1] if uses and continues else None


def _timeline(draft: Draft, copied: CapturedDatabases) -> list[Timeline]:
    if not copied.uses:
        return [Timeline(draft.id, None)]
    before = draft.catalog.backup(copied.uses[-1]).manifest.timeline
    starting = [one.decision for one in copied.databases if starts_timeline(one.decision, one.continues)]
    if not starting:
        return before
    earliest = min(starting, key=lambda decision: decision.common_tid or "")
    return next_timeline(before, draft.id, earliest)


def starts_timeline(decision: Decision, continues: bool) -> bool:
    """Tell whether a database starts a timeline of the site.

    A database that is in no earlier backup does not: it has no earlier state that would be abandoned.
    """
    return decision.starts_timeline and continues


def _main_reason(databases: Sequence[Captured]) -> Reason:
    """Return the most important reason: of the first database that neither is unchanged nor simply continues.

    With several databases, the text begins with the name of the database.
    """
    telling = [one for one in databases if one.decision.reason.code not in ("unchanged", "continued")]
    grown = [one for one in databases if one.decision.reason.code == "continued"]
    chosen = [*telling, *grown, *databases][0]
    reason = chosen.decision.reason
    return reason if len(databases) == 1 else Reason(reason.code, f"{chosen.entry.name}: {reason.text}")


def _required(entries: Iterable[DatabaseEntry]) -> list[str]:
    """Return the features that a reader must know.

    For example, a reader that does not know ``deltas`` would restore a base without its deltas.
    """
    return list(dict.fromkeys(feature for one in entries if one.dump for feature in one.dump.requires))
