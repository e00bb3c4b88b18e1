"""What a restore needs of the destination of a database.

It is inspected, held, replaced in one step, and put back if that is wanted. A backend that can be restored
into provides a ``Destination``; most methods have a default that fits a database which is either old or new.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple, Protocol

from ..model.manifest import DatabaseEntry
from ..model.restore import DatabaseCut, TargetState, UnfinishedRestore
from ..runtime.progress import Progress
from .base import Sink


class RestoreSource(NamedTuple):
    """What is restored of one database, and the objects of the backup.

    ``alone``: no other database is restored together with it.
    """

    backup: str
    cut: DatabaseCut
    objects: Sink
    alone: bool = True

    @property
    def entry(self) -> DatabaseEntry:
        """Return what the manifest says of the database."""
        return self.cut.entry


class RestoreContext(NamedTuple):
    """One restore while it runs: its id, the name of the site, and what is called while it works.

    ``heartbeat`` is called every few seconds; it keeps the backup from being deleted.
    """

    restore: str
    site: str
    progress: Progress
    heartbeat: Callable[[], None]


class DatabaseRestore:
    """The restore of one database, from its first change on.

    All databases of a restore take each step together, in the order of these methods. Until ``make_valid``
    the old state is whole and in use; after it the new one is. A restore that is interrupted and goes on
    takes all steps again: each does only what its journal, or what is there, says is left to do.

    ``notes`` are for the user; ``kept`` is what was kept of the old state, as the user finds it.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.kept: list[str] = []

    def build(self) -> None:
        """Write the new state beside the old one, checked and durable: blobs first.

        Raise Damage, TargetRefused.
        """
        raise NotImplementedError

    def remove_caches(self) -> list[str]:
        """Remove the caches of the old state, and return their paths; the old state works without them."""
        return []

    def bar(self) -> None:
        """Keep every other process out until ``unbar``, even if this one dies.

        Called when there are several databases.
        """

    def make_valid(self) -> None:
        """Put the new state in place of the old one, in one step.

        Raise InUse, Damage, TargetRefused: the old one is whole then.
        """
        raise NotImplementedError

    def unbar(self) -> None:
        """Let other processes in again: all databases are valid."""

    def put_aside(self) -> None:
        """Move away what only the old state needs."""

    def finish(self) -> None:
        """Note durably that this database is done.

        The restore can still be undone together with the others.
        """

    def tidy(self) -> None:
        """Remove what only an undo needs: all databases are done."""

    def unmark(self) -> None:
        """Remove the last note that a restore is under way here: nothing is left to do for any database."""

    def close(self) -> None:
        """Free everything; called once, whatever happened.

        What was built and is not valid is removed, or resumed later.
        """


class PlannedRestore:
    """One database of a plan.

    ``state`` is what was found at its destination, and ``begin`` makes the first change there.
    """

    def __init__(self, state: TargetState, begin: Callable[[RestoreContext], DatabaseRestore]) -> None:
        self.state, self.begin = state, begin

    def require_unused(self) -> None:
        """Raise InUse while a client uses a cache that is going to be removed."""

    def require_unchanged(self) -> None:
        """Look again, now that the destination is held.

        Raise InUse, or TargetRefused when it is not as it was planned.
        """

    def exists(self) -> bool:
        """Tell whether something is replaced, now that the destination is held."""
        return self.state.exists

    def unsaved(self) -> bool:
        """Tell whether what is replaced is in no safety backup yet, now that the destination is held."""
        return self.state.unsaved


class UndoneRestore(Protocol):
    """The undo of an interrupted restore of one database.

    All databases take each step together, in the order of these methods.

    An undo that is interrupted takes all steps again.
    """

    @property
    def unfinished(self) -> UnfinishedRestore:
        """Return what is undone."""
        ...

    def free_space(self) -> None:
        """Remove what was never valid: a full disk may be the reason for the undo."""
        ...

    def begin(self) -> None:
        """Note durably that the old state is being put back."""
        ...

    def prepare(self) -> None:
        """Put back what the old state needs before it is valid."""
        ...

    def bar(self) -> None:
        """Keep every other process out until ``unbar``."""
        ...

    def put_back(self) -> None:
        """Make the old state valid."""
        ...

    def unbar(self) -> None:
        """Let other processes in again."""
        ...

    def tidy(self) -> None:
        """Remove what only the new state needed."""
        ...

    def unmark(self) -> None:
        """Remove the note of the restore."""
        ...


class Destination:
    """Where one database is restored to: a database of the site, or a directory.

    To make one opens and changes nothing.

    ``resumes``: a restore that was interrupted here goes on when it is run again, because it left a note
    beside the database. What does not resume is either old or new, and a restore is simply repeated.
    """

    resumes = False

    @property
    def where(self) -> str:
        """Return what messages call it, without secrets."""
        raise NotImplementedError

    @property
    def writes(self) -> list[Path]:
        """Return the files and directories that a restore makes.

        None may lie in a repository or in the blob directory of another database.
        """
        return []

    def unfinished(self) -> UnfinishedRestore | None:
        """Return the restore that was interrupted here, if any; raise Damage."""
        return None

    def finished(self, restore: str) -> UnfinishedRestore | None:
        """Return the restore of this id if it is done here and what it kept is noted; raise Damage."""
        return None

    def inspect(
        self, source: RestoreSource, unfinished: Collection[UnfinishedRestore]
    ) -> PlannedRestore | None:
        """Look at what is there, and decide how the database gets there; change nothing.

        Return None when an interrupted restore of several databases has finished with this one.

        ``unfinished`` are the interrupted restores of all databases that are restored together.
        Raise InUse, TargetRefused, UsageError.
        """
        raise NotImplementedError

    def require_stopped(self) -> None:
        """Raise InUse while a server of this database runs, wherever that is."""

    def hold(self) -> AbstractContextManager[object]:
        """Return what keeps every other process out until it is left; raise InUse."""
        return nullcontext()

    def undo(self, restores: Collection[str]) -> UndoneRestore | None:
        """Return how to undo what was interrupted here, or what one of these restores has done here.

        Called while the destination is held. Raise TargetRefused when the restored state was written to
        since.
        """
        return None

    def kept(self) -> list[str]:
        """Return the ids of the restores of which the old state is kept and noted here."""
        return []

    def discard_kept(self, restore: str) -> list[str]:
        """Remove what a finished restore kept, and return the paths."""
        return []
