"""Write what is left of a Data.fs whose backup is damaged.

All positions stay the same, because records refer to each other by position. A range of bytes that is lost is
filled with transactions that have no records; their texts fill the space. The status ``u``, which makes
FileStorage skip a transaction, needs no such filling, but ``FileIterator`` of ZODB 5.8 to 6.0 fails on it. An
object whose newest record is lost has its record before that again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from ...datafs.records import MAGIC
from ...errors import Damage
from ...model import chain as chains
from ...model.chain import segments_of
from ...model.manifest import DatabaseEntry, Segment
from ...runtime.durable import sync_directory
from ...runtime.progress import Progress
from ..base import Sink

# The head of a transaction: TID, length, status, lengths of user, description and extension. The length does
# not count the 8 bytes at the end, which repeat it (ZODB/FileStorage/format.py, TRANS_HDR).
HEAD: Final = struct.Struct(">8sQcHHH")
LENGTH: Final = struct.Struct(">Q")
TEXT_LIMIT: Final = 0xFFFF
SMALLEST: Final = HEAD.size + LENGTH.size
LARGEST: Final = SMALLEST + 2 * TEXT_LIMIT
DESCRIPTION: Final = b"lost: the backup was damaged here"


class LostRange(msgspec.Struct, frozen=True):
    """The bytes of a Data.fs from ``start`` to ``end``, which are lost with all their transactions.

    The TIDs are None, and so is the number, when the list that had them is lost, too.
    """

    start: int
    end: int
    first_tid: str | None
    last_tid: str | None
    transactions: int | None
    why: str


def salvage_data_fs(entry: DatabaseEntry, sink: Sink, path: Path, progress: Progress) -> list[LostRange]:
    """Write every segment that is as it was stored to a new file, and return what is lost.

    Raise FileExistsError, OSError.
    """
    assert entry.data_fs is not None
    lost: list[LostRange] = []
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        pos, last = 0, 0
        for segment, why in _segments(entry, sink):
            if segment.start > pos:  # the list that named the segments before it is lost
                lost.append(LostRange(pos, segment.start, None, None, None, why))
                _fill(fd, lost[-1], last)
            if problem := _write(fd, segment, sink, progress):
                lost.append(_lost(segment, problem))
                _fill(fd, lost[-1], last)
            pos, last = segment.end, int(segment.last_tid, 16) if segment.last_tid else last
        if pos < entry.data_fs.end:
            lost.append(LostRange(pos, entry.data_fs.end, None, None, None, "its list is damaged"))
            _fill(fd, lost[-1], last)
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(path.parent)
    return lost


def _lost(segment: Segment, why: str) -> LostRange:
    return LostRange(
        segment.start, segment.end, segment.first_tid, segment.last_tid, segment.transactions, why
    )


def _segments(entry: DatabaseEntry, sink: Sink) -> Iterator[tuple[Segment, str]]:
    """Yield the segments whose lists can be read, each with the reason why those before it cannot."""
    why = ""
    segments = segments_of(entry, sink)
    for ref in segments.lists:
        try:
            found = chains.load_list(Segment, sink, ref)
        except Damage as error:
            why = error.message
            continue
        yield from ((segment, why) for segment in found)
    yield from ((segment, why) for segment in segments.tail)


def _write(fd: int, segment: Segment, sink: Sink, progress: Progress) -> str | None:
    """Write a segment; return why it is lost, None when all its bytes are as they were read from the site."""
    digest, pos = hashlib.sha256(), segment.start
    try:
        for chunk in sink.read(segment.parts):
            digest.update(chunk)
            pos += len(chunk)
            if pos > segment.end:
                break
            os.pwrite(fd, chunk, pos - len(chunk))
            progress.advance(len(chunk))
    except Damage as error:
        return error.message
    if pos != segment.end or digest.hexdigest() != segment.sha256:
        return "its bytes are not those that were read from the site"
    return None


def _fill(fd: int, lost: LostRange, last: int) -> None:
    """Fill a lost range with transactions later than the TID ``last``.

    TIDs count in units of 14 nanoseconds, so there is room for those of the filling between the neighbours:
    64 MiB need 512.
    """
    start = lost.start
    # a segment that was written in part leaves bytes behind
    with contextlib.suppress(OSError):
        os.ftruncate(fd, start)
    os.ftruncate(fd, lost.end)
    if not start:
        os.pwrite(fd, MAGIC, 0)
        start = len(MAGIC)
    tid = int(lost.first_tid, 16) if lost.first_tid else last + 1
    for size in _sizes(lost.end - start):
        os.pwrite(fd, _transaction(tid, size), start)
        start, tid = start + size, tid + 1


def _sizes(length: int) -> Iterator[int]:
    """Split a range into the sizes of transactions; none is left that is too small for one."""
    while length:
        size = min(length, LARGEST)
        if 0 < length - size < SMALLEST:
            size -= SMALLEST
        yield size
        length -= size


def _transaction(tid: int, size: int) -> bytes:
    """Return a transaction of ``size`` bytes without records; its texts fill it."""
    texts = size - SMALLEST
    description = DESCRIPTION.ljust(min(texts, TEXT_LIMIT))[:texts]
    user = b" " * (texts - len(description))
    head = HEAD.pack(tid.to_bytes(8, "big"), size - LENGTH.size, b" ", len(user), len(description), 0)
    return head + user + description + LENGTH.pack(size - LENGTH.size)
