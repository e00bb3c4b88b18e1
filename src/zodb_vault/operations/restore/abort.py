"""After a restore: put the old state back, or free what was kept of it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from ...errors import TargetMissing
from ...model.restore import UnfinishedRestore
from ...strategies.destination import Destination, UndoneRestore


def abort(destinations: Sequence[Destination]) -> list[UnfinishedRestore]:
    """Put back the state that an interrupted restore was replacing, and return what was undone.

    Can itself be run again. Raise TargetMissing when no restore was interrupted, InUse, TargetRefused when
    the site has written to the restored state since.
    """
    with contextlib.ExitStack() as stack:
        for one in _taking_part(destinations, _interrupted(destinations)):
            stack.enter_context(one.hold())
        # another process may have finished it before the lock was taken
        restores = _interrupted(destinations)
        found = [one.undo(restores) for one in _taking_part(destinations, restores)]
        undone = [one for one in found if one is not None]
        _carry_out(undone)
        return [one.unfinished for one in undone]


def _interrupted(destinations: Sequence[Destination]) -> list[str]:
    """Return the ids of the restores that were interrupted; raise TargetMissing when there are none."""
    restores = {found.restore for one in destinations if (found := one.unfinished())}
    if not restores:
        raise TargetMissing(
            f"no restore into {', '.join(one.where for one in destinations)} was interrupted",
            "nothing has to be put back",
        )
    return sorted(restores)


def _taking_part(destinations: Sequence[Destination], restores: Sequence[str]) -> list[Destination]:
    """Return the destinations of interrupted restores, also those that are done already."""
    return [
        one for one in destinations if one.unfinished() or any(one.finished(restore) for restore in restores)
    ]


def _carry_out(undone: Sequence[UndoneRestore]) -> None:
    """Bring all databases from each step to the next one together: the mirror of a restore.

    Nothing is written before space was freed everywhere, because a full disk may be the reason for the undo.
    """
    for one in undone:
        one.free_space()
    for one in undone:
        one.begin()
    for one in undone:
        one.prepare()
    for one in undone if len(undone) > 1 else ():
        one.bar()
    for one in undone:
        one.put_back()
    for one in undone:
        one.unbar()
    for one in undone:
        one.tidy()
    for one in undone:
        one.unmark()


def discard_kept(destinations: Sequence[Destination], restore: str) -> list[str]:
    """Free what a finished restore kept of the state it replaced, and return the paths.

    ``restore`` is its id, or the beginning of it. Raise TargetMissing when not exactly one restore is meant.
    """
    known = [(one, record) for one in destinations for record in one.kept()]
    meant = [(one, record) for one, record in known if record.startswith(restore)]
    if len({record for _one, record in meant}) != 1:
        shown = ", ".join(dict.fromkeys(record for _one, record in known)) or "none"
        raise TargetMissing(
            f"there is no restore {restore} whose old state is kept",
            f"restores with a kept state beside {', '.join(one.where for one in destinations)}: {shown}",
        )
    return [path for one, record in meant for path in one.discard_kept(record)]
