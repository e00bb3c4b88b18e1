"""Decide whether two timelines answer a request differently, so that the user has to choose.

After a restore in place, a site has two timelines: the abandoned one and the current one. They share all
transactions up to the restored one. A request that reaches further can be answered by both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from ..errors import TargetAmbiguous
from ..model.manifest import Timeline
from ..model.tid import from_datetime, from_hex, iso, to_hex
from .recovery import (
    LAST_TID,
    Coverage,
    Request,
    SearchableBackup,
    ToTid,
    highest_tid,
    may_hold,
    option_of,
    own_cover,
    restore_command,
)

MOST_NAMED: Final = 5
# The creation of a backup is recorded without its fraction of a second.
UNRECORDED: Final = timedelta(seconds=1, microseconds=-1)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The state that one backup gives for a request: the last transaction by database, None without any.

    ``captured`` is the creation of the backup as a TID. ``where`` names the timeline for the user. ``whole``:
    the state is the end of the backup.
    """

    backup_id: str
    captured: str
    timeline: tuple[Timeline, ...]
    where: str
    tids: Mapping[str, str | None]
    whole: bool = False


def shared_until(one: Sequence[Timeline], other: Sequence[Timeline]) -> str:
    """Return the last TID that two timelines share: "" for none, ``LAST_TID`` if one continues the other."""
    shared = ""
    for ours, theirs in zip(one, other, strict=False):
        if ours.id != theirs.id:
            return shared
        if ours.until_tid is None and theirs.until_tid is None:
            return LAST_TID
        shared = min(ours.until_tid or LAST_TID, theirs.until_tid or LAST_TID)
        if ours.until_tid != theirs.until_tid:
            return shared
    return shared


def lineages(reaches: Sequence[SearchableBackup]) -> dict[str, tuple[Timeline, ...]]:
    """Return the timelines of each backup, oldest first, by its id.

    No later backup continues a safety backup or a part of the site. Such a backup ends on a timeline of its
    own, which begins after the last transaction of the backup that it continues.
    """
    found: dict[str, tuple[Timeline, ...]] = {}
    newest: dict[str, SearchableBackup] = {}
    for reach in sorted(reaches, key=lambda one: one.id):
        own = reach.timeline[-1].id
        if reach.whole and reach.trigger != "safety":
            newest[own], found[reach.id] = reach, reach.timeline
            continue
        parent = newest.get(own)
        shared = (
            [parent.databases[name].last_tid or "" for name in reach.databases.keys() & parent.databases]
            if parent
            else []
        )
        until = min(shared, default="")
        found[reach.id] = (*reach.timeline[:-1], Timeline(own, until), Timeline(reach.id, None))
    return found


def current_timeline(reaches: Sequence[SearchableBackup]) -> tuple[Timeline, ...]:
    """Return the timeline of the newest eligible backup; empty without one."""
    newest = max((reach for reach in reaches if reach.eligible), key=lambda reach: reach.id, default=None)
    return newest.timeline if newest else ()


def rivals(
    reaches: Sequence[SearchableBackup], databases: Sequence[str], request: Request
) -> list[list[str]]:
    """Return the backups that may answer a request otherwise than the current timeline does.

    The result has one list of ids for each group of backups that agree, and the first id that has an answer
    speaks for its group. Eligible backups come first, then newer ones.
    """
    current, lines = current_timeline(reaches), lineages(reaches)
    groups: dict[tuple[str, bool, bool], list[SearchableBackup]] = {}
    for reach, seen in _newest_first(reaches):
        shared = shared_until(lines[reach.id], current)
        if shared == LAST_TID or (reach.ordered and highest_tid(request) <= shared):
            continue
        covers = [cover for name in databases if (cover := own_cover(reach, name, seen + UNRECORDED))]
        if any(_may_differ(cover, request, reach, alone=len(databases) == 1) for cover in covers):
            groups.setdefault((lines[reach.id][-1].id, reach.whole, reach.ordered), []).append(reach)
    # of equal answers the first one is named: rather an eligible backup than a safety backup
    found = [sorted(group, key=lambda one: not one.eligible) for group in groups.values()]
    found.sort(key=lambda group: not group[0].eligible)
    return [[reach.id for reach in group] for group in found]


