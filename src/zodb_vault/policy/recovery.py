"""Decide which backup, truncated at which cut point, restores the state of a transaction or a time.

The state is exact, never an approximation.

A caller needs two calls for a database. ``search`` decides from the manifests which backups may contain the
target. ``find_cut`` reads their lists of transactions, through a function that the caller passes.
``policy/timelines.py`` decides which backups of other timelines may answer otherwise.

A valid target of a backup is a transaction from its last packed one (else its first one) to its last one. The
current timeline is that of the newest complete, whole backup which is not a safety backup. Backups on it are
searched, newest first. A target that exists only elsewhere (on an abandoned timeline, in a safety or
incomplete backup) is reported, and the user has to give the id of that backup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from ..errors import BackupMissing, TargetMissing, UsageError
from ..model.manifest import Timeline, Trigger
from ..model.tid import from_datetime, from_hex, iso, precise_iso, to_datetime, to_hex
from .timestamps import in_utc, last_tid_of_second

FIRST_TID, LAST_TID = "0x" + 16 * "0", "0x" + 16 * "f"


class TidRange(NamedTuple):
    """The transactions of one database in one backup, TIDs as hex digits.

    Without transactions all are None.
    """

    first_tid: str | None
    pack_tid: str | None
    last_tid: str | None

    @property
    def start(self) -> str | None:
        """Return the oldest valid target."""
        return self.pack_tid or self.first_tid


class SearchableBackup(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a backup that the search needs.

    ``created_at`` is aware, and not later than the capture of the source: the backup contains all
    transactions up to then. ``timeline`` is that of the manifest, never empty. ``ordered`` is False if the
    TIDs of the source did not ascend.
    """

    id: str
    created_at: datetime
    complete: bool
    whole: bool
    trigger: Trigger
    timeline: tuple[Timeline, ...]
    ordered: bool
    databases: Mapping[str, TidRange]

    @property
    def eligible(self) -> bool:
        """Return whether it is searched without a given id: complete, whole and not a safety backup."""
        return self.complete and self.whole and self.trigger != "safety"


class ToTid(msgspec.Struct, frozen=True):
    """The state after this transaction, which has to exist."""

    tid: str


class BeforeTid(msgspec.Struct, frozen=True):
    """The state after the last transaction before this one, which need not exist."""

    tid: str


class AtTimestamp(msgspec.Struct, frozen=True):
    """The state after the last transaction at or before a time.

    ``time`` is aware, as ``parse_timestamp`` returns it. ``last_tid`` is the largest TID that still counts
    as that time (None: that of the microsecond). It is later if the user gave a whole second.
    """

    time: datetime
    last_tid: str | None = None


Request = ToTid | BeforeTid | AtTimestamp


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """The states of one database that one backup can restore.

    Valid targets are from ``start`` to ``top``. If not ``ordered``, these are the first and the last one in
    the file, and every target up to ``until`` counts. Up to ``end`` (as a TID: ``end_tid``) the backup has
    all transactions of the timeline, so that the state at every time up to then is known.
    """

    id: str
    start: str
    top: str
    until: str
    end: datetime
    end_tid: str
    ordered: bool
    why_not: str


class SearchStep(msgspec.Struct, frozen=True, kw_only=True):
    """A backup to search, and the TID that bounds the cut point.

    Without ``bound``, all of the backup is used.

    The cut point is the last target before ``bound``, or at it if ``inclusive``. ``exact``: it has to be
    ``bound`` itself. Targets are from ``start`` to ``top``. If not ``ordered``, the order is that of the
    file.
    """

    backup_id: str
    bound: str | None
    inclusive: bool = True
    exact: bool = False
    start: str = FIRST_TID
    top: str = LAST_TID
    ordered: bool = True


class CutPoint(msgspec.Struct, frozen=True):
    """The last transaction to keep and the position at which it ends."""

    tid: str
    end: int


class Gap(msgspec.Struct, frozen=True):
    """The valid targets on both sides of one that does not exist; None where there is none."""

    previous: str | None
    next: str | None


