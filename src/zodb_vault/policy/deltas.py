"""Decide between a delta over an earlier dump and a new dump, which is the base of later deltas."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

from .continuity import Decision

# A restore needs every one of them; and one that goes on for ever would keep its base for ever.
MOST_DELTAS: Final = 100
OLDEST_BASE: Final = timedelta(days=31)
# What is laid over a base may have this share of its size; so little costs nothing.
LARGEST_SHARE: Final = 0.5
LITTLE: Final = 16 << 20


class DeltaFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a database and of the previous backup, besides whether it continues that backup.

    ``unlike``: what of the database is not as it was then (its server, its tables). ``unsuited``: what of it
    no delta could bring. ``added``: a table in which rows are that have a TID of the past and were not there
    then. ``future``: TIDs were later than the clock then.
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
    """Return why a new base has to be made, as the end of a sentence; None when a delta will do."""
    decision = facts.decision
    if decision.reason.code == "forced":
        return "a full backup was asked for"
    if facts.parent is None:
        return "there is none yet"
    if decision.starts_timeline or decision.reason.code not in ("continued", "unchanged"):
        return "the database does not go on from the backup before"
    return facts.parent_problem or facts.difference or facts.unsupported or _unsafe(facts) or _too_much(facts)


def _unsafe(facts: DeltaFacts) -> str | None:
    if facts.backdated is not None:
        return f"rows came into {facts.backdated} with TIDs of the past"
    if facts.future:
        return f"the last transaction of backup {facts.parent} was later than the clock"
    return None


def _too_much(facts: DeltaFacts) -> str | None:
    if facts.deltas >= MOST_DELTAS:
        return f"there are {facts.deltas} deltas already"
    if facts.deltas_stored > max(LITTLE, LARGEST_SHARE * facts.base_stored):
        return f"the deltas have {facts.deltas_stored} bytes, the base {facts.base_stored}"
    if facts.base_created is not None and facts.now - facts.base_created > OLDEST_BASE:
        return f"the old one is of {facts.base_created:%Y-%m-%d}"
    return None


def decide_delta(facts: DeltaFacts) -> Decision:
    """Return how the storage half is backed up, and why; the line is that of the decision before."""
    decision, why = facts.decision, new_base_reason(facts)
    reason = decision.reason
    if why is not None:
        text = (
            reason.text
            if reason.code in ("forced", "first")
            else f"{_sentence(reason.text)} The database is dumped as a new base: {why}."
        )
        return msgspec.structs.replace(
            decision, how="full", reason=msgspec.structs.replace(reason, text=text)
        )
    text = (
        f"{_sentence(reason.text)} What was committed since, and which objects are left, is laid over "
        "the dump of an earlier backup."
    )
    return msgspec.structs.replace(
        decision, how="incremental", reason=msgspec.structs.replace(reason, text=text)
    )


def _sentence(text: str) -> str:
    return text.replace("; a dump is always whole.", ".")
