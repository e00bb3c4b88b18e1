"""Decide which backups are kept and which are removed, each with its reasons.

The rules are tiers (last, hourly, daily, weekly, monthly), ages and counts. Some backups are protected from
all rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final, Literal

import msgspec

from ..model.manifest import Trigger
from ..runtime import clock

Tier = Literal["last", "hourly", "daily", "weekly", "monthly"]
WEEK: Final = 7
MONTH: Final = 28
# The clocks of hosts that share a repository differ by seconds; a backup more than this ahead is in the
# future.
AHEAD: Final = timedelta(minutes=1)
SKEW: Final = timedelta(hours=1)


class ScheduledRetention(msgspec.Struct, frozen=True, kw_only=True):
    """How many backups each tier keeps; ``limit`` is how many all tiers together keep, the newest.

    ``last`` are simply the newest backups. ``hourly`` and ``daily`` are the first ones of an hour or a day.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 7
    weekly: int = 4
    monthly: int = 12
    limit: int | None = None


class OnDemandRetention(msgspec.Struct, frozen=True, kw_only=True):
    """The ``newest`` on-demand backups are kept forever, the others for ``age``.

    ``limit`` is the highest number that this rule keeps; the newest ones stay.
    """

    newest: int = 3
    age: timedelta = timedelta(days=30)
    limit: int | None = None


class SafetyRetention(msgspec.Struct, frozen=True, kw_only=True):
    """How long safety backups, made before a restore, are kept; ``limit`` is their highest number."""

    age: timedelta = timedelta(days=30)
    limit: int | None = None


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules by what triggered a backup; calendar days are those of ``zone``."""

    scheduled: ScheduledRetention
    on_demand: OnDemandRetention
    safety: SafetyRetention
    zone: tzinfo


class RetainedBackup(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a backup that the decision needs.

    ``in_use`` is the run that relies on it. ``damage`` says in words what is known to be damaged of it.
    ``new_history``: it shares no transaction with the backups before it, and no user accepted
    that.
    """

    id: str
    created_at: datetime
    trigger: Trigger
    complete: bool = True
    whole: bool = True
    pinned: bool = False
    in_use: str | None = None
    damage: str | None = None
    new_history: bool = False

    @property
    def counts(self) -> bool:
        """Return whether it can fill a tier, and be the newest one that must be kept."""
        return self.complete and self.whole and self.trigger != "safety"


class RetentionReport(msgspec.Struct, frozen=True):
    """The reasons to keep or to remove one backup."""

    id: str
    reasons: list[str]


class RetentionDecision(msgspec.Struct, frozen=True):
    """The backups to keep and to remove, newest first.

    ``withheld`` are reasons why no backup is removed although the rules alone would remove some.
    """

    keep: list[RetentionReport]
    remove: list[RetentionReport]
    withheld: list[str]


def decide(
    backups: Sequence[RetainedBackup], rules: Rules, now: datetime, store_now: datetime
) -> RetentionDecision:
    """Decide for all backups of a site, which are given in any order.

    ``now`` is the time of this machine, ``store_now`` the time by the clock of the repository.
    """
    ordered = sorted(backups, key=lambda backup: backup.id)
    others = _other_reasons(ordered, rules, now)
    tiers, why_no_tier = _tiers(ordered, rules, others)
    withheld = [text for text in (clock_problem(ordered, now, store_now), _damaged_newest(ordered)) if text]
    keep: list[RetentionReport] = []
    remove: list[RetentionReport] = []
    for backup in ordered:
        tier = [tiers[backup.id][1]] if backup.id in tiers else []
        reasons = [*tier, *others[backup.id]]
        if reasons or withheld:
            keep.append(RetentionReport(backup.id, reasons or withheld))
        else:
            remove.append(RetentionReport(backup.id, _why_not(backup, why_no_tier.get(backup.id), rules)))
    return RetentionDecision(keep[::-1], remove[::-1], withheld)


