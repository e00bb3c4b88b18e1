"""After a restore: put the old state back, or free what was kept of it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from ...errors import TargetMissing, TargetRefused
from ...model.restore import UnfinishedRestore
from ...repository.ids import id_time
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


def kept_restore(destinations: Sequence[Destination], restore: str) -> str:
    """Return the id of a finished restore that kept something: ``restore`` is the whole id, or ``latest``.

    A prefix is not enough: what is removed then cannot be brought back. Raise TargetMissing.
    """
    known = sorted({record for one in destinations for record in one.kept() if id_time(record)})
    found = known[-1] if restore == "latest" and known else restore
    if found not in known:
        where = ", ".join(one.where for one in destinations)
        raise TargetMissing(
            f"there is no restore {restore} whose old state is kept",
            f"give the whole id, or `latest`; restores with a kept state beside {where}: "
            f"{', '.join(known) or 'none'}",
        )
    return found


def require_finished(destinations: Sequence[Destination], restore: str) -> None:
    """Raise TargetRefused when a restore is not finished for one of the databases of a site."""
    unfinished = next((one for one in destinations if _is_unfinished(one, restore)), None)
    if unfinished is not None:
        raise TargetRefused(
            f"the restore {restore} is not finished at {unfinished.where}, and an undo needs what it kept",
            "run that restore again, or `restore --abort`",
        )


def _is_unfinished(destination: Destination, restore: str) -> bool:
    found = destination.unfinished()
    return found is not None and found.restore == restore


def discard_kept(destinations: Sequence[Destination], restore: str) -> list[str]:
    """Remove what a finished restore kept of the state that it replaced, and return the paths."""
    having = [one for one in destinations if restore in one.kept()]
    return [path for one in having for path in one.discard_kept(restore)]


def interrupted(destinations: Sequence[Destination]) -> list[UnfinishedRestore]:
    """Return the restores that were interrupted; raise TargetMissing when there are none."""
    _interrupted(destinations)
    return [found for one in destinations if (found := one.unfinished())]
