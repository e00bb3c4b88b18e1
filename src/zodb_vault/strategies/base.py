"""The interfaces between a backend and the rest: what it gets to make a backup, and what it returns."""

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
from ..policy.full_or_incremental import Decision
from ..runtime.progress import Progress


class ContentSink(Protocol):
    """A stream of content that becomes objects."""

    def write(self, data: bytes | memoryview) -> None:
        """Append data."""
        ...

    def close(self) -> list[Part]:
        """Make everything durable, and return the parts in order."""
        ...


class Sink(Protocol):
    """The repository as a capture uses it; several threads may use it at the same time."""

    def content(self, to: str, *, long_distance: bool = False) -> ContentSink:
        """Return a writer for content in the folder ``to``.

        ``long_distance`` tells the codec that the content repeats itself at a long distance.
        """
        ...

    def put_document(self, data: bytes) -> DocumentRef:
        """Store a document, and return the reference to it."""
        ...

    def document(self, name: str) -> bytes:
        """Return a document of an earlier backup; raise Damage."""
        ...

    def read(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Yield the content of objects; raise Damage."""
        ...


class Checkpointer(Protocol):
    """Records durably what a run has stored so far: after an interruption, the next run continues there."""

    def is_due(self, size: int) -> bool:
        """Tell whether it is time for a checkpoint; ``size`` bytes have been stored since the last call."""
        ...

    def checkpoint(self, stored: StoredProgress) -> None:
        """Record what is stored of one database."""
        ...

    def heartbeat(self) -> None:
        """Show that the run is alive; call it at least every few seconds."""
        ...


class SurveyContext(NamedTuple):
    """What a database is compared with: earlier backups, newest first, and an interrupted run.

    ``now`` is the time of the run.
    """

    documents: Documents
    options: CaptureOptions
    now: datetime
    previous: Iterable[PreviousBackup] = ()
    interrupted: InterruptedRun | None = None


class Survey(Protocol):
    """One database compared with its earlier backups; it writes nothing.

    It holds connections or open files. The capture that ``begin`` returns uses them too, so close the survey
    after the capture.
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
        """Return whether a backup up to the cut point is full or incremental, and why."""
        ...

    def begin(
        self, decision: Decision, sink: Sink, checkpointer: Checkpointer, progress: Progress
    ) -> Capture:
        """Return the capture that copies the database as it was decided.

        Raise ConfigurationError when blobs would be lost.
        """
        ...

    def close(self) -> None:
        """Free all resources; called once, also after an error."""
        ...


class Capture(Protocol):
    """Copies one database: first ``copy_storage``, then ``copy_blobs`` of what that returns."""

    @property
    def expected(self) -> int | None:
        """Return how many bytes of the storage have to be read, None when it is not known."""
        ...

    def copy_storage(self) -> BlobCapture:
        """Copy the storage, and find the blobs that it references."""
        ...

    def stored(self) -> StoredProgress:
        """Return what has been stored so far, for the next run; call it at any time, also after an error."""
        ...

    def close(self) -> None:
        """Free all resources; called once, also after an error."""
        ...


class BlobCapture(Protocol):
    """A database whose storage is copied and whose blobs are not yet copied."""

    def copy_blobs(self) -> Captured:
        """Copy the blobs that no earlier backup has.

        Raise SourceChanged when a pack removed some of them, BlobsMissing when too many are missing.
        """
        ...


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """One database after it was copied, with its entry in the manifest.

    ``continues`` tells that an earlier backup has this database. ``findings`` are parts of the source that
    changed although an earlier backup has stored them. ``software`` are versions of servers, tools and
    packages.
    """

    entry: DatabaseEntry
    decision: Decision
    continues: bool
    findings: list[str] = []
    software: dict[str, str] = {}


class CheckReport(Protocol):
    """The report of a check of one database; ``where`` names the object, OID or TID."""

    def count(self, what: str, number: int = 1) -> None:
        """Add to the number of things of one kind that were checked."""
        ...

    def damage(self, what: str, why: str, **where: str) -> None:
        """Report something that differs from what was stored."""
        ...

    def source(self, what: str, why: str, **where: str) -> None:
        """Report a defect that the source already had when it was backed up; an equal one counts once."""
        ...


def folder_of(name: str) -> str:
    """Return the name of a database as it is used in paths."""
    return quote(name, safe="") or "%00"