def keep_also(decision: RetentionDecision, other: RetentionDecision, why: str) -> RetentionDecision:
    """Return a decision that also keeps what another decision, over some of the backups, keeps.

    ``why`` is added to the reasons of the other decision.
    """
    kept = {report.id: report for report in other.keep}
    saved = [
        RetentionReport(one.id, [f"{reason} ({why})" for reason in kept[one.id].reasons])
        for one in decision.remove
        if one.id in kept
    ]
    keep = sorted([*decision.keep, *saved], key=lambda report: report.id, reverse=True)
    return RetentionDecision(keep, [one for one in decision.remove if one.id not in kept], decision.withheld)


def between_dailies(
    backups: Sequence[RetainedBackup], decision: RetentionDecision, rules: Rules
) -> list[str]:
    """Return the removed backups of days of which another backup stays, when no tier is shorter than a day.

    After a pack of the site, the states that only they have cannot be restored any more.
    """
    if rules.scheduled.hourly or rules.scheduled.last:
        return []
    days = {one.id: one.created_at.astimezone(rules.zone).date() for one in backups if one.counts}
    kept = {days[one.id] for one in decision.keep if one.id in days}
    return [one.id for one in decision.remove if days.get(one.id) in kept]


def tiers_of(backups: Sequence[RetainedBackup], rules: Rules, now: datetime) -> dict[str, Tier]:
    """Return the tier of each backup that has one at ``now``."""
    ordered = sorted(backups, key=lambda backup: backup.id)
    found, _ = _tiers(ordered, rules, _other_reasons(ordered, rules, now))
    return {backup_id: tier for backup_id, (tier, _) in found.items()}


def clock_problem(ordered: Sequence[RetainedBackup], now: datetime, store_now: datetime) -> str | None:
    """Return why the ages of backups cannot be trusted, None when they can; ``ordered`` is sorted by id."""
    if abs(store_now - now) >= SKEW:
        return (
            f"the clock of the repository says {clock.iso(store_now)}, the one here {clock.iso(now)}: "
            "nothing is removed by age"
        )
    for before, after in zip(ordered, ordered[1:], strict=False):
        if after.created_at < before.created_at:
            what = (
                f"{after.id} was made at {clock.iso(after.created_at)}, {before.id} before it at "
                f"{clock.iso(before.created_at)}"
            )
            return (
                f"the clock was set back between two backups: {what}: "
                "nothing is removed by age until one of them is deleted"
            )
    if ordered and ordered[-1].created_at > now + AHEAD:
        last = ordered[-1]
        return (
            f"{last.id} was made at {clock.iso(last.created_at)}, which is in the future: "
            "nothing is removed by age"
        )
    return None


def _damaged_newest(ordered: Sequence[RetainedBackup]) -> str | None:
    """Return why nothing is removed when the newest backup, or the newest that counts, is damaged."""
    newest = [*ordered[-1:], *[backup for backup in ordered if backup.counts][-1:]]
    damaged = next((backup for backup in newest if backup.damage), None)
    return f"the newest backup {damaged.id} {damaged.damage}: nothing is removed" if damaged else None


def _protecting(ordered: Sequence[RetainedBackup]) -> list[list[str]]:
    """Return the reasons that protect each backup from all rules."""
    last = next((backup.id for backup in reversed(ordered) if backup.counts), "")
    history = next(
        (backup.id for backup in reversed(ordered) if backup.new_history and backup.trigger != "safety"), ""
    )
    found: list[list[str]] = []
    for backup in ordered:
        reasons = ["pinned"] if backup.pinned else []
        reasons += [f"in use by {backup.in_use}"] if backup.in_use else []
        reasons += ["the newest complete one"] if backup.id == last else []
        if backup.id > last and backup.trigger != "safety":
            reasons.append("newer than the newest complete one")
        if backup.id < history:
            reasons.append(
                f"older than the new history that {history} begins, which `annotate {history} "
                "--accept-history` would accept"
            )
        if backup.id == history and found:
            # without this backup, no other would show that a new history began
            reasons.append("begins a new history that was not accepted")
        found.append(reasons)
    return found


