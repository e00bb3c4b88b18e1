"""Check a stored Data.fs: transactions can be parsed, TIDs ascend, back-pointers lead to records."""

from __future__ import annotations

import msgspec

from ...blobs.refs import BlobSet
from ...datafs.records import Pointer
from ...errors import Damage
from ...model.chain import segments_of, transaction_rows
from ...model.manifest import DatabaseEntry, DataFs, Segment
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import CheckReport, Sink
from .rebuild import SegmentReader, resolve


class DataFsCheck:
    """Reads the whole storage once, then the records that its back-pointers lead to."""

    def __init__(
        self,
        entry: DatabaseEntry,
        storage: DataFs,
        sink: Sink,
        refs: BlobSet,
        report: CheckReport,
        progress: Progress,
    ) -> None:
        self.entry, self.storage, self.sink, self.refs = entry, storage, sink, refs
        self.report, self.progress = report, progress

    def run(self, workers: int) -> None:
        """Check the storage, and add the blobs that it references to ``refs``.

        What was found is reported. Raise Damage when the rest of the storage cannot be read.
        """
        self.progress.begin("storage", self.storage.end)
        content = SegmentReader(
            self.sink, segments_of(self.entry, self.sink), self.storage.end, self.progress, digests=True
        )
        pointers: list[Pointer] = []
        last, count, pos = b"", 0, 0
        with Workers(workers, _nothing) as threads:
            for part in content.parts(threads, None):
                self._continuous(part.segment, pos)
                self.refs.add(part.blobs)
                pointers += part.pointers
                self._order(last, part.tids)
                self._lists(part.segment, part.tids)
                for why in part.defects:
                    self.report.source("record", why)
                last = part.tids[-1] if part.tids else last
                pos = part.segment.end
                count += part.transactions
        if (count, pos) != (self.storage.transactions, self.storage.end):
            self.report.damage(
                "storage",
                f"the segments have {count} transactions and end at {pos}; the manifest says "
                f"{self.storage.transactions} transactions and {self.storage.end}",
            )
        self.report.count("transactions", count)
        self._pointers(pointers)

    def _continuous(self, segment: Segment, pos: int) -> None:
        if segment.start != pos:
            raise Damage(
                f"the segments of {self.entry.name} have a gap: one ends at position {pos}, the next one "
                f"begins at {segment.start}"
            )

    def _order(self, last: bytes, tids: list[bytes]) -> None:
        if all(a < b for a, b in zip([last, *tids], tids, strict=False)):
            return
        report = self.report.damage if self.entry.ordered else self.report.source
        report("order", "the TIDs do not ascend")

    def _lists(self, segment: Segment, tids: list[bytes]) -> None:
        """Check the two lists of transactions of a segment."""
        rows = transaction_rows(self.sink, segment)
        log = msgspec.json.decode(b"".join(self.sink.read(segment.log)))["rows"] if segment.log else []
        if [row[0] for row in rows] != ["0x" + tid.hex() for tid in tids] or len(log) != len(tids):
            self.report.damage(
                "list",
                f"the lists of transactions of the bytes {segment.start} to {segment.end} do not match them",
            )

    def _pointers(self, pointers: list[Pointer]) -> None:
        """Follow back-pointers, which may lead into any segment.

        They are sorted by target, so that each segment is decoded about once.
        """
        reader, defects = DataFsReader(self.sink, self.entry), list[str]()
        for pointer in sorted(pointers, key=lambda pointer: pointer.back):
            self.refs.add(resolve([pointer], reader.read_at, defects))
            self.report.count("back-pointers")
        for why in defects:
            self.report.source("back-pointer", why)


class DataFsReader:
    """Reads at any position of a stored Data.fs; only the segment that was read last is kept in memory."""

    def __init__(self, sink: Sink, entry: DatabaseEntry) -> None:
        self._sink, self._entry = sink, entry
        self._segment: Segment | None = None
        self._data = b""

    def read_at(self, length: int, pos: int) -> bytes:
        """Return up to ``length`` bytes at a position; a read ends at the end of a segment.

        No record crosses that end.
        """
        if self._segment is None or not self._segment.start <= pos < self._segment.end:
            self._segment = next(
                (s for s in segments_of(self._entry, self._sink) if s.start <= pos < s.end), None
            )
            self._data = b"".join(self._sink.read(self._segment.parts)) if self._segment else b""
        start = pos - self._segment.start if self._segment else 0
        return self._data[start : start + length]


def _nothing() -> None:
    pass
