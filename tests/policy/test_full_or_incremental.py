"""Full or incremental, and the timeline of a backup."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodb_vault.model.manifest import Reason, Timeline
from zodb_vault.policy.full_or_incremental import ContinuityFacts, Decision, decide, next_timeline

T3, T5, T7, T9 = (f"0x{n:016x}" for n in (3, 5, 7, 9))
PARENT: dict[str, Any] = {"parent": "P", "parent_last_tid": T7, "chain_end": 100}
REPLACED: dict[str, Any] = {**PARENT, "matching_end": 0, "cut_end": 150}

CASES: list[tuple[dict[str, Any], str, str, int, str | None, bool]] = [
    ({"parent": None, "cut_end": 50}, "full", "first", 0, None, True),
    ({"parent": None, "cut_end": 50, "interrupted_end": 20}, "full", "resumed", 0, None, True),
    ({**PARENT, "matching_end": 100, "cut_end": 100}, "incremental", "unchanged", 100, T7, False),
    ({**PARENT, "matching_end": 100, "cut_end": 130}, "incremental", "continued", 100, T7, False),
    (
        {**PARENT, "matching_end": 100, "cut_end": 130, "interrupted_end": 20},
        "incremental",
        "continued",
        100,
        T7,
        False,
    ),
    ({**REPLACED, "common_tid": T7}, "full", "packed", 0, T7, False),
    ({**REPLACED, "common_tid": T7, "matching_end": 40}, "incremental", "packed", 40, T7, False),
    ({**REPLACED, "common_tid": T5, "pack_tid": T9}, "full", "packed", 0, T5, False),
    ({**REPLACED, "common_tid": T5, "pack_tid": T7}, "full", "packed", 0, T5, False),
    ({**REPLACED, "common_tid": T5, "pack_tid": T5}, "full", "diverged", 0, T5, True),
    ({**REPLACED, "common_tid": T5}, "full", "diverged", 0, T5, True),
    ({**REPLACED, "common_tid": T5, "matching_end": 60}, "incremental", "diverged", 60, T5, True),
    (
        {**PARENT, "common_tid": T5, "matching_end": 60, "cut_end": 60},
        "incremental",
        "diverged",
        60,
        T5,
        True,
    ),
    (REPLACED, "full", "new-history", 0, None, True),
    ({**REPLACED, "pack_tid": T9}, "full", "new-history", 0, None, True),
    ({**REPLACED, "common_tid": T7, "interrupted_end": 30}, "full", "resumed", 0, T7, False),
    (
        {**REPLACED, "common_tid": T5, "interrupted_end": 30, "matching_end": 10},
        "incremental",
        "resumed",
        10,
        T5,
        True,
    ),
    ({**REPLACED, "interrupted_end": 30}, "full", "resumed", 0, None, True),
    ({**PARENT, "forced": True, "matching_end": 100, "cut_end": 130}, "full", "forced", 0, T7, False),
    ({**REPLACED, "forced": True, "common_tid": T5}, "full", "forced", 0, T5, True),
    ({"forced": True, "parent": None, "cut_end": 50}, "full", "forced", 0, None, True),
    ({**PARENT, "parent_problem": "gone", "cut_end": 130}, "full", "parent-missing", 0, None, True),
    (
        {**PARENT, "parent_problem": "gone", "cut_end": 130, "common_tid": T7},
        "full",
        "parent-missing",
        0,
        T7,
        False,
    ),
    (
        {"parent": "P", "parent_problem": "gone", "parent_last_tid": T7, "cut_end": 130},
        "full",
        "parent-missing",
        0,
        None,
        True,
    ),
    ({"parent": "P", "cut_end": 0}, "incremental", "unchanged", 0, None, False),
    ({"parent": "P", "cut_end": 50}, "incremental", "continued", 0, None, False),
]


@pytest.mark.parametrize(("facts", "how", "code", "keep", "common", "starts"), CASES)
def test_decisions(
    facts: dict[str, Any], how: str, code: str, keep: int, common: str | None, starts: bool
) -> None:
    found = decide(ContinuityFacts(**facts))
    assert (found.how, found.reason.code, found.keep, found.common_tid, found.starts_timeline) == (
        how,
        code,
        keep,
        common,
        starts,
    )


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({**PARENT, "matching_end": 100, "cut_end": 130}, ["backup P", "30 bytes", "byte 100"]),
        ({**PARENT, "matching_end": 100, "cut_end": 100}, ["backup P", "byte 100"]),
        (
            {**REPLACED, "common_tid": T7, "matching_end": 40},
            ["packed", "backup P", T7, "40 of its 100 bytes"],
        ),
        ({**REPLACED, "common_tid": T5}, ["backup P", T5, T7, "none of its bytes"]),
        (REPLACED, ["no transaction of backup P"]),
        ({**PARENT, "parent_problem": "list 4f is gone", "cut_end": 1}, ["Backup P", "list 4f is gone"]),
        ({**REPLACED, "interrupted_end": 30}, ["30 of 150 bytes"]),
    ],
)
def test_the_text_is_a_sentence_with_the_facts(facts: dict[str, Any], said: list[str]) -> None:
    text = decide(ContinuityFacts(**facts)).reason.text
    assert text[0].isupper()
    assert text.endswith(".")
    assert all(fact in text for fact in said)


def starting(common: str | None) -> Decision:
    return Decision("full", Reason("forced", ""), 0, common, True)


def test_the_first_backup_names_its_timeline() -> None:
    assert next_timeline([], "A", starting(None)) == [Timeline("A", None)]


def test_a_backup_that_continues_keeps_the_timeline() -> None:
    line = [Timeline("A", T3), Timeline("B", None)]
    assert next_timeline(line, "C", decide(ContinuityFacts(**PARENT, matching_end=100, cut_end=100))) == line


@pytest.mark.parametrize(
    ("common", "expected"),
    [
        (T3, [Timeline("A", T3), Timeline("C", None)]),
        (T5, [Timeline("A", T5), Timeline("C", None)]),
        (T7, [Timeline("A", T5), Timeline("B", T7), Timeline("C", None)]),
        (None, [Timeline("C", None)]),
    ],
)
def test_a_backup_that_diverges_limits_the_timelines_before_it(
    common: str | None, expected: list[Timeline]
) -> None:
    assert next_timeline([Timeline("A", T5), Timeline("B", None)], "C", starting(common)) == expected


@given(st.lists(st.integers(0, 50), max_size=12))
def test_timelines_stay_ordered_and_never_reach_beyond_the_common_past(commons: list[int]) -> None:
    timeline: list[Timeline] = [Timeline("0", None)]
    for number, common in enumerate(commons, 1):
        shared = f"0x{common:016x}"
        older, timeline = timeline, next_timeline(timeline, str(number), starting(shared))
        assert timeline[-1] == Timeline(str(number), None)
        untils = [one.until_tid for one in timeline[:-1]]
        assert all(until is not None and until <= shared for until in untils)
        assert untils == sorted(set(untils), key=str)
        assert [one.id for one in timeline[:-1]] == [one.id for one in older[: len(timeline) - 1]]
        limits = {one.id: one.until_tid for one in older}
        assert all(
            limits[one.id] is None or str(one.until_tid) <= str(limits[one.id]) for one in timeline[:-1]
        )
        assert untils[-1] == shared or len(timeline) - 1 == len(older)
