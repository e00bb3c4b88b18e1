"""Delta or new base, and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from zodb_vault.model.manifest import Reason
from zodb_vault.policy.deltas import LITTLE, MOST_DELTAS, OLDEST_BASE, DeltaFacts, decide_delta
from zodb_vault.policy.full_or_incremental import DumpFacts, decide_dump

NOW = datetime(2026, 11, 20, tzinfo=UTC)
CONTINUED = decide_dump(DumpFacts(parent="P", last_tid="0x9", parent_last_tid="0x7", common_tid="0x7"))
UNCHANGED = decide_dump(DumpFacts(parent="P", last_tid="0x7", parent_last_tid="0x7", common_tid="0x7"))
DIVERGED = decide_dump(
    DumpFacts(parent="P", last_tid="0x9", parent_last_tid="0x7", common_tid="0x5", backwards=True)
)
FORCED = decide_dump(
    DumpFacts(parent="P", last_tid="0x9", parent_last_tid="0x7", common_tid="0x7", forced=True)
)
FIRST = decide_dump(DumpFacts(parent=None, last_tid="0x9"))


def facts(**others: Any) -> DeltaFacts:
    usual: dict[str, Any] = {
        "decision": CONTINUED,
        "parent": "P",
        "now": NOW,
        "base_created": NOW,
        "base_stored": 10 * LITTLE,
    }
    return DeltaFacts(**(usual | others))


@pytest.mark.parametrize("decision", [CONTINUED, UNCHANGED])
def test_what_continues_becomes_a_delta(decision: Any) -> None:
    found = decide_delta(facts(decision=decision))
    assert (found.how, found.reason.code, found.starts_timeline) == (
        "incremental",
        decision.reason.code,
        False,
    )
    assert "A delta to the dump" in found.reason.text and "always complete" not in found.reason.text


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ({"decision": DIVERGED}, "does not continue"),
        ({"parent_problem": "backup P is gone"}, "backup P is gone"),
        ({"difference": "its tables have changed"}, "its tables have changed"),
        ({"unsupported": "blobs are cut"}, "blobs are cut"),
        (
            {"backdated": "public.object_state"},
            "rows with TIDs in the past were added to public.object_state",
        ),
        ({"future": True}, "later than the clock"),
        ({"deltas": MOST_DELTAS}, f"the base has {MOST_DELTAS} deltas already"),
        ({"deltas_stored": 5 * LITTLE + 1}, "the deltas have"),
        ({"deltas_stored": LITTLE + 1, "base_stored": 1}, "the deltas have"),
        ({"base_created": NOW - OLDEST_BASE - timedelta(seconds=1)}, "the old base is from 2026-10-19"),
    ],
)
def test_else_there_is_a_new_base_and_the_reason_says_why(others: dict[str, Any], why: str) -> None:
    found = decide_delta(facts(**others))
    before = others.get("decision", CONTINUED)
    assert (found.how, found.reason.code, found.starts_timeline, found.common_tid) == (
        "full",
        before.reason.code,
        before.starts_timeline,
        before.common_tid,
    )
    assert why in found.reason.text and "new base" in found.reason.text


@pytest.mark.parametrize(
    "others",
    [
        {"deltas": MOST_DELTAS - 1},
        {"deltas_stored": 5 * LITTLE},
        {"deltas_stored": LITTLE, "base_stored": 1},
        {"base_created": NOW - OLDEST_BASE},
    ],
)
def test_limits_are_not_reached_before_they_are(others: dict[str, Any]) -> None:
    assert decide_delta(facts(**others)).how == "incremental"


@pytest.mark.parametrize("decision", [FIRST, FORCED])
def test_what_was_asked_for_or_is_the_first_needs_no_other_reason(decision: Any) -> None:
    found = decide_delta(facts(decision=decision, parent=None if decision is FIRST else "P"))
    assert (found.how, found.reason) == ("full", Reason(decision.reason.code, decision.reason.text))
