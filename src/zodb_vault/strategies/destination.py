"""The interface of the place that a database is restored to.

A destination is inspected, locked and replaced in one step. An undo puts the old state back. A backend that
can be restored into provides a ``Destination``. Most methods have a default, which is right for a database
that becomes the new one in a single step, without notes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple, Protocol

from ..errors import VaultError
from ..model.manifest import DatabaseEntry
from ..model.restore import DatabaseCut, RemovedCache, SpaceNeed, TargetState, UnfinishedRestore
from ..runtime.progress import Progress
from .base import Sink


class RestoreSource(NamedTuple):
    """The restored state of one database, and the objects of the backup.

    ``alone`` tells that no other database is restored together with it.
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
    """A running restore: its id, the name of the site, its progress and its heartbeat.

    Call ``heartbeat`` every few seconds: it prevents that the backup is deleted.
    """

    restore: str
    site: str
    progress: Progress
    heartbeat: Callable[[], None]


class PreflightFinding(NamedTuple):
    """One condition of a restore: what it is, in words, and the ``refusal`` when it is not met."""

    message: str
    refusal: VaultError | None = None


def finding_of(message: str, check: Callable[[], object]) -> PreflightFinding:
    """Return the finding of a check that raises what speaks against a restore."""
    try:
        check()
    except VaultError as error:
        return PreflightFinding(message, error)
    return PreflightFinding(message)


def require_met(findings: Iterable[PreflightFinding]) -> None:
    """Raise the first refusal."""
    for finding in findings:
        if finding.refusal is not None:
            raise finding.refusal


