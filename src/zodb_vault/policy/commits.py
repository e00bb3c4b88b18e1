"""Decide which transactions of several databases belong to one commit, and never cut a commit in two.

A commit to several databases gives each part a TID of its own, and all parts the same user, description and
extension. It holds each database from the moment its part gets a TID until it is finished, so between the
first and the last of these TIDs no other transaction is in the database of an earlier one. Nothing else tells
parts that belong together from transactions that only look alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from ..model.tid import from_hex, to_datetime

# The TIDs of one commit are microseconds apart, unless a database is held by another commit for long.
SPAN: Final = timedelta(minutes=10)


class CommitPart(NamedTuple):
    """One transaction of one database; ``mark`` is its user, description and the digest of its extension."""

    tid: str
    mark: tuple[str, ...]


CommitParts = Mapping[str, Sequence[CommitPart]]
Commit = dict[str, int]


def commits(parts: CommitParts) -> list[Commit]:
    """Return the commits to more than one database, each as the index of its part in every database.

    TIDs have to ascend.
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
    """Tell whether a transaction can be one more part of a commit.

    It looks alike, and nothing came after any of the parts yet.
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
    """Return how many transactions each database keeps, so that no commit is cut in two.

    The result is as close to ``wanted`` as possible.

    The database that is ``named`` keeps exactly what is wanted of it, and what it keeps or drops of a commit
    the others do too. Other commits are dropped where they are halved: they were not finished then.
    """
    cuts = _Cuts(parts, wanted, named)
    found = commits(parts)
    # what has to stay first: what is dropped afterwards came later in every database
    for settle in (cuts.keep, cuts.drop):
        while any([settle(commit) for commit in found]):
            pass
    return cuts.count


class _Cuts:
    """The cuts as far as they are settled.

    Of each database ``count`` transactions are kept, and not fewer than have to stay.
    """

    def __init__(self, parts: CommitParts, wanted: Mapping[str, int], named: str | None) -> None:
        self.count = dict(wanted)
        self._stays = dict.fromkeys(parts, 0)
        self._goes = {name: len(some) for name, some in parts.items()}
        if named is not None:
            self._stays[named] = self._goes[named] = wanted[named]

    def keep(self, commit: Commit) -> bool:
        """Keep all of a commit of which one part has to stay; tell whether that changed anything."""
        if all(index >= self._stays[name] for name, index in commit.items()):
            return False
        before = dict(self._stays)
        for name, index in commit.items():
            self._stays[name] = max(self._stays[name], min(index + 1, self._goes[name]))
            self.count[name] = max(self.count[name], self._stays[name])
        return before != self._stays

    def drop(self, commit: Commit) -> bool:
        """Drop all of a commit that is halved, as far as it need not stay.

        Tell whether that changed anything.
        """
        if all(index < self.count[name] for name, index in commit.items()):
            return False
        before = dict(self.count)
        for name, index in commit.items():
            self.count[name] = max(min(self.count[name], index), self._stays[name])
        return before != self.count