class SearchResult(msgspec.Struct, frozen=True):
    """The result of ``search``: ``choices`` in order of preference, perhaps none.

    The other fields describe what exists instead, for an error message.
    """

    request: Request | None
    choices: list[SearchStep]
    covers: list[Coverage]
    elsewhere: list[Coverage]
    explicit: bool


class ResolvedTarget(msgspec.Struct, frozen=True):
    """The result of ``find_cut``; without ``cut``, all of the backup is restored."""

    backup_id: str
    cut: CutPoint | None


Transactions = Iterable[tuple[str, int]]


def search(
    reaches: Sequence[SearchableBackup], database: str, request: Request | None, backup_id: str | None = None
) -> SearchResult:
    """Return which backups of the site to search for the target, and with which bound.

    ``reaches`` are all backups of the site in any order. Without a request, the result is all of the given
    backup, or of the latest one. With ``backup_id`` only that backup is searched, on any timeline and with
    any status. Raise UsageError for a malformed TID or an unknown database, BackupMissing when there is no
    backup to search.
    """
    request = _normal(request)
    chosen = _backup(reaches, backup_id)
    if request is None:
        return SearchResult(
            None, [SearchStep(backup_id=chosen.id, bound=None)], [], [], backup_id is not None
        )
    _require_database([chosen] if backup_id else reaches, database)
    covers = _present([own_cover(chosen, database)]) if backup_id else covers_of_timeline(reaches, database)
    holding = [cover for cover in covers if may_hold(cover, request)]
    elsewhere = [] if backup_id else _elsewhere(reaches, database, request, covers, holding)
    return SearchResult(
        request, [_choice(cover, request) for cover in holding], covers, elsewhere, backup_id is not None
    )


def find_cut(found: SearchResult, read: Callable[[str], Transactions]) -> ResolvedTarget:
    """Return the backup and the cut point of the target.

    ``read`` returns the transactions of the database in a backup as (TID, end position) in the order of the
    file. It is called for one backup after the other until one contains the target. Raise TargetMissing, with
    the nearest valid targets, when none does.
    """
    if found.request is None:
        return ResolvedTarget(found.choices[0].backup_id, None)
    gaps = []
    for choice in found.choices:
        cut = cut_point_within(read(choice.backup_id), choice)
        if isinstance(cut, CutPoint):
            return ResolvedTarget(choice.backup_id, cut)
        gaps.append(cut)
    elsewhere = [cover for cover in found.elsewhere if _holds(cover, found.request, read)]
    raise _missing(found, found.request, gaps, elsewhere)


def cut_point_within(transactions: Transactions, choice: SearchStep) -> CutPoint | Gap:
    """Return the cut point of a search step, or the valid targets around it.

    ``transactions`` are (TID, end position) in the order of the file. If the step is ordered, the first ones
    may be left out, as long as the target before the bound is included.
    """
    targets = _targets(transactions, choice)
    if choice.exact:
        return _exactly(targets, choice)
    return _last_below(targets, choice) if choice.ordered else _directly_before(targets, choice)


def candidates_for_tid(reaches: Sequence[SearchableBackup], database: str, tid: str) -> list[str]:
    """Return the ids of backups on the current timeline whose targets enclose the TID, best first.

    The TID itself may not exist in them.
    """
    return [choice.backup_id for choice in search(reaches, database, ToTid(tid)).choices]


def elsewhere_for_tid(reaches: Sequence[SearchableBackup], database: str, tid: str) -> list[str]:
    """Return the ids of other backups that may contain the TID, newest first.

    The user has to give one of these ids.
    """
    return [cover.id for cover in search(reaches, database, ToTid(tid)).elsewhere]


def covers_of_timeline(reaches: Sequence[SearchableBackup], database: str) -> list[Coverage]:
    """Return the states of a database that the backups on the current timeline can restore, newest first.

    A backup on an earlier part of the timeline counts only up to the TID where that part ends
    (``until_tid``). After a clock that was ahead, an old backup must not cover times that a newer one
    captured, so it covers times only up to the earliest creation of itself and all newer backups.
    """
    eligible = sorted((r for r in reaches if r.eligible), key=lambda r: r.id, reverse=True)
    if not eligible:
        return []
    limits = {timeline.id: timeline.until_tid for timeline in eligible[0].timeline}
    seen = eligible[0].created_at
    covers = []
    for reach in eligible:
        seen = min(seen, reach.created_at)
        if reach.timeline[-1].id in limits:
            covers.append(_cover(reach, database, limits[reach.timeline[-1].id], seen))
    return _present(covers)


