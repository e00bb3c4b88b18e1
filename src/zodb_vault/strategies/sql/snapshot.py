"""What a capture reads from one snapshot of a SQL database, and how a dump of it is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

import msgspec

from ...model import tid as tids
from ...model.blob import BlobRef, MissingBlob
from ...model.manifest import Dump, Part
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Checkpointer, Sink
from .history import Revisions

# Several parts are in memory at the same time; larger ones would need more than the 200 MB that we allow.
PART_RAW: Final = 16 << 20


PIECE: Final = 1 << 20


def store_part(sink: Sink, to: str, block: memoryview) -> list[Part]:
    """Store a block, as one object unless objects are shorter."""
    writer = sink.content(to)
    for start in range(0, len(block), PIECE):
        writer.write(block[start : start + PIECE])
    return writer.close()


def advancing(chunks: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    """Yield chunks, and report their bytes as progress."""
    for chunk in chunks:
        progress.advance(len(chunk))
        yield chunk


class StoredDump(msgspec.Struct, kw_only=True):
    """A dump that is stored; ``warnings`` and ``missing`` are what it lacks at the source."""

    storage: Callable[..., Dump]
    parts: list[Part]
    tables: dict[str, int]
    warnings: list[str] = []
    missing: list[MissingBlob] = []


class Rows(Protocol):
    """A database as one snapshot shows it; queries are written with ``%s``.

    ``transactions`` is the table of transactions as SQL. ``blob_records`` is the condition for a row that may
    be the record of a blob.
    """

    transactions: str
    blob_records: str

    @property
    def revisions(self) -> Revisions | None:
        """Return how it keeps revisions, None where only the last state can be restored."""
        ...

    @property
    def versions(self) -> dict[str, str]:
        """Return the versions of the server and of its tool."""
        ...

    def snapshot(self) -> None:
        """Take the snapshot again, as of now."""
        ...

    def has_table(self, name: str) -> bool:
        """Tell whether a table exists in the snapshot."""
        ...

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query in the snapshot."""
        ...

    def stream(self, statement: str, *parameters: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query in the snapshot."""
        ...

    def query_latest(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query as of now."""
        ...

    def release(self) -> None:
        """End the snapshot and its locks, so that a pack does not wait until all blobs are copied."""
        ...

    def align(self) -> bool:
        """Make sure that a dump will be of the same moment as the snapshot.

        Return True when the snapshot had to be taken again for that.
        """
        ...

    def dump(
        self, sink: Sink, folder: str, workers: Workers, checkpointer: Checkpointer, progress: Progress
    ) -> StoredDump:
        """Dump the snapshot into objects; raise SourceError."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def hex_or_none(number: int | None) -> str | None:
    """Return the number in a column as the text of a TID."""
    return None if number is None else hex_of(number)


def hex_of(number: int) -> str:
    """Return the number in a column as the text of a TID or OID."""
    return tids.to_hex(int(number).to_bytes(8))


def row_ref(zoid: Any, tid: Any) -> BlobRef:
    """Return the blob revision of a row, whose ids are numbers or their text."""
    return BlobRef(int(zoid).to_bytes(8), int(tid).to_bytes(8), True)
