"""Which transactions of several databases are one commit; no cut point ever splits a commit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodb_vault.model.tid import from_datetime, to_hex
from zodb_vault.policy.commits import CommitPart, commits, consistent_cuts

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("main", "catalog", "users")


def tid(seconds: float) -> str:
    return to_hex(from_datetime(START + timedelta(seconds=seconds)))


def parts(**databases: list[tuple[float, str]]) -> dict[str, list[CommitPart]]:
    return {
        name: [CommitPart(tid(second), (mark,)) for second, mark in some] for name, some in databases.items()
    }


def test_parts_look_alike_and_nothing_comes_between() -> None:
    both = parts(main=[(1, "a"), (5, "b"), (9, "a")], catalog=[(1.5, "a"), (4, "b"), (9.5, "c")])
    assert commits(both) == [{"main": 0, "catalog": 0}, {"catalog": 1, "main": 1}]


def test_what_came_later_in_the_same_database_belongs_to_no_earlier_part() -> None:
    assert commits(parts(main=[(1, "a"), (2, "b")], catalog=[(3, "a")])) == []
    assert commits(parts(main=[(1, "a"), (2, "a")], catalog=[(3, "a")])) == [{"main": 1, "catalog": 0}]
    assert commits(parts(main=[(1, "a"), (2, "b")], users=[(1.1, "a")], catalog=[(3, "a")])) == [
        {"main": 0, "users": 0}
    ]


@pytest.mark.parametrize(("seconds", "one"), [(599, True), (601, False)])
def test_parts_are_minutes_apart_at_most(seconds: int, *, one: bool) -> None:
    assert bool(commits(parts(main=[(1, "")], catalog=[(1 + seconds, "")]))) == one


def test_a_commit_to_three_databases() -> None:
    three = parts(main=[(1, "a")], catalog=[(1.1, "a")], users=[(1.2, "a"), (3, "a")])
    assert commits(three) == [{"main": 0, "catalog": 0, "users": 0}]


@pytest.mark.parametrize(
    ("wanted", "named", "kept"),
    [
        # its other part comes a little later: one more is kept
        ({"main": 2, "catalog": 1}, "main", {"main": 2, "catalog": 2}),
        # the other part of what is dropped came a little earlier: one less is kept
        ({"main": 3, "catalog": 4}, "main", {"main": 3, "catalog": 3}),
        ({"main": 3, "catalog": 3}, "main", {"main": 3, "catalog": 3}),
        # a point in time: what was not finished then is dropped
        ({"main": 2, "catalog": 1}, None, {"main": 1, "catalog": 1}),
        ({"main": 3, "catalog": 4}, None, {"main": 3, "catalog": 3}),
    ],
)
def test_what_is_kept_of_the_others(wanted: dict[str, int], named: str | None, kept: dict[str, int]) -> None:
    both = parts(
        main=[(1, "a"), (2, "b"), (3, "only here"), (5, "d")],
        catalog=[(1.1, "a"), (2.1, "b"), (2.5, "only there"), (4.9, "d"), (6, "")],
    )
    assert consistent_cuts(both, wanted, named) == kept


def test_what_hangs_together_over_a_third_database_is_dropped_together() -> None:
    three = parts(main=[(8, "a"), (11.5, "c")], catalog=[(5, "b")], users=[(11, "c"), (12, "b")])
    assert consistent_cuts(three, {"main": 1, "catalog": 1, "users": 0}, "main") == {
        "main": 1,
        "catalog": 0,
        "users": 0,
    }


def test_what_has_to_stay_is_known_before_anything_is_dropped() -> None:
    """``b`` waited until it was later than ``c``, which main keeps: so catalog keeps ``c`` and before."""
    three = parts(main=[(1, "a"), (7, "c")], catalog=[(2, "b"), (9, "c")], users=[(3, "a"), (8, "b")])
    assert consistent_cuts(three, {"main": 2, "catalog": 1, "users": 1}, "main") == {
        "main": 2,
        "catalog": 2,
        "users": 2,
    }


class OpenCommit(NamedTuple):
    """A commit under way: the databases it still has to get, in their order, and those it has."""

    number: int
    wants: list[str]
    has: list[str]


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[str, list[CommitPart]], list[dict[str, int]]]:
    """Draw concurrent commits to one or several databases, as locks allow; return the parts and groups."""
    found: dict[str, list[CommitPart]] = {name: [] for name in NAMES}
    truth: dict[int, dict[str, int]] = {}
    open_commits: list[OpenCommit] = []
    clock, number, marks = 0.0, 0, draw(st.sampled_from(["unique", "few"]))
    order = draw(st.permutations(NAMES))
    for _ in range(draw(st.integers(5, 60))):
        clock += draw(st.sampled_from([0.001, 0.5, 30.0]))
        held = {name for one in open_commits for name in one.has}
        able = [one for one in open_commits if not one.wants or one.wants[0] not in held]
        if len(open_commits) < 4 and (not able or draw(st.booleans())):
            number += 1
            wants = [name for name in order if draw(st.booleans())] or [order[0]]
            open_commits.append(OpenCommit(number, wants, []))
            continue
        one = draw(st.sampled_from(able))
        if not one.wants:
            open_commits.remove(one)
            continue
        name = one.wants.pop(0)
        one.has.append(name)
        truth.setdefault(one.number, {})[name] = len(found[name])
        mark = str(one.number) if marks == "unique" else str(one.number // 3)
        found[name].append(CommitPart(tid(clock), (mark,)))
    # what still runs at the end is in a backup only where all of it is
    unfinished = {one.number for one in open_commits if one.wants}
    return found, [
        commit for number, commit in truth.items() if len(commit) > 1 and number not in unfinished
    ] if marks == "unique" else []


@given(histories(), st.data())
def test_no_cut_point_splits_a_commit(
    drawn: tuple[dict[str, list[CommitPart]], list[dict[str, int]]], data: st.DataObject
) -> None:
    found, truth = drawn
    names = [name for name in NAMES if found[name]]
    if not names:
        return
    named = data.draw(st.sampled_from(names))
    bound = data.draw(st.sampled_from(found[named])).tid
    wanted = {name: sum(part.tid <= bound for part in found[name]) for name in NAMES}
    for one in (named, None):
        counts = consistent_cuts(found, wanted, one)
        assert one is None or counts[one] == wanted[one], "the database that is named is cut where it is said"
        assert all(0 <= counts[name] <= len(found[name]) for name in NAMES)
        halved = [
            commit for commit in truth if len({index < counts[name] for name, index in commit.items()}) > 1
        ]
        assert not halved
        if one is None:
            assert all(counts[name] <= wanted[name] for name in NAMES), (
                "nothing later than the moment is kept"
            )