def _other_reasons(ordered: Sequence[RetainedBackup], rules: Rules, now: datetime) -> dict[str, list[str]]:
    """Return the reasons to keep each backup except the tiers: protection, and rules of age and count."""
    reasons = {
        backup.id: protecting for backup, protecting in zip(ordered, _protecting(ordered), strict=True)
    }
    aged = {
        "on-demand": _on_demand(
            [backup for backup in reversed(ordered) if backup.trigger == "on-demand"], rules.on_demand, now
        ),
        "safety": _young(
            [backup for backup in reversed(ordered) if backup.trigger == "safety"], rules.safety.age, now
        ),
        # incomplete ones fill no tier, but may be the only backups while something of the site is missing
        "scheduled": _young(
            [b for b in reversed(ordered) if b.trigger == "scheduled" and not b.counts],
            rules.on_demand.age,
            now,
        ),
    }
    limits = {"on-demand": rules.on_demand.limit, "safety": rules.safety.limit, "scheduled": None}
    for kind, found in aged.items():
        for backup_id, reason in found[: limits[kind]]:
            reasons[backup_id].append(reason)
    return reasons


def _on_demand(
    newest_first: Sequence[RetainedBackup], rule: OnDemandRetention, now: datetime
) -> list[tuple[str, str]]:
    # an incomplete backup does not displace a complete one
    best = {backup.id for backup in [b for b in newest_first if b.counts][: rule.newest]} | {
        backup.id for backup in newest_first[: rule.newest]
    }
    young = dict(_young(newest_first, rule.age, now))
    named = f"one of the newest {rule.newest} made on demand"
    return [
        (one.id, named if one.id in best else young[one.id])
        for one in newest_first
        if one.id in best or one.id in young
    ]


def _young(newest_first: Sequence[RetainedBackup], age: timedelta, now: datetime) -> list[tuple[str, str]]:
    return [
        (one.id, f"{one.trigger}, younger than {_spoken(age)}")
        for one in newest_first
        if now - one.created_at < age
    ]


def _tiers(
    ordered: Sequence[RetainedBackup], rules: Rules, others: dict[str, list[str]]
) -> tuple[dict[str, tuple[Tier, str]], dict[str, str]]:
    """Return the tier of each backup with the reason, and for every other counted backup why it has none.

    The tiers are computed from the existing backups alone, so they must be the same after a run has removed
    the backups without a reason to stay. ``others`` are the reasons apart from the tiers. A backup with such
    a reason is never weekly or monthly: it stays although it is in no tier, and when the backup before it is
    removed, it would move the weeks and months of all backups after it.
    """
    limits = rules.scheduled
    counting = [backup for backup in ordered if backup.counts]
    firsts, lost = _first_of_day(counting, rules.zone)
    tiers = _short_tiers(counting, limits, rules.zone)
    older, dailies = _split(firsts, limits.daily)
    # A day is judged when it has left the short tiers. Otherwise its second backup, which such a tier keeps,
    # would be its first one after the first one is gone, and would begin the weeks later.
    young = {one.created_at.astimezone(rules.zone).date() for one in counting if one.id in tiers}
    if limits.weekly or limits.monthly:
        waiting = [one for one in older if one.day in young]
        tiers |= {one.id: ("daily", f"the first of {one.day}, of which others stay") for one in waiting}
    old = [one for one in older if one.day not in young and not others[one.id]]
    promoted, passed = _promote(old, WEEK, "weekly")
    older, weeklies = _split(promoted, limits.weekly)
    lost |= passed
    promoted, passed = _promote(older, MONTH, "monthly")
    older, monthlies = _split(promoted, limits.monthly)
    lost |= passed | {one.id: f"older than the {limits.monthly} newest monthly ones" for one in older}
    names: tuple[Tier, ...] = ("daily", "weekly", "monthly")
    for tier, chosen in zip(names, (dailies, weeklies, monthlies), strict=True):
        for n, one in enumerate(reversed(chosen), 1):
            tiers[one.id] = tier, f"{tier} {n} of {getattr(limits, tier)} ({one.day})"
    if limits.limit is not None:
        beyond = sorted(tiers, reverse=True)[limits.limit :]
        lost |= dict.fromkeys(beyond, f"more than {limits.limit} in all tiers together")
        tiers = {one: found for one, found in tiers.items() if one not in beyond}
    return tiers, lost


