"""Read the segments of a Data.fs: decode, check and scan them in one pass, in several threads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

import msgspec

from ...blobs.refs import BlobSet
from ...datafs.records import Pointer, ReadAt, Scanner, Transaction, follow_back_pointer
from ...errors import Damage, SourceDamaged
from ...model.blob import BlobRef
from ...model.manifest import Segment
from ...runtime.durable import drop_from_cache, start_writeback
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Sink

# Written bytes this far before the position of a write are dropped from the page cache. The kernel was asked
# to write each block at once, so these are on the disk by now; see docs/decisions/0007-page-cache.rst.
CACHED_BYTES: Final = 16 << 20


class DecodedSegment(msgspec.Struct):
    """What was found in one segment.

    ``pointers`` are back-pointers into other segments. ``entries`` are entries for the index of the Data.fs.
    """

    segment: Segment
    blobs: list[BlobRef]
    pointers: list[Pointer]
    defects: list[str]
    transactions: int
    tids: list[bytes]
    entries: bytearray


class SegmentReader:
    """Reads the segments of one database up to ``end``, to write them to a file or to check them.

    The digests of stored objects and the checksums of their frames are always checked. With ``digests``, the
    SHA-256 of each segment is checked as well.
    """

    def __init__(
        self, sink: Sink, segments: Iterable[Segment], end: int, progress: Progress, *, digests: bool
    ) -> None:
        self._sink, self._segments, self._end, self._progress = sink, segments, end, progress
        self._digests = digests

    def parts(self, workers: Workers, fd: int | None) -> Iterator[DecodedSegment]:
        """Yield what was found in each segment, in order; with ``fd``, write its bytes to that file.

        Raise Damage when an object is missing or damaged, or when the content differs from the manifest.
        """
        wanted = (segment for segment in self._segments if segment.start < self._end)
        yield from workers.in_order(partial(self._part, segment, fd) for segment in wanted)

    def _part(self, segment: Segment, fd: int | None) -> DecodedSegment:
        tids, entries = list[bytes](), bytearray()
        # entries for an index are collected only when a file is written
        scanner = Scanner(
            segment.start,
            lambda transaction: _note(tids, transaction),
            entries=None if fd is None else entries,
        )
        digest, pos = hashlib.sha256(), segment.start
        try:
            for chunk in self._sink.read(segment.parts):
                if self._digests:
                    digest.update(chunk)
                kept = chunk[: max(0, self._end - pos)]
                if fd is not None:
                    _write_at(fd, kept, pos)
                scanner.feed(kept)
                pos += len(chunk)
                self._progress.advance(len(chunk))
            if pos != segment.end or (self._digests and digest.hexdigest() != segment.sha256):
                raise Damage(
                    f"the bytes {segment.start} to {segment.end} of Data.fs are not the bytes that were "
                    "stored"
                )
            scanner.finish()
        except SourceDamaged as error:
            raise Damage(
                f"the bytes {segment.start} to {segment.end} of Data.fs are damaged: {error.message}"
            ) from None
        blobs, pointers, defects = scanner.drain()
        return DecodedSegment(
            segment,
            blobs,
            pointers,
            [f"position {d.pos}: {d.why}" for d in defects],
            len(tids),
            tids,
            entries,
        )


def _note(tids: list[bytes], transaction: Transaction) -> None:
    tids.append(transaction.tid)


def _write_at(fd: int, data: bytes, pos: int) -> None:
    view, start = memoryview(data), pos
    while view:
        written = os.pwrite(fd, view, pos)
        view, pos = view[written:], pos + written
    start_writeback(fd, start, len(data))
    drop_from_cache(fd, max(0, start - CACHED_BYTES), CACHED_BYTES)


def resolve(pointers: Iterable[Pointer], read_at: ReadAt, defects: list[str]) -> list[BlobRef]:
    """Return the blobs that back-pointers lead to; ``defects`` gets a text for each that leads nowhere."""
    found = []
    for pointer in pointers:
        try:
            answer = follow_back_pointer(read_at, pointer.back)
        except SourceDamaged as error:
            defects.append(error.message)
            continue
        if answer is not False:
            found.append(BlobRef(pointer.oid, pointer.tid, bool(answer)))
    return found


def rebuild(
    content: SegmentReader, fd: int, workers: Workers, refs: BlobSet, index: Callable[[bytearray], None]
) -> tuple[int, list[str]]:
    """Write a Data.fs, collect the blobs that it references, and give its records to ``index``.

    Return the number of transactions, and the defects that the source had.
    """
    count, defects = 0, list[str]()
    for part in content.parts(workers, fd):
        # Segments are yielded in order, and a back-pointer leads backwards: its target is written already.
        refs.add(part.blobs)
        refs.add(resolve(part.pointers, lambda length, pos: os.pread(fd, length, pos), defects))
        index(part.entries)
        count += part.transactions
        defects += part.defects
    return count, defects


def refs_of_file(fd: int, end: int, refs: BlobSet) -> None:
    """Collect the blobs that the first ``end`` bytes of a Data.fs reference; raise SourceDamaged."""
    scanner, pos = Scanner(0, lambda _transaction: None, lambda length, at: os.pread(fd, length, at)), 0
    while pos < end and (chunk := os.pread(fd, min(1 << 20, end - pos), pos)):
        scanner.feed(chunk)
        pos += len(chunk)
        refs.add(scanner.drain()[0])