def own_cover(reach: SearchableBackup, database: str, seen: datetime | None = None) -> Coverage | None:
    """Return all states of a database that one backup can restore, on whatever timeline; None without any.

    ``seen`` is until when it covers times, if not until its creation.
    """
    return _cover(reach, database, None, seen or reach.created_at)


def _present(covers: Iterable[Coverage | None]) -> list[Coverage]:
    return [cover for cover in covers if cover is not None]


def _cover(reach: SearchableBackup, database: str, until: str | None, seen: datetime) -> Coverage | None:
    """Return the states of a database in a backup up to ``until``; None without any."""
    span = reach.databases.get(database)
    if span is None or span.start is None or span.last_tid is None:
        return None
    end, top = max(seen, _time(span.last_tid)), span.last_tid
    if until is not None:
        # The time at which the timeline continued after this TID is not recorded, so the state is known
        # exactly up to the TID.
        end, top = min(end, _time(until)), min(top, until)
    if reach.ordered and span.start > top:
        return None
    end_tid = to_hex(from_datetime(end))
    return Coverage(
        id=reach.id,
        start=span.start,
        top=top,
        until=until or LAST_TID,
        end=end,
        end_tid=end_tid,
        ordered=reach.ordered,
        why_not=_why_not(reach),
    )


def _why_not(reach: SearchableBackup) -> str:
    """Return why a backup is not searched unless its id is given."""
    if reach.trigger == "safety":
        return "safety backup"
    if not reach.complete:
        return "incomplete"
    return "on an abandoned timeline" if reach.whole else "only a part of the site"


def may_hold(cover: Coverage, request: Request) -> bool:
    """Return whether the backup may contain the target, from its first and last targets.

    If TIDs do not ascend, only a TID can be searched, not a time. Of a whole second, the backup need not have
    seen the end.
    """
    if not cover.ordered:
        return not isinstance(request, AtTimestamp) and request.tid <= cover.until
    if isinstance(request, ToTid):
        return cover.start <= request.tid <= cover.top
    return cover.start <= highest_tid(request) and _known_from(request) <= cover.end_tid


def _known_from(request: AtTimestamp | BeforeTid) -> str:
    """Return the TID up to which a backup has to know all transactions to answer the request."""
    if isinstance(request, AtTimestamp):
        return to_hex(from_datetime(request.time))
    return highest_tid(request)


def highest_tid(request: Request) -> str:
    """Return the highest TID that the requested state may contain; "" if it cannot contain any."""
    if isinstance(request, AtTimestamp):
        return request.last_tid or to_hex(from_datetime(request.time))
    if isinstance(request, ToTid):
        return request.tid
    before = int(request.tid, 16) - 1
    return f"0x{before:016x}" if before >= 0 else ""


def _choice(cover: Coverage, request: Request) -> SearchStep:
    return SearchStep(
        backup_id=cover.id,
        bound=request.tid if isinstance(request, BeforeTid) else highest_tid(request),
        inclusive=not isinstance(request, BeforeTid),
        exact=isinstance(request, ToTid),
        start=cover.start,
        top=cover.top,
        ordered=cover.ordered,
    )


def _elsewhere(
    reaches: Sequence[SearchableBackup],
    database: str,
    request: Request,
    covers: Sequence[Coverage],
    holding: Sequence[Coverage],
) -> list[Coverage]:
    """Return which states outside of ``covers`` may contain the target, newest first.

    They are those of other backups, and the abandoned ends of the same backups.
    """
    searched = {cover.id for cover in holding}
    whole = {(cover.id, cover.top) for cover in covers}
    # safety backups last: they are kept for a short time only
    order = sorted(reaches, key=lambda reach: (reach.trigger != "safety", reach.id), reverse=True)
    newest = [reach for reach in order if reach.id not in searched]
    others = _present(own_cover(r, database) for r in newest)
    return [cover for cover in others if (cover.id, cover.top) not in whole and may_hold(cover, request)]


