"""Copies ranges of a Data.fs into segments; every byte is read once, and parsed and hashed while it passes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Final

import msgspec

from ..datafs.records import Defect, Scanner, Transaction
from ..datafs.tail import Hop, Hopper, tail_digest
from ..errors import SourceChanged
from ..model import canonical
from ..model.blob import BlobRef
from ..model.manifest import Part, Segment
from .base import Progress, Sink
from .datafile import DataFile
from .standing import later_than

SEGMENT_LIMIT: Final = 64 << 20
# The lists of a segment's transactions are made in memory.
TRANSACTIONS_LIMIT: Final = 1 << 16
CHUNK: Final = 1 << 20


class Range(msgspec.Struct, frozen=True):
    """Bytes of a Data.fs that become one segment; the last transaction begins at ``tail_start``."""

    start: int
    end: int
    tail_start: int


class Cut:
    """Walks from ``start`` to the last finished transaction and remembers what a backup needs to know of the way.

    ``end`` is where the backup reaches to, ``state`` what stands behind it; ``ascending`` is False when a TID does not
    follow the one before it (``previous_tid`` stands before ``start``). ``until`` is the end of a cut that was taken before.
    """

    def __init__(self, file: DataFile, start: int, previous_tid: bytes | None = None, until: int | None = None) -> None:
        self._file, self._until = file, until
        self._closed: list[Range] = []
        self.transactions = 0
        self.first_tid: bytes | None = None
        self.last_tid: bytes | None = None
        self.pack_tid: bytes | None = None
        self.strange: Hop | None = None
        self.ascending = True
        self._begin, self._tail_start, self._held = start, start or 4, 0
        self._previous = previous_tid
        self.end, self.state = start, "clean"
        self.extend()

    def extend(self) -> bool:
        """Walk on to where the file ends now; tell whether there was more."""
        before = self.end
        hopper = Hopper(self._file.fd, self.end, str(self._file.path))
        with self._file.readable():
            for hop in hopper:
                if self._until is not None and hop.end > self._until:
                    break
                self._pass(hop)
            else:
                self.end, self.state = hopper.tail
        return self.end != before

    @property
    def ranges(self) -> list[Range]:
        """Return the segments to come."""
        return [*self._closed, Range(self._begin, self.end, self._tail_start)] if self.end > self._begin else self._closed

    def _pass(self, hop: Hop) -> None:
        if (hop.end - self._begin > SEGMENT_LIMIT or self._held == TRANSACTIONS_LIMIT) and hop.pos > max(self._begin, 4):
            self._closed.append(Range(self._begin, hop.pos, self._tail_start))
            self._begin, self._held = hop.pos, 0
        self._held += 1
        self._tail_start, self.end = hop.pos, hop.end
        self.ascending = self.ascending and (self._previous is None or hop.tid > self._previous)
        self._previous = self.last_tid = hop.tid
        self.first_tid = self.first_tid or hop.tid
        self.transactions += 1
        if hop.status == b"p":
            self.pack_tid = hop.tid
        elif hop.status not in b" u":
            self.strange = hop


Found = Callable[[list[BlobRef]], None]
"""Is told the blobs of a range while it is read, in any thread: where every record may be one they are too many to keep."""


class Scanned(msgspec.Struct):
    """What was found in a range; ``segment`` is None when it was only read."""

    segment: Segment | None
    sha256: str
    defects: list[Defect]
    size: int


class _Rows:
    """The two lists of transactions that go with a segment: the clear one and the one that is content."""

    def __init__(self) -> None:
        self.tids: list[bytes] = []
        self.log: list[bytes] = []
        self.first: bytes | None = None
        self.last: bytes | None = None
        self.greatest = b""

    def add(self, t: Transaction) -> None:
        status = msgspec.json.encode(t.status.decode("latin-1"))
        self.tids.append(b'["0x%s",%d,%d,%s,%d,%d]' % (t.tid.hex().encode(), t.pos, t.size, status, t.records, t.blobs))
        texts = [text.decode("utf-8", "backslashreplace") for text in (t.user, t.description)]
        digest = hashlib.sha256(t.extension).hexdigest() if t.extension else ""
        self.log.append(msgspec.json.encode(["0x" + t.tid.hex(), *texts, digest]))
        self.first, self.last = self.first or t.tid, t.tid
        self.greatest = max(self.greatest, t.tid)


class Copier:
    """Copies or only reads ranges of one file; its methods may run in several threads."""

    def __init__(self, file: DataFile, sink: Sink, folder: str, now: datetime, progress: Progress) -> None:
        self._file, self._sink, self._folder = file, sink, folder
        self._now, self._progress = now, progress

    def copy(self, found: Found, where: Range) -> Scanned:
        """Store a range as a segment with the lists of its transactions."""
        rows, defects = _Rows(), list[Defect]()
        content = self._sink.content(f"{self._folder}/Data.fs", far=True)
        scanner = Scanner(where.start, rows.add, self._file.read_at)
        digest = hashlib.sha256()
        for chunk in self._chunks(where.start, where.end):
            digest.update(chunk)
            content.write(chunk)
            scanner.feed(chunk)
            defects += _hand_over(scanner, found)
        scanner.finish()
        segment = self._segment(where, rows, digest.hexdigest(), content.close())
        return Scanned(segment, segment.sha256, defects, segment.stored)

    def read(self, found: Found, where: Range) -> Scanned:
        """Look for blobs in a range that is stored already, or that nobody wants stored."""
        scanner, digest, defects = Scanner(where.start, _ignore, self._file.read_at), hashlib.sha256(), list[Defect]()
        for chunk in self._chunks(where.start, where.end):
            digest.update(chunk)
            scanner.feed(chunk)
            defects += _hand_over(scanner, found)
        scanner.finish()
        return Scanned(None, digest.hexdigest(), defects, 0)

    def jobs(self, ranges: Iterable[Range], found: Found, *, store: bool) -> Iterator[partial[Scanned]]:
        """Yield a job for each range."""
        for where in ranges:
            yield partial(self.copy if store else self.read, found, where)

    def still_holds(self, segment: Segment) -> bool:
        """Tell whether the file gives exactly the bytes that a segment was made from."""
        digest = hashlib.sha256()
        for chunk in self._chunks(segment.start, segment.end):
            digest.update(chunk)
        return digest.hexdigest() == segment.sha256

    def _chunks(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            chunk = self._file.read_at(min(CHUNK, end - start), start)
            if not chunk:
                raise SourceChanged(f"{self._file.path} became shorter than {end} bytes while it was read")
            start += len(chunk)
            self._progress.advance(len(chunk))
            yield chunk

    def _segment(self, where: Range, rows: _Rows, digest: str, parts: list[Part]) -> Segment:
        meta, log = None, []
        if rows.tids:
            meta = self._sink.put_document(canonical.rows("tids", rows.tids))
            writer = self._sink.content(f"{self._folder}/log")
            writer.write(canonical.rows("log", rows.log))
            log = writer.close()
        return Segment(
            start=where.start, end=where.end, sha256=digest, transactions=len(rows.tids),
            first_tid="0x" + rows.first.hex() if rows.first else None, last_tid="0x" + rows.last.hex() if rows.last else None,
            tail_start=where.tail_start if rows.tids else where.end,
            tail_digest=tail_digest(self._file.fd, where.tail_start if rows.tids else where.end, where.end),
            parts=parts, tids=meta, log=log, future=later_than(rows.greatest, self._now),
        )  # fmt: skip


def _hand_over(scanner: Scanner, found: Found) -> list[Defect]:
    blobs, _pointers, defects = scanner.drain()
    if blobs:
        found(blobs)
    return defects


def _ignore(_transaction: Transaction) -> None:
    pass
