"""What of the backups that exist still stands in a Data.fs, byte for byte in its old place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from itertools import takewhile

import msgspec

from ..datafs.tail import backwards, tail_digest
from ..model import tid as tids
from ..model.chain import Chain, Documents
from ..model.manifest import Segment, Transactions
from .datafile import DataFile


class _TidRows(msgspec.Struct):
    rows: list[tuple[str, int, int, str, int, int]]


class Standing:
    """Compares segments with the file; the answer for a segment that several backups share is asked once."""

    def __init__(self, file: DataFile) -> None:
        self._file, self._size = file, os.fstat(file.fd).st_size
        self._known: dict[tuple[int, str], bool] = {}

    def count(self, chain: Chain[Segment]) -> tuple[int, int]:
        """Return how many segments the file continues, up to the last whose final transaction stands, and how many can be trusted.

        From the first segment on whose TIDs were later than the clock, nothing identifies content: to be read again.
        """
        left, stands, trusted = len(chain), 0, 0
        for segment in reversed(chain):
            if not stands and self._stands(segment):
                stands = trusted = left
            left -= 1
            if segment.future:
                trusted = min(trusted, left)
            elif stands:
                break  # TIDs ascend: what comes before is older still
        return stands, trusted

    def _stands(self, segment: Segment) -> bool:
        key = (segment.end, segment.tail_digest)
        if key not in self._known:
            digest = tail_digest if segment.end <= self._size else _nothing
            with self._file.readable():
                self._known[key] = digest(self._file.fd, segment.tail_start, segment.end) == segment.tail_digest
        return self._known[key]


def _nothing(_fd: int, _pos: int, _end: int) -> str:
    return ""


def newest_common(file: DataFile, end: int, chain: Chain[Segment], floor: int) -> bytes | None:
    """Return the newest TID that the file before ``end`` and the chain share; both are walked backwards, not below ``floor`` bytes."""
    theirs = _backwards_tids(chain, floor)
    ours = (hop.tid for hop in takewhile(lambda hop: hop.pos >= floor, backwards(file.fd, end)))
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
        for row in reversed(segment_tids(chain.documents, segment)):
            yield tids.from_hex(row[0])


def segment_tids(documents: Documents, segment: Segment | Transactions) -> list[tuple[str, int, int, str, int, int]]:
    """Return the rows (TID, position, size, status, records, blobs) of the transactions of a segment, or of those that a dump knows."""
    if segment.tids is None:
        return []
    return msgspec.json.decode(documents.document(segment.tids.meta), type=_TidRows).rows


def later_than(tid: bytes | None, moment: datetime) -> bool:
    """Tell whether a TID lies in the future of a clock."""
    return tid is not None and tid > tids.from_datetime(moment)
