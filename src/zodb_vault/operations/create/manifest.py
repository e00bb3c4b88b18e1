"""What the manifest says of a backup whose databases are copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from ...model.manifest import DatabaseEntry, Manifest, Reason, Timeline
from ...policy.continuity import Decision, next_timeline
from ...runtime import clock
from ...strategies.base import Captured
from .consistency import Consistency
from .draft import Draft
from .provenance import origin_of, software_of

# Reasons of a backup that uses nothing of an earlier one: it has no parent.
WITHOUT_PARENT: Final = ("forced", "new-history", "parent-missing")


class CapturedDatabases(NamedTuple):
    """What an attempt has copied.

    ``uses`` are the ids of the backups that it continues or takes content from, the newest one last.
    """

    databases: list[Captured]
    consistency: Consistency
    uses: list[str]


def manifest_of(draft: Draft, copied: CapturedDatabases, *, complete: bool) -> Manifest:
    """Return the manifest.

    ``complete`` is False when it lacks blobs of which nobody has accepted the loss.
    """
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

    One that no backup has leaves no earlier state behind.
    """
    return decision.starts_timeline and continues


def _main_reason(databases: Sequence[Captured]) -> Reason:
    """Return the reason that says most.

    Of several databases the first that is not simply going on, with its name.
    """
    telling = [one for one in databases if one.decision.reason.code not in ("unchanged", "continued")]
    grown = [one for one in databases if one.decision.reason.code == "continued"]
    chosen = [*telling, *grown, *databases][0]
    reason = chosen.decision.reason
    return reason if len(databases) == 1 else Reason(reason.code, f"{chosen.entry.name}: {reason.text}")


def _required(entries: Iterable[DatabaseEntry]) -> list[str]:
    """Return the features that a reader has to know.

    Without ``deltas`` it would restore a base without its deltas.
    """
    return list(dict.fromkeys(feature for one in entries if one.dump for feature in one.dump.requires))
