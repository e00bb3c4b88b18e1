"""Decide which transactions of several databases belong to one commit, and never split a commit.

A commit to several databases writes one transaction (a part) to each of them. The parts have different TIDs,
and the same user, description and extension. The commit locks each database from the time its part gets a TID
until the commit is finished. So between the first and the last of these TIDs, no other transaction is in the
database of an earlier part. These are the only properties that distinguish the parts of one commit from
transactions that only look alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from ..model.tid import from_hex, to_datetime

# The TIDs of one commit are microseconds apart, unless another commit locks one of the databases for long.
SPAN: Final = timedelta(minutes=10)


class CommitPart(NamedTuple):
    """One transaction of one database; ``mark`` is its user, description and the digest of its extension."""

    tid: str
    mark: tuple[str, ...]


CommitParts = Mapping[str, Sequence[CommitPart]]
Commit = dict[str, int]


def commits(parts: CommitParts) -> list[Commit]:
    """Return the commits to more than one database, each with the index of its part by database.

    The TIDs of each database have to ascend.
    """
    merged = sorted(
        (part.tid, name, index) for name, some in parts.items() for index, part in enumerate(some)
    )
    last: dict[str, Commit] = {}
    found: list[Commit] = []
    for _tid, name, index in merged:
        fitting = [one for one in last.values() if _goes_on(one, last, parts, name, parts[name][index])]
        if fitting:
            commit = max(fitting, key=lambda one: _first(one, parts))
        else:
            commit = {}
            found.append(commit)
        commit[name] = index
        last[name] = commit
    return [commit for commit in found if len(commit) > 1]


def _goes_on(
    commit: Commit, last: Mapping[str, Commit], parts: CommitParts, name: str, part: CommitPart
) -> bool:
    """Return whether a transaction can be another part of a commit.

    It has the same mark, and no transaction followed any of the parts so far.
    """
    if name in commit or any(last[other] is not commit for other in commit):
        return False
    alike = all(parts[other][index].mark == part.mark for other, index in commit.items())
    return alike and _time_of(part.tid) - _time_of(_first(commit, parts)) <= SPAN


def _first(commit: Commit, parts: CommitParts) -> str:
    return min(parts[name][index].tid for name, index in commit.items())


def _time_of(tid: str) -> datetime:
    return to_datetime(from_hex(tid))


def consistent_cuts(parts: CommitParts, wanted: Mapping[str, int], named: str | None) -> dict[str, int]:
    """Return how many transactions each database keeps, so that no commit is split.

    The result is as close to ``wanted`` as possible. The database that is ``named`` keeps exactly the wanted
    number; if it keeps or drops its part of a commit, the others do the same. Every other commit that would
    be split is dropped, because it was not finished at that point.
    """
    cuts = _Cuts(parts, wanted, named)
    found = commits(parts)
    # first keep, then drop: the commits that are dropped are later in every database than those kept
    for settle in (cuts.keep, cuts.drop):
        while any([settle(commit) for commit in found]):
            pass
    return cuts.count


class _Cuts:
    """The cut points while they are computed: the ``count`` of kept transactions by database.

    The count of a database never falls below the transactions that have to stay.
    """

    def __init__(self, parts: CommitParts, wanted: Mapping[str, int], named: str | None) -> None:
        self.count = dict(wanted)
        self._stays = dict.fromkeys(parts, 0)
        self._goes = {name: len(some) for name, some in parts.items()}
        if named is not None:
            self._stays[named] = self._goes[named] = wanted[named]

    def keep(self, commit: Commit) -> bool:
        """Keep all parts of a commit if one part has to stay; return whether that changed anything."""
        if all(index >= self._stays[name] for name, index in commit.items()):
            return False
        before = dict(self._stays)
        for name, index in commit.items():
            self._stays[name] = max(self._stays[name], min(index + 1, self._goes[name]))
            self.count[name] = max(self.count[name], self._stays[name])
        return before != self._stays

    def drop(self, commit: Commit) -> bool:
        """Drop all parts of a commit that would be split, except those that have to stay.

        Return whether that changed anything.
        """
        if all(index < self.count[name] for name, index in commit.items()):
            return False
        before = dict(self.count)
        for name, index in commit.items():
            self.count[name] = max(min(self.count[name], index), self._stays[name])
        return before != self.count