class DatabaseRestore:
    """The restore of one database, from its first change on.

    All databases of a restore take each step together, in the order of these methods. Before ``make_valid``
    the old state is complete and in use, after it the new state. A restore that continues after an
    interruption takes all steps again. Each step does only what is left to do, as the journal or the files
    show.

    ``notes`` are for the user; ``kept`` are the paths or names under which the old state is kept.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.kept: list[str] = []

    def build(self) -> None:
        """Write the new state beside the old one, checked and durable.

        Raise Damage, TargetRefused.
        """
        raise NotImplementedError

    def remove_caches(self) -> list[RemovedCache]:
        """Remove the caches of the old state, which it does not need, and return their files."""
        return []

    def bar(self) -> None:
        """Prevent every other process from opening the database until ``unbar``, even if this process dies.

        Called when several databases are restored.
        """

    def make_valid(self) -> None:
        """Put the new state in place of the old one, in one step.

        Raise InUse, Damage, TargetRefused; after an error the old state is complete.
        """
        raise NotImplementedError

    def unbar(self) -> None:
        """Let other processes open the database again: all databases are valid."""

    def put_aside(self) -> None:
        """Move away files that only the old state needs."""

    def finish(self) -> None:
        """Note durably that this database is done.

        Its restore can still be undone, together with those of the other databases.
        """

    def tidy(self) -> None:
        """Remove files that only an undo needs: all databases are done."""

    def unmark(self) -> None:
        """Remove the last note of the restore: nothing is left to do for any database."""

    def close(self) -> None:
        """Free all resources; called once, also after an error.

        A new state that is not valid is removed, or used when the restore is resumed.
        """


class PlannedRestore:
    """One database of a plan.

    ``state`` is what was found at the destination, and ``begin`` makes the first change there.
    """

    def __init__(self, state: TargetState, begin: Callable[[RestoreContext], DatabaseRestore]) -> None:
        self.state, self.begin = state, begin

    def require_unused(self) -> None:
        """Raise InUse while a client uses a cache that is going to be removed."""

    def require_unchanged(self) -> None:
        """Inspect the destination again, after it was locked.

        Raise InUse or TargetRefused when it has changed since the plan was made.
        """

    def exists(self) -> bool:
        """Tell whether there is an old state to replace, after the destination was locked."""
        return self.state.exists

    def unsaved(self) -> bool:
        """Tell whether the old state is not yet in a safety backup, after the destination was locked."""
        return self.state.unsaved


class UndoneRestore(Protocol):
    """The undo of an interrupted restore of one database.

    All databases take each step together, in the order of these methods. After an interruption, all steps are
    taken again.
    """

    @property
    def unfinished(self) -> UnfinishedRestore:
        """Return the restore that is undone."""
        ...

    def free_space(self) -> None:
        """Remove a new state that was never valid: a full disk may be the reason for the undo."""
        ...

    def begin(self) -> None:
        """Note durably that the old state is being put back."""
        ...

    def prepare(self) -> None:
        """Put back the files that the old state needs before it becomes valid."""
        ...

    def bar(self) -> None:
        """Prevent every other process from opening the database until ``unbar``."""
        ...

    def put_back(self) -> None:
        """Make the old state valid."""
        ...

    def unbar(self) -> None:
        """Let other processes open the database again."""
        ...

    def tidy(self) -> None:
        """Remove files that only the new state needs."""
        ...

    def unmark(self) -> None:
        """Remove the note of the restore."""
        ...


class Destination:
    """The place that one database is restored to: a database of the site, or a directory.

    The constructor opens and changes nothing. ``resumes`` tells that an interrupted restore continues when it
    is run again, because it has left a note beside the database. Otherwise the database is either the old or
    the new one, and the restore is simply repeated.
    """

    resumes = False

    @property
    def where(self) -> str:
        """Return its name in messages, without secrets."""
        raise NotImplementedError

    @property
    def writes(self) -> list[Path]:
        """Return the files and directories that a restore makes.

        None of them may be in a repository or in the blob directory of another database.
        """
        return []

    def unfinished(self) -> UnfinishedRestore | None:
        """Return the restore that was interrupted here, if any; raise Damage."""
        return None

    def finished(self, restore: str) -> UnfinishedRestore | None:
        """Return the restore with this id if it is finished here and has left a record; raise Damage."""
        return None

    def preflight(self, source: RestoreSource | None) -> Iterable[PreflightFinding]:
        """Yield what a restore needs here, whether or not the site runs now; change nothing.

        ``inspect`` raises the refusals of the same findings. ``doctor`` shows all of them beside the running
        site, so it cannot call a destination good that a restore refuses. ``source`` is the newest backup,
        None when there is none yet.
        """
        return ()

    def present_size(self) -> int:
        """Return the bytes of the storage in place on this machine, 0 when there is none."""
        return 0

    def space(self, storage: int, blobs: int) -> list[SpaceNeed]:
        """Return the space that a restore of a storage and blobs of these sizes needs on this machine.

        Empty when it is not known: a database server has its files elsewhere.
        """
        return []

    def inspect(
        self, source: RestoreSource, unfinished: Collection[UnfinishedRestore]
    ) -> PlannedRestore | None:
        """Inspect the destination, and plan the restore; change nothing.

        Return None when an interrupted restore of several databases has finished this one. ``unfinished`` are
        the interrupted restores of all databases that are restored together. Raise InUse, TargetRefused,
        UsageError.
        """
        raise NotImplementedError

    def require_stopped(self) -> None:
        """Raise InUse while a server of this database runs, on any host."""

    def hold(self) -> AbstractContextManager[object]:
        """Return a context manager that locks the database against other processes; it raises InUse."""
        return nullcontext()

    def undo(self, restores: Collection[str]) -> UndoneRestore | None:
        """Return the undo of the restore that was interrupted here, or of one of these finished restores.

        Called while the destination is locked. Raise TargetRefused when the site has written to the restored
        state.
        """
        return None

    def kept(self) -> list[str]:
        """Return the ids of the restores whose old state is kept here."""
        return []

    def kept_paths(self, restore: str) -> list[str]:
        """Return the paths of what a finished restore kept here; none if it kept nothing."""
        return []

    def discard_kept(self, restore: str) -> list[str]:
        """Remove the old state that a finished restore kept, and return the paths."""
        return []
