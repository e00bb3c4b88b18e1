"""What a strategy needs from a repository and from its user, and what it knows of earlier backups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple, Protocol
from urllib.parse import quote

import msgspec

from ..model.capture import CaptureOptions, InterruptedRun, PreviousBackup
from ..model.chain import Documents
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

    def content(self, to: str, *, long_distance: bool = False) -> ContentSink:
        """Return a writer; ``long_distance`` content repeats itself at a distance."""
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
    """Records durably, while a run goes on, what it has stored: the next run goes on from there."""

    def is_due(self, size: int) -> bool:
        """Tell whether it is time for a checkpoint; ``size`` bytes have been stored since the last call."""
        ...

    def checkpoint(self, stored: StoredProgress) -> None:
        """Record what is stored of one database."""
        ...

    def heartbeat(self) -> None:
        """Show that the run is alive; called at least every few seconds."""
        ...


class SurveyContext(NamedTuple):
    """What a database is compared with.

    Its earlier backups, newest first, and what an interrupted run has stored.

    ``now`` is the clock of the run.
    """

    documents: Documents
    options: CaptureOptions
    now: datetime
    previous: Iterable[PreviousBackup] = ()
    interrupted: InterruptedRun | None = None


class Survey(Protocol):
    """One database compared with what earlier backups hold of it; writes nothing.

    It holds connections or open files, which ``begin`` hands on to the capture: close it after the capture.
    """

    @property
    def database(self) -> Database:
        """Return the database."""
        ...

    @property
    def uses(self) -> list[PreviousBackup]:
        """Return the backups that the new one continues, or takes content from."""
        ...

    @property
    def commit_pending(self) -> bool:
        """Tell whether a transaction after the cut point is written and may still be committed."""
        ...

    def extend(self) -> bool:
        """Move the cut point to where the storage ends now; tell whether it moved.

        Raise SourceChanged when another storage is in its place.
        """
        ...

    def decide(self) -> Decision:
        """Return how a backup up to the cut point is made, and why."""
        ...

    def begin(
        self, decision: Decision, sink: Sink, checkpointer: Checkpointer, progress: Progress
    ) -> Capture:
        """Return what copies the database as it was decided.

        Raise ConfigurationError where blobs would be lost.
        """
        ...

    def close(self) -> None:
        """Free everything; called once, whatever happened."""
        ...


class Capture(Protocol):
    """Copies one database: first ``copy_storage``, then ``copy_blobs`` of what that returns."""

    @property
    def expected(self) -> int | None:
        """Return how many bytes of the storage are to be read; None when that is not known."""
        ...

    def copy_storage(self) -> BlobCapture:
        """Copy the storage, and find the blobs that it references."""
        ...

    def stored(self) -> StoredProgress:
        """Return what has been stored so far, for the next run; valid at any time, also after a failure."""
        ...

    def close(self) -> None:
        """Free everything; called once, whatever happened."""
        ...


class BlobCapture(Protocol):
    """A database of which the storage is copied, and the blobs are not."""

    def copy_blobs(self) -> Captured:
        """Copy the blobs that no earlier backup has.

        Raise SourceChanged when a pack removed some of them, BlobsMissing when too many are missing.
        """
        ...


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """One database that is copied: what the manifest says of it, and what it was copied with.

    ``continues``: an earlier backup has this database. ``findings`` are changes of the source below what was
    stored before. ``software`` are versions of servers, tools and packages.
    """

    entry: DatabaseEntry
    decision: Decision
    continues: bool
    findings: list[str] = []
    software: dict[str, str] = {}


class CheckReport(Protocol):
    """Receives what a check of one database finds; ``where`` names the object, OID or TID."""

    def count(self, what: str, number: int = 1) -> None:
        """Add to what was checked."""
        ...

    def damage(self, what: str, why: str, **where: str) -> None:
        """Tell what is not as it was stored."""
        ...

    def source(self, what: str, why: str, **where: str) -> None:
        """Tell what was like that when it was backed up; the same twice counts once."""
        ...


def folder_of(name: str) -> str:
    """Return a database's name as it is used in paths."""
    return quote(name, safe="") or "%00"
