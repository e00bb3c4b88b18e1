"""Decide between a delta to the base of the previous backup and a new base, which is a full dump."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

from .full_or_incremental import Decision

# A restore needs the base and all its deltas, and the deltas keep the base from being removed.
MOST_DELTAS: Final = 100
OLDEST_BASE: Final = timedelta(days=31)
# The deltas of a base may have this share of its size. Up to 16 MiB they cost nothing.
LARGEST_SHARE: Final = 0.5
LITTLE: Final = 16 << 20


class DeltaFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a database and of the previous backup, besides the decision whether it continues it.

    ``difference``: what changed since then besides rows (the server, the tables), as the end of a sentence.
    ``unsupported``: what no delta can contain. ``backdated``: a table with new rows whose TIDs are in the
    past. ``future``: the last TID of the previous backup was later than its clock. Sizes are bytes.
    """

    decision: Decision
    parent: str | None
    parent_problem: str | None = None
    difference: str | None = None
    unsupported: str | None = None
    backdated: str | None = None
    future: bool = False
    deltas: int = 0
    deltas_stored: int = 0
    base_stored: int = 0
    base_created: datetime | None = None
    now: datetime


def new_base_reason(facts: DeltaFacts) -> str | None:
    """Return why a new base has to be made, as the end of a sentence; None when a delta is enough."""
    decision = facts.decision
    if decision.reason.code == "forced":
        return "a full backup was requested"
    if facts.parent is None:
        return "there is none yet"
    if decision.starts_timeline or decision.reason.code not in ("continued", "unchanged"):
        return "the database does not continue the previous backup"
    return facts.parent_problem or facts.difference or facts.unsupported or _unsafe(facts) or _too_much(facts)


def _unsafe(facts: DeltaFacts) -> str | None:
    if facts.backdated is not None:
        return f"rows with TIDs in the past were added to {facts.backdated}"
    if facts.future:
        return f"the last transaction of backup {facts.parent} was later than the clock"
    return None


def _too_much(facts: DeltaFacts) -> str | None:
    if facts.deltas >= MOST_DELTAS:
        return f"the base has {facts.deltas} deltas already"
    if facts.deltas_stored > max(LITTLE, LARGEST_SHARE * facts.base_stored):
        return f"the deltas have {facts.deltas_stored} bytes, the base {facts.base_stored}"
    if facts.base_created is not None and facts.now - facts.base_created > OLDEST_BASE:
        return f"the old base is from {facts.base_created:%Y-%m-%d}"
    return None


def decide_delta(facts: DeltaFacts) -> Decision:
    """Return how the storage component is backed up, and why; the timeline stays that of the decision."""
    decision, why = facts.decision, new_base_reason(facts)
    reason = decision.reason
    if why is not None:
        text = (
            reason.text
            if reason.code in ("forced", "first")
            else f"{reason.text} The database is dumped as a new base: {why}."
        )
        return msgspec.structs.replace(
            decision, how="full", reason=msgspec.structs.replace(reason, text=text)
        )
    text = (
        f"{reason.text} A delta to the dump of an earlier backup contains the transactions since "
        "then and the keys of all existing objects."
    )
    return msgspec.structs.replace(
        decision, how="incremental", reason=msgspec.structs.replace(reason, text=text)
    )