def _holds(cover: Coverage, request: Request, read: Callable[[str], Transactions]) -> bool:
    return isinstance(cut_point_within(read(cover.id), _choice(cover, request)), CutPoint)


def _targets(transactions: Transactions, choice: SearchStep) -> Iterator[tuple[str, int]]:
    """Yield the valid targets among the transactions."""
    if choice.ordered:
        yield from ((tid, end) for tid, end in transactions if choice.start <= tid <= choice.top)
        return
    begun = False
    for tid, end in transactions:
        begun = begun or tid == choice.start
        if begun:
            yield tid, end


def _exactly(targets: Iterator[tuple[str, int]], choice: SearchStep) -> CutPoint | Gap:
    found: CutPoint | None = None
    below: str | None = None
    above: str | None = None
    wanted = choice.bound or LAST_TID
    for tid, end in targets:
        if tid == wanted:
            found = CutPoint(tid, end)
        elif tid < wanted:
            below = max(tid, below or tid)
        else:
            above = min(tid, above or tid)
            if choice.ordered:
                break
    return found or Gap(below, above)


def _last_below(targets: Iterator[tuple[str, int]], choice: SearchStep) -> CutPoint | Gap:
    last: CutPoint | None = None
    for tid, end in targets:
        if choice.bound is not None and (
            tid > choice.bound or (tid == choice.bound and not choice.inclusive)
        ):
            return last or Gap(None, tid)
        last = CutPoint(tid, end)
    return last or Gap(None, None)


def _directly_before(targets: Iterator[tuple[str, int]], choice: SearchStep) -> CutPoint | Gap:
    """Return the target directly before ``bound`` in the file.

    Where TIDs do not ascend, "before" can only mean the order of the file.
    """
    last: CutPoint | None = None
    for tid, end in targets:
        if tid == choice.bound:
            return last or Gap(None, tid)
        last = CutPoint(tid, end)
    return Gap(None, None)


def _time(tid: str) -> datetime:
    return to_datetime(from_hex(tid))


def _spoken(tid: str) -> str:
    return f"{tid} ({iso(from_hex(tid))})"


def option_of(request: Request) -> str:
    """Return the option of the command line that makes a request; a shell takes it without quotes."""
    if isinstance(request, AtTimestamp):
        return f"--at {typed(request)}"
    return f"--tid {request.tid}" if isinstance(request, ToTid) else f"--before-tid {request.tid}"


def restore_command(backup_id: str, request: Request) -> str:
    """Return the command that restores a request from one backup, on whatever timeline it is."""
    return f"restore {backup_id} {option_of(request)}"


def typed(request: AtTimestamp) -> str:
    """Return a time in UTC as a user types it: ``parse_timestamp`` reads the same request from it."""
    text, whole_second = in_utc(request.time), not request.time.microsecond
    if request.last_tid is None or request.last_tid == to_hex(from_datetime(request.time)):
        return text.replace("Z", ".000000Z") if whole_second else text
    if whole_second and request.last_tid == last_tid_of_second(request.time):
        return text
    return precise_iso(from_hex(request.last_tid))


def _normal(request: Request | None) -> Request | None:
    """Return the request with its TID in the normal spelling, which compares, or its time in UTC."""
    if isinstance(request, AtTimestamp):
        return AtTimestamp(request.time.astimezone(UTC), request.last_tid)
    if request is None:
        return None
    try:
        return type(request)(to_hex(from_hex(request.tid)))
    except ValueError as error:
        raise UsageError(str(error), "zodb-vault log lists the transactions of a backup") from error


def _backup(reaches: Sequence[SearchableBackup], backup_id: str | None) -> SearchableBackup:
    """Return the given backup, or the newest eligible one, whose timeline is searched."""
    if backup_id is None:
        eligible = [r for r in reaches if r.eligible]
        if eligible:
            return max(eligible, key=lambda r: r.id)
        if reaches:
            newest = max(reaches, key=lambda r: r.id)
            what = (
                f"there is no complete backup of the whole site among {len(reaches)} "
                "(safety backups do not count)"
            )
            raise BackupMissing(what, f"the newest of any kind is {newest.id}; give its id to search in it")
        raise BackupMissing("there are no backups yet", "make the first one with: zodb-vault create")
    for reach in reaches:
        if reach.id == backup_id:
            return reach
    raise BackupMissing(f"there is no backup {backup_id}", "zodb-vault list shows all backups")


