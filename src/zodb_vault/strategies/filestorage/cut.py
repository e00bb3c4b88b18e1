"""Find the last finished transaction of a Data.fs, and divide the new bytes into segments."""

from __future__ import annotations

from typing import Final

import msgspec

from ...datafs.records import MAGIC
from ...datafs.tail import TransactionSpan, TransactionWalker
from ...model import tid as tids
from .datafile import DataFile

# As long as the longest object (``repository/objects.py``), so a segment is usually one object. Only a single
# longer transaction makes a longer segment.
SEGMENT_LIMIT: Final = 64 << 20
# The two lists of transactions of a segment are made in memory: a row has about 100 bytes, so they take a few
# MiB for each thread.
TRANSACTIONS_LIMIT: Final = 1 << 16


class Range(msgspec.Struct, frozen=True):
    """Bytes of a Data.fs that become one segment; the last transaction begins at ``tail_start``."""

    start: int
    end: int
    tail_start: int


class TailScan:
    """Walks from ``start`` to the last finished transaction, and keeps the facts that a backup needs.

    ``end`` is the cut point: the backup reaches to this position. ``state`` is the state of the bytes after
    it, see ``datafs.tail.Tail``. ``ascending`` is False when a TID is not greater than the one before it;
    ``previous_tid`` is the TID of the transaction that ends at ``start``. ``unknown`` is the last transaction
    with a status that ZODB does not write. ``until`` is an earlier cut point, and the scan goes no further.
    """

    def __init__(
        self, file: DataFile, start: int, previous_tid: bytes | None = None, until: int | None = None
    ) -> None:
        self._file, self._until = file, until
        self._closed: list[Range] = []
        self.transactions = 0
        self.first_tid: bytes | None = None
        self.last_tid: bytes | None = None
        self.pack_tid: bytes | None = None
        self.unknown: TransactionSpan | None = None
        self.ascending = True
        self._begin, self._tail_start, self._held = start, start or len(MAGIC), 0
        self._previous = previous_tid
        self.end, self.state = start, "clean"
        self.extend()

    def extend(self) -> bool:
        """Walk on to where the file ends now; tell whether the cut point moved."""
        before = self.end
        with self._file.readable():
            walker = TransactionWalker(self._file.fd, str(self._file.path))
            self.end, self.state = walker.walk(self.end, self._add, self._until)
        return self.end != before

    @property
    def ranges(self) -> list[Range]:
        """Return the ranges that become segments, in order."""
        if self.end == self._begin:
            return self._closed
        return [*self._closed, Range(self._begin, self.end, self._tail_start)]

    def _add(self, span: TransactionSpan) -> None:
        if self._is_full(span):
            self._closed.append(Range(self._begin, span.pos, self._tail_start))
            self._begin, self._held = span.pos, 0
        self._held += 1
        self._tail_start, self.end = span.pos, span.end
        self.ascending = self.ascending and (self._previous is None or span.tid > self._previous)
        self._previous = self.last_tid = span.tid
        self.first_tid = self.first_tid or span.tid
        self.transactions += 1
        if span.status == b"p":
            self.pack_tid = span.tid
        elif span.status not in b" u":
            self.unknown = span

    def _is_full(self, span: TransactionSpan) -> bool:
        """Tell whether a transaction does not fit into the current range; an empty range takes any."""
        if span.pos <= max(self._begin, len(MAGIC)):
            return False
        return span.end - self._begin > SEGMENT_LIMIT or self._held == TRANSACTIONS_LIMIT


def hex_or_none(raw: bytes | None) -> str | None:
    """Return a TID in hex with 0x; None when there is none."""
    return tids.to_hex(raw) if raw else None
