"""Find the last finished transaction of a Data.fs, and split the new bytes into segments."""

from __future__ import annotations

from typing import Final

import msgspec

from ...datafs.tail import TransactionSpan, TransactionWalker
from ...model import tid as tids
from .datafile import DataFile

SEGMENT_LIMIT: Final = 64 << 20


# The lists of a segment's transactions are made in memory.
TRANSACTIONS_LIMIT: Final = 1 << 16


class Range(msgspec.Struct, frozen=True):
    """Bytes of a Data.fs that become one segment; the last transaction begins at ``tail_start``."""

    start: int
    end: int
    tail_start: int


class TailScan:
    """Walks from ``start`` to the last finished transaction and remembers what a backup needs to know of the way.

    ``end`` is where the backup ends, ``state`` the state of the bytes after it; ``ascending`` is False when
    a TID is not later than the one before it (``previous_tid`` is the TID before ``start``). ``until`` is the end of a cut that was taken before.
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
        self.strange: TransactionSpan | None = None
        self.ascending = True
        self._begin, self._tail_start, self._held = start, start or 4, 0
        self._previous = previous_tid
        self.end, self.state = start, "clean"
        self.extend()

    def extend(self) -> bool:
        """Walk on to where the file ends now; tell whether there was more."""
        before = self.end
        hopper = TransactionWalker(self._file.fd, self.end, str(self._file.path))
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
        return (
            [*self._closed, Range(self._begin, self.end, self._tail_start)]
            if self.end > self._begin
            else self._closed
        )

    def _pass(self, hop: TransactionSpan) -> None:
        if (hop.end - self._begin > SEGMENT_LIMIT or self._held == TRANSACTIONS_LIMIT) and hop.pos > max(
            self._begin, 4
        ):
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


def hex_or_none(raw: bytes | None) -> str | None:
    """Return a TID as it is printed; None when there is none."""
    return tids.to_hex(raw) if raw else None