def _require_database(reaches: Sequence[SearchableBackup], database: str) -> None:
    known = sorted({name for reach in reaches for name in reach.databases})
    if database not in known:
        raise UsageError(
            f"there is no database {database!r} in the backups", f"the databases are: {', '.join(known)}"
        )


def _missing(
    found: SearchResult, request: Request, gaps: Sequence[Gap], elsewhere: Sequence[Coverage]
) -> TargetMissing:
    """Return the error for a target that does not exist: the request, the reason, and the nearest targets."""
    if isinstance(request, ToTid):
        message, hint = _no_transaction(request, found, gaps)
    else:
        message, hint = _no_state(request, found)
    unordered = [cover.id for cover in found.covers if not cover.ordered]
    if unordered and not isinstance(request, ToTid):
        message += f"; the TIDs of backup {unordered[0]} do not ascend, so a time does not identify a state"
        hint = "choose a transaction with zodb-vault log and restore it with --tid"
    if elsewhere:
        named = ", ".join(f"{cover.id} ({cover.why_not})" for cover in elsewhere[:5])
        message += f"; it exists only in {named}"
        hint = f"to restore it from there nevertheless: {restore_command(elsewhere[0].id, request)}"
    return TargetMissing(message, hint)


def _no_transaction(request: ToTid, found: SearchResult, gaps: Sequence[Gap]) -> tuple[str, str]:
    below = [c.top for c in found.covers if c.top < request.tid] + [
        gap.previous for gap in gaps if gap.previous
    ]
    above = [c.start for c in found.covers if c.start > request.tid] + [gap.next for gap in gaps if gap.next]
    sides = [f"the one before is {_spoken(max(below))}"] if below else []
    sides += [f"the one after is {_spoken(min(above))}"] if above else []
    where = "in this backup" if found.explicit else "on the current timeline"
    nearest = ", ".join(sides) or "there is no valid target at all"
    return (
        f"transaction {_spoken(request.tid)} is not a valid target {where}: {nearest}",
        "give one of those with --tid",
    )


def _no_state(request: AtTimestamp | BeforeTid, found: SearchResult) -> tuple[str, str]:
    """Return message and hint for a time, or the state before a TID, that no backup covers."""
    bound = _known_from(request)
    wanted = (
        in_utc(request.time)
        if isinstance(request, AtTimestamp)
        else f"the state before {_spoken(request.tid)}"
    )
    covers = [cover for cover in found.covers if cover.ordered]
    if not covers:
        return (
            f"{wanted} cannot be restored: no backup has TIDs that ascend, so times do not identify states",
            "zodb-vault list shows the backups",
        )
    below = max((c for c in covers if c.end_tid < bound), key=lambda c: c.end_tid, default=None)
    above = min((c for c in covers if c.start > highest_tid(request)), key=lambda c: c.start, default=None)
    if above is None:
        return _too_late(wanted, max(covers, key=lambda c: c.end_tid), found.explicit)
    earliest = f"{in_utc(_time(above.start))} ({above.start}, backup {above.id})"
    if below is None:
        return (
            f"{wanted} cannot be restored: the earliest state that can is that of {earliest}",
            "choose a later time",
        )
    latest = f"{in_utc(below.end)} (up to {below.top}, backup {below.id})"
    return (
        f"{wanted} cannot be restored: "
        f"the nearest times that can are {latest} before and {earliest} after it",
        "choose one of these",
    )


def _too_late(wanted: str, last: Coverage, explicit: bool) -> tuple[str, str]:
    kind = "backup" if explicit else "the newest backup"
    message = (
        f"{wanted} cannot be restored: {kind} {last.id} reaches to {in_utc(last.end)}, its last "
        f"transaction is {_spoken(last.top)}"
    )
    return message, f"to restore that state: restore {last.id if explicit else 'latest'}"
