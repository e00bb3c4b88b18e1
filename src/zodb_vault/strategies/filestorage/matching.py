"""Find which segments of earlier backups a Data.fs still has, byte for byte at the same position."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import datetime
from itertools import takewhile
from typing import Final

import msgspec

from ...datafs.tail import backwards, tail_digest
from ...model import tid as tids
from ...model.chain import Chain, transaction_rows
from ...model.manifest import Segment
from .datafile import DataFile

CHUNK: Final = 1 << 20


class SegmentMatcher:
    """Compares segments with the file, and compares a segment that several backups share only once."""

    def __init__(self, file: DataFile) -> None:
        self._file, self._size = file, os.fstat(file.fd).st_size
        self._known: dict[tuple[int, str], bool] = {}

    def count(self, chain: Chain[Segment]) -> tuple[int, int]:
        """Return how many segments match, and how many of these can be trusted.

        All segments match up to the last one whose final transaction is in the file at its old position:
        FileStorage only appends, and a pack moves everything after the bytes that it removes.

        A segment with TIDs later than the clock, and all after it, cannot be trusted. After the clock was set
        right, the site may have used the same TIDs for other content. The bytes of these segments are read
        again and compared, and they are trusted up to the first one that differs.
        """
        left, matching, trusted = len(chain), 0, 0
        doubtful: list[Segment] = []
        for segment in reversed(chain):
            if not matching and self.matches(segment):
                matching = trusted = left
            left -= 1
            if matching and segment.future:
                trusted = left
                doubtful.append(segment)
            elif matching:
                break  # TIDs ascend, so no earlier segment is later than the clock
        trusted += sum(1 for _same in takewhile(self._has_same_bytes, reversed(doubtful)))
        return matching, trusted

    def matches(self, segment: Segment) -> bool:
        """Tell whether the final transaction of a segment is in the file, at the same position."""
        key = (segment.end, segment.tail_digest)
        if key not in self._known:
            digest = tail_digest if segment.end <= self._size else _nothing
            with self._file.readable():
                self._known[key] = (
                    digest(self._file.fd, segment.tail_start, segment.end) == segment.tail_digest
                )
        return self._known[key]

    def _has_same_bytes(self, segment: Segment) -> bool:
        """Tell whether the file has all bytes of a segment, which are read once for all backups."""
        key = (segment.end, segment.sha256)
        if key not in self._known:
            self._known[key] = digest_of(self._file, segment.start, segment.end) == segment.sha256
        return self._known[key]


def digest_of(file: DataFile, start: int, end: int) -> str:
    """Return the SHA-256 of a part of the file, or of what is left of it."""
    digest = hashlib.sha256()
    while start < end and (data := file.read_at(min(CHUNK, end - start), start)):
        digest.update(data)
        start += len(data)
    return digest.hexdigest()


def without_past(chain: Chain[Segment], now: datetime) -> Chain[Segment]:
    """Return the chain; no segment is ``future`` any more when the clock has passed all its TIDs."""
    count, changed, known = len(chain), list[Segment](), list[Segment]()
    for segment in reversed(chain):
        if not segment.future:
            break
        count -= 1
        greatest = max((row[0] for row in transaction_rows(chain.documents, segment)), default=None)
        future = greatest is not None and tids.is_in_future(tids.from_hex(greatest), now)
        known.append(segment)
        changed.append(msgspec.structs.replace(segment, future=future))
    return chain if changed == known else chain.first(count).extended(changed[::-1])


def _nothing(_fd: int, _pos: int, _end: int) -> str:
    return ""


def newest_common(file: DataFile, end: int, chain: Chain[Segment], floor: int) -> bytes | None:
    """Return the newest TID that both the file before ``end`` and the chain have, None if they share none.

    Both are walked backwards down to position ``floor``: neither list is held in memory.
    """
    theirs = _backwards_tids(chain, floor)
    ours = (span.tid for span in takewhile(lambda span: span.pos >= floor, backwards(file.fd, end)))
    a, b = next(theirs, None), next(ours, None)
    while a is not None and b is not None and a != b:
        if a > b:
            a = next(theirs, None)
        else:
            b = next(ours, None)
    return a if a == b else None


def _backwards_tids(chain: Chain[Segment], floor: int) -> Iterator[bytes]:
    for segment in reversed(chain):
        if segment.end <= floor:
            return
        for row in reversed(transaction_rows(chain.documents, segment)):
            yield tids.from_hex(row[0])