def _newest_first(reaches: Sequence[SearchableBackup]) -> Iterator[tuple[SearchableBackup, datetime]]:
    """Yield all backups with the time up to which each one counts.

    That is the earliest creation of itself and all newer backups: after a clock that was ahead, an old backup
    must not cover times that a newer one captured.
    """
    seen = max((reach.created_at for reach in reaches), default=None)
    for reach in sorted(reaches, key=lambda one: one.id, reverse=True):
        seen = min(seen or reach.created_at, reach.created_at)
        yield reach, seen


def _may_differ(cover: Coverage, request: Request, reach: SearchableBackup, *, alone: bool) -> bool:
    if not may_hold(cover, request):
        return False
    # one transaction of one database is the same on every timeline that has it, unless its TID was used twice
    return not (alone and isinstance(request, ToTid)) or request.tid > _as_tid(reach.created_at)


def answer_of(
    backup_id: str,
    reaches: Sequence[SearchableBackup],
    tids: Mapping[str, str | None],
    *,
    whole: bool = False,
) -> Answer:
    """Return what a backup answers, with the words that tell its timeline from the current one."""
    reach, line = next(one for one in reaches if one.id == backup_id), lineages(reaches)[backup_id]
    on_current = shared_until(line, current_timeline(reaches)) == LAST_TID
    where = "on the current timeline" if on_current else "on an abandoned timeline"
    if reach.trigger == "safety":
        where = "a safety backup"
    return Answer(
        backup_id=backup_id,
        captured=_as_tid(reach.created_at),
        timeline=line,
        where=where,
        tids=tids,
        whole=whole,
    )


def agree(one: Answer, other: Answer) -> bool:
    """Return whether two answers are the same state of the databases that both have.

    The TID identifies a transaction, and with it all earlier ones. Only a TID that was later than the clock
    can be used again after a restore: it identifies a transaction on the timeline that both share.
    """
    shared = shared_until(one.timeline, other.timeline)
    for name in one.tids.keys() & other.tids.keys():
        tid = one.tids[name]
        if tid != other.tids[name]:
            return False
        if tid is not None and tid > shared and tid > min(one.captured, other.captured):
            return False
    return True


def ambiguous(request: Request, answers: Sequence[Answer]) -> TargetAmbiguous:
    """Return the error that names each state and the command that restores it."""
    named = answers[:MOST_NAMED]
    states = "; ".join(f"{_state(one)} in backup {one.backup_id} ({one.where})" for one in named)
    more = f"; and {len(answers) - MOST_NAMED} more" if len(answers) > MOST_NAMED else ""
    commands = [_command(request, one, answers) for one in named]
    return TargetAmbiguous(
        f"{option_of(request)} means another state on each of {len(answers)} timelines, because an older "
        f"state was restored in between: {states}{more}",
        f"choose one: {' or '.join(f'`{one}`' for one in commands)}",
    )


def _command(request: Request, answer: Answer, answers: Sequence[Answer]) -> str:
    """Return the command for one answer; a backup that is named twice needs the transaction itself."""
    if answer.whole:
        return f"restore {answer.backup_id}"
    twice = sum(one.backup_id == answer.backup_id for one in answers) > 1
    tid = next(iter(answer.tids.values()), None)
    if twice and tid is not None and len(answer.tids) == 1:
        return restore_command(answer.backup_id, ToTid(tid))
    return restore_command(answer.backup_id, request)


def _state(answer: Answer) -> str:
    several = len(answer.tids) > 1
    return ", ".join(
        f"{name} {_spoken(tid)}" if several else _spoken(tid) for name, tid in answer.tids.items()
    )


def _spoken(tid: str | None) -> str:
    return f"up to transaction {tid} ({iso(from_hex(tid))})" if tid else "without any transaction"


def _as_tid(time: datetime) -> str:
    return to_hex(from_datetime(time))
