"""What a strategy needs from a repository and from its user, and what it knows of earlier backups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol
from urllib.parse import quote

import msgspec

from ..model.capture import InterruptedRun, PreviousBackup
from ..model.manifest import DatabaseEntry, DocumentRef, Part, StoredProgress
from ..model.source import Database
from ..policy.continuity import Decision
from ..runtime.progress import Progress


class ContentSink(Protocol):
    """A stream of content that becomes objects."""

    def write(self, data: bytes | memoryview) -> None:
        """Append."""
        ...

    def close(self) -> list[Part]:
        """Make everything durable and return the parts in order."""
        ...


class Sink(Protocol):
    """Where a capture puts what it copies; several threads may use it at once."""

    def content(self, to: str, *, far: bool = False) -> ContentSink:
        """Return a writer; ``far`` content repeats itself at a distance."""
        ...

    def put_document(self, data: bytes) -> DocumentRef:
        """Store a document."""
        ...

    def document(self, name: str) -> bytes:
        """Return a document of an earlier backup; raise Damage."""
        ...

    def read(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Yield content; raise Damage."""
        ...


class Checkpointer(Protocol):
    """Who remembers what an unfinished run has stored."""

    def due(self, size: int) -> bool:
        """Tell whether it is time to take note; ``size`` bytes have been stored since the last call."""
        ...

    def keep(self, stored: StoredProgress) -> None:
        """Take note durably."""
        ...

    def beat(self) -> None:
        """Tell that the run is alive; called at least every few seconds."""
        ...


class Survey(Protocol):
    """Looks at one database and at what earlier backups have of it, and decides; writes nothing."""

    def find_base(self, earlier: Iterable[PreviousBackup], resumed: InterruptedRun | None) -> None:
        """Choose what of earlier backups, newest first, can be used again, and take the cut."""
        ...

    @property
    def uses(self) -> list[PreviousBackup]:
        """Return the backups that the new one goes on from, or takes content from."""
        ...

    def decide(self) -> Decision:
        """Return how this backup is made, and why."""
        ...

    def close(self) -> None:
        """Free everything; called once, whatever happened."""
        ...


class Capture(Survey, Protocol):
    """Copies what the survey decided: ``begin``, ``copy_storage``, ``copy_blobs``, ``entry``, in this order."""

    @property
    def database(self) -> Database:
        """Return what is copied."""
        ...

    @property
    def decision(self) -> Decision:
        """Return what was decided."""
        ...

    def extend(self) -> bool:
        """Take the cut again where the storage ends now; tell whether there was more. Raise SourceChanged when another one is in its place."""
        ...

    @property
    def voted(self) -> bool:
        """Tell whether somebody stands between vote and finish behind the cut."""
        ...

    @property
    def warnings(self) -> list[str]:
        """Return what is unusual about the source, from ``begin`` on; others may add to it."""
        ...

    @property
    def findings(self) -> list[str]:
        """Return the changes of the source under what was stored before."""
        ...

    @property
    def expected(self) -> int | None:
        """Return how many bytes of the storage half are to be read; None when that is not known."""
        ...

    @property
    def software(self) -> dict[str, str]:
        """Return the versions of what it is captured with, and from."""
        ...

    def begin(self, sink: Sink, keeper: Checkpointer, progress: Progress) -> None:
        """Settle what is used again of earlier backups."""
        ...

    def copy_storage(self) -> None:
        """Copy the storage half, and learn which blobs it asks for."""
        ...

    def copy_blobs(self) -> None:
        """Copy the blobs that no earlier backup has; raise SourceChanged when a pack took some away, BlobsMissing when too many are gone."""
        ...

    def entry(self) -> DatabaseEntry:
        """Return what the manifest says of this database."""
        ...

    def last_notes(self) -> StoredProgress | None:
        """Return what has been stored so far for a run that continues this one; None when it had not begun."""
        ...


class CheckReport(Protocol):
    """Who is told what a check of one database finds; ``where`` names the object, OID or TID."""

    def count(self, what: str, number: int = 1) -> None:
        """Add to what was checked."""
        ...

    def damage(self, what: str, why: str, **where: str) -> None:
        """Tell what is not as it was stored."""
        ...

    def source(self, what: str, why: str, **where: str) -> None:
        """Tell what was like that when it was backed up; the same twice counts once."""
        ...


class TargetState(msgspec.Struct, frozen=True, kw_only=True):
    """A database that a dump is to be loaded into: ``way`` says how it gets there, ``last_tid`` is the last transaction of what is in it now."""

    where: str
    empty: bool
    way: str
    last_tid: str | None = None
    notes: list[str] = []


class RestorePoint(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction that is to be the last one of a restored database, and how many transactions and revisions there are up to it."""

    tid: str
    transactions: int
    states: int


class Destination(Protocol):
    """A database of a server that a dump can be loaded into."""

    def look(self, entry: DatabaseEntry, *, replace: bool, point: RestorePoint | None = None) -> TargetState:
        """Return what is there; raise InUse while somebody has it open, TargetRefused when it is not empty and not to be replaced.

        With a ``point`` the dump is cut there before it is valid; raise TargetRefused where that is impossible.
        """
        ...

    def load(
        self,
        entry: DatabaseEntry,
        sink: Sink,
        seen: TargetState,
        progress: Progress,
        beat: Callable[[], None],
        point: RestorePoint | None = None,
    ) -> list[str]:
        """Load the dump and make it valid in one step; return what was kept. Raise Damage, InUse, TargetRefused: the old state is whole then."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def folder_of(name: str) -> str:
    """Return a database's name as it is used in paths."""
    return quote(name, safe="") or "%00"
