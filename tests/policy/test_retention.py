"""Which backups stay: single rules, properties of any set of backups, and two years of a site, day by day."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodb_vault.policy import retention
from zodb_vault.policy.retention import (
    OnDemandRetention,
    RetainedBackup,
    Rules,
    SafetyRetention,
    ScheduledRetention,
    decide,
)

VIENNA = ZoneInfo("Europe/Vienna")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DEFAULT = Rules(
    scheduled=ScheduledRetention(), on_demand=OnDemandRetention(), safety=SafetyRetention(), zone=UTC
)


def at(moment: datetime, **facts: Any) -> RetainedBackup:
    facts = {"trigger": "scheduled"} | facts
    return RetainedBackup(id=f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}-aaaaaa", created_at=moment, **facts)


def days_ago(days: float, **facts: Any) -> RetainedBackup:
    return at(NOW - timedelta(days=days), **facts)


def rules(**changes: Any) -> Rules:
    return msgspec.structs.replace(DEFAULT, **changes)


def kept(backups: list[RetainedBackup], chosen: Rules = DEFAULT, now: datetime = NOW) -> list[RetainedBackup]:
    """Return what stays, oldest first."""
    ids = {row.id for row in decide(backups, chosen, now, now).keep}
    return sorted((backup for backup in backups if backup.id in ids), key=lambda backup: backup.id)


def reasons(backups: list[RetainedBackup], backup: RetainedBackup, chosen: Rules = DEFAULT) -> str:
    decision = decide(backups, chosen, NOW, NOW)
    return "; ".join(next(row.reasons for row in [*decision.keep, *decision.remove] if row.id == backup.id))


# Tiers


def test_the_first_backup_of_a_calendar_day_is_its_daily() -> None:
    early, late, today = days_ago(1.4), days_ago(1.1), days_ago(0)
    assert early.created_at.date() == late.created_at.date()
    assert kept([early, late, today]) == [early, today]
    assert "not the first of 2026-11-19" in reasons([early, late, today], late)


def test_the_calendar_is_that_of_the_zone() -> None:
    one, other = (
        at(datetime(2026, 11, 18, 22, 30, tzinfo=UTC)),
        at(datetime(2026, 11, 18, 23, 30, tzinfo=UTC)),
    )
    assert kept([one, other, days_ago(0)]) == [one, days_ago(0)]
    assert kept([one, other, days_ago(0)], rules(zone=VIENNA)) == [one, other, days_ago(0)]


def test_the_oldest_daily_is_promoted_and_the_oldest_weekly_too() -> None:
    tiers = retention.tiers_of([days_ago(n) for n in range(100)], DEFAULT, NOW)
    assert [tiers[days_ago(n).id] for n in range(7)] == ["daily"] * 7
    weeklies, monthlies = [n for n in range(100) if tiers.get(days_ago(n).id) == "weekly"], [99, 71]
    assert weeklies == [8, 15, 22, 29]
    assert [n for n in range(100) if tiers.get(days_ago(n).id) == "monthly"] == sorted(monthlies + [43])


@pytest.mark.parametrize("zone", [UTC, VIENNA], ids=str)
def test_calendar_days_count_never_hours(zone: Any) -> None:
    """A week with a change of the clock has 167 or 169 hours."""
    nights = [datetime.combine(date(2026, 3, 1) + timedelta(days=n), time(1), VIENNA) for n in range(120)]
    found = kept([at(night) for night in nights], rules(zone=VIENNA), nights[-1])
    weeklies = [n for n in range(120) if at(nights[n]) in found][:-7]
    assert weeklies == [0, 28, 56, 84, 91, 98, 105, 112]


def test_only_complete_and_whole_ones_fill_tiers() -> None:
    incomplete, half, whole = days_ago(1.4, complete=False), days_ago(1.3, whole=False), days_ago(1.2)
    tiers = retention.tiers_of([incomplete, half, whole, days_ago(1.1, trigger="safety")], DEFAULT, NOW)
    assert tiers == {whole.id: "daily"}


def test_a_backup_made_on_demand_fills_a_tier_too() -> None:
    backups = [days_ago(n, trigger="on-demand") for n in range(60)]
    tiers = retention.tiers_of(backups, DEFAULT, NOW)
    assert len(tiers) == 7 + 4 + 1
    assert len(kept(backups)) == 30 + sum(1 for n in range(30, 60) if backups[n].id in tiers)


def test_limits_of_tiers() -> None:
    backups = [days_ago(n) for n in range(400)]
    for daily, weekly, monthly in ((3, 2, 1), (3, 0, 2), (5, 0, 0), (1, 1, 0)):
        chosen = rules(scheduled=ScheduledRetention(daily=daily, weekly=weekly, monthly=monthly))
        assert len(kept(backups, chosen)) == daily + weekly + monthly
    limited = kept(backups, rules(scheduled=ScheduledRetention(limit=9)))
    assert limited == kept(backups)[-9:]
    assert "more than 9" in reasons(backups, kept(backups)[0], rules(scheduled=ScheduledRetention(limit=9)))


def test_a_pinned_backup_does_not_move_the_weeks_of_those_after_it() -> None:
    """The 10th falls out of the tiers and goes. The pinned 11th must not begin the weeks instead of it."""
    tenth, pinned, next_week, late = (
        at(datetime(2026, 11, 10, 4, tzinfo=UTC)),
        at(datetime(2026, 11, 11, 4, tzinfo=UTC), pinned=True),
        at(datetime(2026, 11, 17, 4, tzinfo=UTC)),
        at(datetime(2026, 11, 17, 5, tzinfo=UTC)),
    )
    chosen = rules(scheduled=ScheduledRetention(daily=0, weekly=1, monthly=0))
    once = kept([tenth, pinned, next_week, late], chosen)
    assert once == [pinned, next_week, late]
    assert kept(once, chosen) == once


def test_an_aged_backup_on_demand_takes_no_scheduled_ones_week() -> None:
    on_demand = days_ago(41, trigger="on-demand")
    newest = [days_ago(n, trigger="on-demand") for n in (1, 2, 3)]
    scheduled = [days_ago(n) for n in (0, 35, 49)]
    chosen = rules(scheduled=ScheduledRetention(daily=1, weekly=4))
    found = kept([*scheduled, on_demand, *newest], chosen)
    assert on_demand not in found
    assert set(scheduled) <= set(found)


def test_p9_hourly_and_last_keep_the_states_between_two_daily_backups() -> None:
    """Backups every 20 minutes for three days: the default keeps one a day and the newest."""
    backups = [days_ago(n / 72) for n in range(216)]
    daily = kept(backups)
    assert len(daily) == 5
    chosen = rules(scheduled=ScheduledRetention(last=5, hourly=24))
    found = kept(backups, chosen)
    assert set(daily) < set(found)
    assert found[-5:] == backups[:5][::-1]
    hours = {one.created_at.replace(minute=0) for one in found if NOW - one.created_at < timedelta(hours=24)}
    assert len(hours) >= 24
    tiers = retention.tiers_of(backups, chosen, NOW)
    assert [tiers[one.id] for one in found if one.id in tiers].count("daily") == 4
    assert {"last", "hourly", "daily"} == set(tiers.values())
    assert reasons(backups, backups[1], chosen) == "last 2 of 5"
    assert reasons(backups, backups[15], chosen).startswith("hourly 6 of 24 (2026-11-20 07:00)")


def test_p9_without_a_policy_nothing_is_kept_for_an_hour() -> None:
    assert (DEFAULT.scheduled.last, DEFAULT.scheduled.hourly) == (0, 0)
    assert (DEFAULT.scheduled.daily, DEFAULT.scheduled.weekly, DEFAULT.scheduled.monthly) == (7, 4, 12)


def test_p9_the_second_backup_of_a_day_does_not_begin_the_weeks_when_it_leaves_the_hourly_ones() -> None:
    """The first of the 4th is no weekly one, since the 1st is. The second one must not become one later."""
    days = [(1, 1), (4, 1), (4, 5), (8, 1), (9, 1), (10, 1), (11, 1)]
    backups = [at(datetime(2026, 11, day, hour, tzinfo=UTC)) for day, hour in days]
    chosen = rules(scheduled=ScheduledRetention(hourly=3, daily=0, weekly=1, monthly=0))
    alive: list[RetainedBackup] = []
    for backup in backups:
        alive = kept([*alive, backup], chosen, backup.created_at)
    assert alive == kept(backups, chosen) == backups[3:]


# On demand, safety, and incomplete backups


def test_on_demand_the_newest_stay_for_ever_and_the_others_for_their_time() -> None:
    old = [days_ago(100 + n / 10, trigger="on-demand", whole=True) for n in range(5)]
    nothing = rules(scheduled=ScheduledRetention(daily=0, weekly=0, monthly=0))
    assert kept([*old, days_ago(0)], nothing) == sorted([*old[:3], days_ago(0)], key=lambda backup: backup.id)
    young = [days_ago(20 + n / 10, trigger="on-demand") for n in range(4)]
    assert set(young) <= set(kept([*old, *young, days_ago(0)], nothing))
    assert not set(old) & set(kept([*old, *young, days_ago(0)], nothing))
    limited = msgspec.structs.replace(nothing, on_demand=OnDemandRetention(limit=2))
    assert len(kept([*old, *young, days_ago(0)], limited)) == 3


def test_an_incomplete_one_pushes_out_no_complete_one() -> None:
    nothing = rules(scheduled=ScheduledRetention(daily=0, weekly=0, monthly=0))
    whole = [days_ago(100 + n, trigger="on-demand") for n in range(3)]
    incomplete = [days_ago(90 + n, trigger="on-demand", complete=False) for n in range(3)]
    assert set(whole) < set(kept([*whole, *incomplete, days_ago(0)], nothing))


def test_safety_backups_stay_for_their_time() -> None:
    old, young = days_ago(31, trigger="safety"), days_ago(29, trigger="safety")
    assert kept([old, young, days_ago(0)]) == [young, days_ago(0)]
    assert "30 days" in reasons([old, young, days_ago(0)], old)
    assert kept([young, days_ago(0)], rules(safety=SafetyRetention(age=timedelta(hours=5)))) == [days_ago(0)]
    assert kept(
        [young, days_ago(1, trigger="safety"), days_ago(0)], rules(safety=SafetyRetention(limit=1))
    ) == [
        days_ago(1, trigger="safety"),
        days_ago(0),
    ]


def test_an_incomplete_one_stays_until_it_is_old_and_a_newer_complete_one_exists() -> None:
    incomplete = [days_ago(n, complete=False) for n in range(60)]
    assert kept(incomplete) == incomplete[::-1]
    whole = days_ago(40.5)
    assert kept([whole, *incomplete]) == [whole, *reversed(incomplete[:41])]
    assert kept([days_ago(-0.0001), *incomplete])[:-1] == incomplete[29::-1]


# What rules over all of it


def all_of(count: int, **facts: Any) -> list[RetainedBackup]:
    return [days_ago(n * 2 + 200, **facts) for n in range(count)] + [days_ago(0)]


def test_pinned_and_used_ones_stay() -> None:
    backups = all_of(20)
    gone = next(backup for backup in backups if backup not in kept(backups))
    pinned = [msgspec.structs.replace(one, pinned=True) if one is gone else one for one in backups]
    assert reasons(pinned, gone) == "pinned"
    used = [msgspec.structs.replace(one, in_use="the restore X") if one is gone else one for one in backups]
    assert reasons(used, gone) == "in use by the restore X"


def test_the_last_complete_one_stays_whatever_the_policy_says() -> None:
    nothing = Rules(
        scheduled=ScheduledRetention(daily=0, weekly=0, monthly=0),
        on_demand=OnDemandRetention(newest=0, age=timedelta()),
        safety=SafetyRetention(age=timedelta()),
        zone=UTC,
    )
    for trigger in ("scheduled", "on-demand"):
        backups = [days_ago(500 + n, trigger=trigger) for n in range(3)] + [days_ago(1, trigger="safety")]
        assert kept(backups, nothing) == [backups[0]]
    assert kept([days_ago(3), days_ago(2, whole=False)], nothing) == [days_ago(3), days_ago(2, whole=False)]


def untouched(
    backups: list[RetainedBackup], word: str, now: datetime = NOW, store_now: datetime = NOW
) -> None:
    decision = decide(backups, DEFAULT, now, store_now)
    assert not decision.remove
    assert len(decision.keep) == len(backups)
    assert word in decision.withheld[0]


def test_nothing_goes_when_the_newest_failed_its_verification() -> None:
    backups = all_of(20)
    assert len(kept(backups)) < len(backups)
    untouched(
        [*backups[:-1], msgspec.structs.replace(backups[-1], damage="failed its verification")],
        "failed its verification",
    )
    # also when something that does not count was made after it
    untouched(
        [
            *backups[:-1],
            msgspec.structs.replace(backups[-1], damage="failed its verification"),
            at(NOW + timedelta(seconds=9), trigger="safety"),
        ],
        "failed",
    )
    assert len(
        kept([msgspec.structs.replace(backups[0], damage="failed its verification"), *backups[1:]])
    ) < len(backups)


def test_nothing_goes_by_age_when_clocks_differ() -> None:
    backups = all_of(20)
    untouched(backups, "the clock of the repository", store_now=NOW + timedelta(hours=1))
    untouched(backups, "the clock of the repository", store_now=NOW - timedelta(hours=1))
    assert decide(backups, DEFAULT, NOW, NOW + timedelta(minutes=59)).remove


def test_nothing_goes_by_age_when_a_backup_lies_in_the_future() -> None:
    untouched([*all_of(20), days_ago(-1)], "in the future")
    assert decide([*all_of(20), at(NOW + timedelta(seconds=30))], DEFAULT, NOW, NOW).remove


def test_nothing_goes_by_age_when_the_times_do_not_ascend_along_the_ids() -> None:
    backups = all_of(20)
    back = msgspec.structs.replace(backups[5], created_at=backups[5].created_at - timedelta(days=30))
    untouched([*backups[:5], back, *backups[6:]], "set back")
    same = msgspec.structs.replace(backups[5], created_at=backups[6].created_at)
    assert decide([*backups[:5], same, *backups[6:]], DEFAULT, NOW, NOW).remove


def test_nothing_older_than_a_new_history_goes_until_it_is_accepted() -> None:
    backups = sorted(all_of(20), key=lambda backup: backup.id)
    new = msgspec.structs.replace(backups[10], new_history=True)
    found = kept([*backups[:10], new, *backups[11:]])
    assert found[:11] == [*backups[:10], new]
    assert len(found) < len(backups)
    assert "--accept-history" in reasons([*backups[:10], new, *backups[11:]], backups[0])
    assert len(kept(backups)) < 21


# Any set of backups


@st.composite
def sets(draw: st.DrawFn) -> list[RetainedBackup]:
    longest = draw(st.sampled_from([30, 12 * 60, 10 * 24 * 60]))
    steps = draw(st.lists(st.integers(min_value=1, max_value=longest), min_size=1, max_size=60))
    moment, backups = NOW - timedelta(minutes=sum(steps)), []
    for step in steps:
        moment += timedelta(minutes=step)
        backups.append(
            at(
                moment,
                trigger=draw(st.sampled_from(["scheduled", "scheduled", "on-demand", "safety"])),
                complete=draw(st.integers(0, 9)) > 0,
                whole=draw(st.integers(0, 9)) > 0,
                pinned=draw(st.integers(0, 19)) == 0,
                in_use="x" if draw(st.integers(0, 19)) == 0 else None,
            )
        )
    return backups


counts = st.one_of(st.none(), st.integers(0, 12))
all_rules = st.builds(
    Rules,
    scheduled=st.builds(
        ScheduledRetention,
        last=st.integers(0, 9),
        hourly=st.integers(0, 9),
        daily=st.integers(0, 9),
        weekly=st.integers(0, 6),
        monthly=st.integers(0, 14),
        limit=counts,
    ),
    on_demand=st.builds(
        OnDemandRetention,
        newest=st.integers(0, 5),
        age=st.timedeltas(timedelta(), timedelta(days=60)),
        limit=counts,
    ),
    safety=st.builds(SafetyRetention, age=st.timedeltas(timedelta(), timedelta(days=60)), limit=counts),
    zone=st.sampled_from([UTC, VIENNA, ZoneInfo("America/New_York"), ZoneInfo("Pacific/Apia")]),
)


@given(sets(), all_rules)
def test_every_backup_is_judged_once_with_a_reason_and_what_must_stay_does(
    backups: list[RetainedBackup], chosen: Rules
) -> None:
    decision = decide(backups, chosen, NOW, NOW)
    judged = [*decision.keep, *decision.remove]
    assert sorted(row.id for row in judged) == [backup.id for backup in backups]
    assert all(row.reasons and all(row.reasons) for row in judged)
    removed = {row.id for row in decision.remove}
    assert not [backup for backup in backups if backup.id in removed and (backup.pinned or backup.in_use)]
    assert [backup.id for backup in backups if backup.counts][-1:] == [
        b.id for b in backups if b.counts and b.id not in removed
    ][-1:]


@given(sets(), all_rules)
def test_what_stays_stays_when_it_is_judged_again(backups: list[RetainedBackup], chosen: Rules) -> None:
    limits = (chosen.scheduled.limit, chosen.on_demand.limit, chosen.safety.limit)
    again = decide(kept(backups, chosen), chosen, NOW, NOW)
    assert not again.remove, limits


@given(sets(), all_rules, st.data())
def test_pruning_often_leaves_what_pruning_once_does(
    backups: list[RetainedBackup], chosen: Rules, data: st.DataObject
) -> None:
    """Runs do not depend on earlier ones, except on a day whose last backup does not exist yet."""
    scheduled = [
        msgspec.structs.replace(
            one, trigger="scheduled", complete=True, whole=True, pinned=False, in_use=None
        )
        for one in backups
    ]
    firsts = {one.created_at.astimezone(chosen.zone).date(): one for one in reversed(scheduled)}
    firsts_only = sorted(firsts.values(), key=lambda backup: backup.id)
    chosen = msgspec.structs.replace(chosen, scheduled=msgspec.structs.replace(chosen.scheduled, limit=None))
    alive: list[RetainedBackup] = []
    for backup in firsts_only:
        alive.append(backup)
        if data.draw(st.booleans()):
            alive = kept(alive, chosen, backup.created_at)
    assert kept(alive, chosen) == kept(firsts_only, chosen)


@given(sets(), all_rules, st.data())
def test_p9_pruning_often_is_pruning_once_with_several_backups_a_day(
    backups: list[RetainedBackup], chosen: Rules, data: st.DataObject
) -> None:
    """Each backup is judged when it has left the short tiers, whatever was removed before."""
    scheduled = [
        msgspec.structs.replace(
            one, trigger="scheduled", complete=True, whole=True, pinned=False, in_use=None
        )
        for one in backups
    ]
    chosen = msgspec.structs.replace(chosen, scheduled=msgspec.structs.replace(chosen.scheduled, limit=None))
    alive: list[RetainedBackup] = []
    for backup in scheduled:
        alive.append(backup)
        if data.draw(st.booleans()):
            alive = kept(alive, chosen, backup.created_at)
    assert kept(alive, chosen) == kept(scheduled, chosen)


# Two years


def nightly(day: int) -> datetime:
    return datetime.combine(date(2025, 1, 1) + timedelta(days=day), time(2, 30), VIENNA)


Clock = Callable[[int], timedelta]
STEPS: dict[str, Clock] = {
    "right": lambda _day: timedelta(),
    # forwards by hours and back again, never so far that a backup seems older than the one before
    "stepping": lambda day: timedelta(hours=(day // 50 * 7) % 23 - 11),
    # in summer the machine was on another zone's time
    "an hour off": lambda day: timedelta(hours=1 if 80 < day % 365 < 300 else 0),
}


def two_years(
    clock: Clock, days: int = 730
) -> Iterator[tuple[int, list[RetainedBackup], list[RetainedBackup]]]:
    """Back up every night and prune; yield the day, what there was before and what is left."""
    alive: list[RetainedBackup] = []
    for day in range(days):
        now = nightly(day).astimezone(UTC) + clock(day)
        before = [*alive, at(now)]
        alive = kept(before, rules(zone=VIENNA), now + timedelta(minutes=5))
        yield day, before, alive


def gaps(alive: list[RetainedBackup]) -> list[int]:
    days = [backup.created_at.astimezone(VIENNA).date() for backup in alive]
    return [(later - earlier).days for earlier, later in zip(days, days[1:], strict=False)]


def test_after_a_year_of_dailies_exactly_23_remain() -> None:
    found = {day: len(alive) for day, _before, alive in two_years(STEPS["right"])}
    assert found[342] == 22
    assert {found[day] for day in range(343, 730)} == {23}


@pytest.mark.parametrize("clock", STEPS)
def test_every_promised_target_is_there_at_every_step(clock: str) -> None:
    """Daily for a week, weekly for four weeks, monthly for a year: no gap between backups is longer."""
    for day, before, alive in two_years(STEPS[clock]):
        assert alive[-1] == before[-1]
        if STEPS[clock](day) == STEPS[clock](max(0, day - 8)):
            assert gaps(alive)[-6:] == [1] * min(6, day)
        assert max(gaps(alive)[-10:], default=0) <= 9
        assert max(gaps(alive), default=0) <= 30
        oldest = (before[-1].created_at - alive[0].created_at).days
        assert oldest >= min(day - 1, 11 * 28 + 3 * 7 + 7)
        # what was promised yesterday is gone only when something newer has its place
        lost = [backup for backup in before if backup not in alive]
        assert len(lost) <= 2


def test_a_clock_that_was_set_back_removes_nothing_until_it_has_caught_up() -> None:
    alive = [days_ago(n) for n in range(60)]
    back = msgspec.structs.replace(at(NOW + timedelta(minutes=1)), created_at=NOW - timedelta(days=20))
    untouched([*alive, back], "set back", now=NOW - timedelta(days=20), store_now=NOW - timedelta(days=20))