def _short_tiers(
    counting: Sequence[RetainedBackup], limits: ScheduledRetention, zone: tzinfo
) -> dict[str, tuple[Tier, str]]:
    """Return the backups of the tiers ``last`` and ``hourly``, each with the reason."""
    newest = [one.id for one in counting[::-1]][: limits.last]
    tiers: dict[str, tuple[Tier, str]] = {
        one: ("last", f"last {n} of {limits.last}") for n, one in enumerate(newest, 1)
    }
    hours: dict[datetime, str] = {}
    for backup in counting:
        # an hour of UTC exists once, also when the clocks change
        hour = backup.created_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        hours.setdefault(hour, backup.id)
    for n, hour in enumerate(sorted(hours, reverse=True)[: limits.hourly], 1):
        when = f"{hour.astimezone(zone):%Y-%m-%d %H:%M}"
        tiers[hours[hour]] = "hourly", f"hourly {n} of {limits.hourly} ({when})"
    return tiers


class _DaysFirst(msgspec.Struct, frozen=True):
    """The first backup of a calendar day."""

    day: date
    id: str
    scheduled: bool


def _first_of_day(
    counting: Sequence[RetainedBackup], zone: tzinfo
) -> tuple[list[_DaysFirst], dict[str, str]]:
    """Return the first backup of each day, oldest first, and why each other backup is not one."""
    firsts: dict[date, _DaysFirst] = {}
    lost = {}
    for backup in counting:
        day = backup.created_at.astimezone(zone).date()
        first = firsts.setdefault(day, _DaysFirst(day, backup.id, backup.trigger == "scheduled"))
        if first.id != backup.id:
            lost[backup.id] = f"not the first of {day}, which is {first.id}"
    return sorted(firsts.values(), key=lambda one: one.day), lost


def _split(chosen: list[_DaysFirst], count: int) -> tuple[list[_DaysFirst], list[_DaysFirst]]:
    """Return the older ones, which do not fit into a tier, and the newest ``count``."""
    return chosen[: max(0, len(chosen) - count)], chosen[max(0, len(chosen) - count) :]


def _promote(candidates: list[_DaysFirst], days: int, tier: Tier) -> tuple[list[_DaysFirst], dict[str, str]]:
    """Promote, oldest first, each backup that is at least ``days`` apart from all that are promoted already.

    Scheduled backups come first, so that a backup on demand fills a gap but takes no scheduled one's place.
    """
    promoted: list[_DaysFirst] = []
    passed = {}
    for one in sorted(candidates, key=lambda one: (not one.scheduled, one.day)):
        near = next((other for other in promoted if abs((one.day - other.day).days) < days), None)
        if near is None:
            promoted.append(one)
        else:
            side = "after" if near.day < one.day else "before"
            passed[one.id] = f"less than {days} days {side} {near.id}, so not the next {tier} one"
    return sorted(promoted, key=lambda one: one.day), passed


def _why_not(backup: RetainedBackup, no_tier: str | None, rules: Rules) -> list[str]:
    """Return why the rules remove a backup."""
    reasons = [no_tier] if no_tier else []
    if backup.trigger == "on-demand":
        limit = f" or more than {rules.on_demand.limit}" if rules.on_demand.limit is not None else ""
        return [
            *reasons,
            f"not one of the newest {rules.on_demand.newest} made on demand, and older than "
            f"{_spoken(rules.on_demand.age)}{limit}",
        ]
    if backup.trigger == "safety":
        limit = f" or more than {rules.safety.limit}" if rules.safety.limit is not None else ""
        return [f"safety, older than {_spoken(rules.safety.age)}{limit}"]
    return reasons or [f"not complete and whole, and older than {_spoken(rules.on_demand.age)}"]


def _spoken(age: timedelta) -> str:
    if age % timedelta(days=1):
        return (
            f"{int(age.total_seconds() // 3600)} hours"
            if not age % timedelta(hours=1)
            else f"{int(age.total_seconds())} seconds"
        )
    return f"{age.days} days"
