"""Copy ranges of a Data.fs into segments: each byte is read once, and parsed and hashed on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Final

import msgspec

from ...datafs.records import Defect, Scanner, Transaction
from ...datafs.tail import tail_digest
from ...errors import SourceChanged
from ...model import canonical
from ...model.blob import BlobRef
from ...model.chain import Chain
from ...model.manifest import Part, Segment
from ...model.tid import is_in_future
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Sink
from ..blobs.compaction import small_neighbours
from .cut import SEGMENT_LIMIT, TRANSACTIONS_LIMIT, Range
from .datafile import DataFile


def heal_segments(
    chain: Chain[Segment],
    damaged: frozenset[str],
    copier: Copier,
    workers: Workers,
    findings: list[str],
) -> Chain[Segment]:
    """Return the chain with the content of damaged objects stored again, if the file still has exactly it.

    The file is compared first: what it no longer gives, a copy of the repository may still bring back.
    """
    if not damaged:
        return chain
    again: dict[int, Segment] = {}
    for segment in chain:
        if not damaged.isdisjoint(_names_of(segment)):
            if copier.still_holds(segment):
                again[segment.start] = segment
            else:
                findings.append(_changed(segment))
    ranges = [Range(one.start, one.end, one.tail_start) for one in again.values()]
    jobs = copier.jobs(ranges, _ignore_blobs, store=True)
    stored = {scan.segment.start: scan.segment for scan in workers.in_order(jobs) if scan.segment}
    for start, new in stored.items():
        if new.sha256 != again[start].sha256:
            raise SourceChanged(f"Data.fs changed at {start} while damaged objects were stored again")
    return chain.mapped(lambda segment: stored.get(segment.start, segment)) if stored else chain


def _names_of(segment: Segment) -> list[str]:
    tids = [segment.tids.meta] if segment.tids else []
    return [part.object for part in (*segment.parts, *segment.log)] + tids


def _changed(segment: Segment) -> str:
    return (
        f"the bytes {segment.start} to {segment.end} of Data.fs changed since they were backed up; "
        "the backup keeps the old ones"
    )


def compact_segments(
    chain: Chain[Segment], copier: Copier, workers: Workers, findings: list[str]
) -> Chain[Segment]:
    """Return the chain with small segments in its tail joined, read again from the file.

    A segment stays as it is when the file no longer gives its bytes; ``findings`` then gets a text.
    """
    # a segment of few bytes can be full as well, when it has many transactions
    start, end = small_neighbours(
        max(one.raw, SEGMENT_LIMIT * one.transactions / TRANSACTIONS_LIMIT) for one in chain.tail
    )
    if start == end:
        return chain
    changed = [segment for segment in chain.tail[start:end] if not copier.still_holds(segment)]
    if changed:
        findings.append(_changed(changed[0]))
        return chain
    jobs = copier.jobs(_compacted(chain.tail[start:end]), _ignore_blobs, store=True)
    joined = [scan.segment for scan in workers.in_order(jobs) if scan.segment]
    return chain.with_tail([*chain.tail[:start], *joined, *chain.tail[end:]])


def _compacted(segments: Sequence[Segment]) -> Iterator[Range]:
    """Yield ranges that join neighbouring segments, each within the limits of a segment."""
    start, held = segments[0].start, 0
    for segment, following in zip(segments, [*segments[1:], None], strict=True):
        held += segment.transactions
        if (
            following is None
            or following.end - start > SEGMENT_LIMIT
            or held + following.transactions > TRANSACTIONS_LIMIT
        ):
            yield Range(start, segment.end, segment.tail_start)
            start, held = segment.end, 0


def _ignore_blobs(_blobs: list[BlobRef]) -> None:
    pass


CHUNK: Final = 1 << 20


Found = Callable[[list[BlobRef]], None]
"""Called with the blobs of a range while it is read, in any thread.

They are not collected first: when records are encrypted, each record may be a blob, and a range has many.
"""


class Scanned(msgspec.Struct):
    """What was found in a range; ``segment`` is None when the range was read and not stored."""

    segment: Segment | None
    sha256: str
    defects: list[Defect]
    size: int


class _Rows:
    """The two lists of transactions of a segment.

    ``tids`` are not encrypted; ``log`` is content, because users and descriptions may be private.
    """

    def __init__(self) -> None:
        self.tids: list[bytes] = []
        self.log: list[bytes] = []
        self.first: bytes | None = None
        self.last: bytes | None = None
        self.greatest = b""

    def add(self, t: Transaction) -> None:
        status = msgspec.json.encode(t.status.decode("latin-1"))
        self.tids.append(
            b'["0x%s",%d,%d,%s,%d,%d]' % (t.tid.hex().encode(), t.pos, t.size, status, t.records, t.blobs)
        )
        texts = [text.decode("utf-8", "backslashreplace") for text in (t.user, t.description)]
        digest = hashlib.sha256(t.extension).hexdigest() if t.extension else ""
        self.log.append(msgspec.json.encode(["0x" + t.tid.hex(), *texts, digest]))
        self.first, self.last = self.first or t.tid, t.tid
        self.greatest = max(self.greatest, t.tid)


class Copier:
    """Copies ranges of one file, or only reads them; the methods may run in several threads."""

    def __init__(self, file: DataFile, sink: Sink, folder: str, now: datetime, progress: Progress) -> None:
        self._file, self._sink, self._folder = file, sink, folder
        self._now, self._progress = now, progress

    def copy(self, found: Found, where: Range) -> Scanned:
        """Store a range as a segment with the lists of its transactions."""
        rows, defects = _Rows(), list[Defect]()
        content = self._sink.content(f"{self._folder}/Data.fs", long_distance=True)
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
        """Find the blobs of a range without storing it: it is stored already, or only blobs are backed up."""
        scanner = Scanner(where.start, _ignore, self._file.read_at)
        digest, defects = hashlib.sha256(), list[Defect]()
        for chunk in self._chunks(where.start, where.end):
            digest.update(chunk)
            scanner.feed(chunk)
            defects += _hand_over(scanner, found)
        scanner.finish()
        return Scanned(None, digest.hexdigest(), defects, 0)

    def jobs(self, ranges: Iterable[Range], found: Found, *, store: bool) -> Iterator[partial[Scanned]]:
        """Yield a job for each range: ``copy`` with ``store``, ``read`` without."""
        for where in ranges:
            yield partial(self.copy if store else self.read, found, where)

    def still_holds(self, segment: Segment) -> bool:
        """Tell whether the file still has exactly the bytes of a segment."""
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
            start=where.start,
            end=where.end,
            sha256=digest,
            transactions=len(rows.tids),
            first_tid="0x" + rows.first.hex() if rows.first else None,
            last_tid="0x" + rows.last.hex() if rows.last else None,
            tail_start=where.tail_start if rows.tids else where.end,
            tail_digest=tail_digest(self._file.fd, where.tail_start if rows.tids else where.end, where.end),
            parts=parts,
            tids=meta,
            log=log,
            future=is_in_future(rows.greatest, self._now),
        )


def _hand_over(scanner: Scanner, found: Found) -> list[Defect]:
    blobs, _pointers, defects = scanner.drain()
    if blobs:
        found(blobs)
    return defects


def _ignore(_transaction: Transaction) -> None:
    pass
