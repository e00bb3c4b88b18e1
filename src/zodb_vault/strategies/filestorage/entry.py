"""Make the entry of the manifest for a Data.fs that was copied."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from ...model import tid as tids
from ...model.chain import Chain
from ...model.manifest import DatabaseEntry, DataFs, Segment
from ..base import folder_of
from ..blobs.source import BlobDirectory
from .blobs import DataFsBlobs
from .cut import TailScan, hex_or_none
from .starting_point import SurveyedDataFs


class CopiedDataFs(NamedTuple):
    """A Data.fs after its storage was copied: all its segments, old and new.

    ``findings`` are defects of the file, and bytes that changed since an earlier backup stored them.
    """

    surveyed: SurveyedDataFs
    segments: Chain[Segment]
    findings: list[str]


class FileTids(NamedTuple):
    """The TIDs of a whole file: of the first transaction, and of the last one that a pack has seen.

    ``ascending`` tells whether each TID is greater than the one before it.
    """

    first: str | None
    packed: str | None
    ascending: bool


def entry_of(copied: CopiedDataFs, blobs: DataFsBlobs | None, findings: list[str]) -> DatabaseEntry:
    """Return the entry of the manifest; ``blobs`` is None when blobs were left out."""
    surveyed = copied.surveyed
    database, source, cut = surveyed.database, surveyed.blob_source, surveyed.cut
    known = _range(surveyed)
    last = tids.to_hex(cut.last_tid) if cut.last_tid else surveyed.start.last_tid
    warnings = [
        *database.warnings,
        *(blobs.warnings() if blobs else ()),
        *_warnings(copied, known),
        *findings,
    ]
    return DatabaseEntry(
        name=database.name,
        folder=folder_of(database.name),
        mount_point=database.mount_point,
        backend=database.backend,
        method=database.method,
        history=database.history is not False,
        blob_mode=database.blob_mode if source else "none",
        layout=source.layout if isinstance(source, BlobDirectory) else None,
        first_tid=known.first,
        pack_tid=known.packed,
        last_tid=last,
        last_time=tids.iso(tids.from_hex(last)) if last else None,
        storage=_storage(copied) if surveyed.options.storage else None,
        blobs=blobs.result() if blobs else None,
        ordered=known.ascending,
        transactions_added=cut.transactions,
        blobs_added=blobs.added if blobs else 0,
        warnings=warnings,
    )


def _range(surveyed: SurveyedDataFs) -> FileTids:
    cut, start = surveyed.cut, surveyed.start
    if start.interrupted:
        whole = TailScan(surveyed.file, 0, until=cut.end)
        return FileTids(hex_or_none(whole.first_tid), hex_or_none(whole.pack_tid), whole.ascending)
    packed = hex_or_none(cut.pack_tid)
    if start.previous is None or not start.end:
        return FileTids(hex_or_none(cut.first_tid), packed, cut.ascending)
    before = start.previous.entry
    if packed is None and before.pack_tid is not None:
        packed = min(before.pack_tid, start.last_tid or before.pack_tid)
    return FileTids(before.first_tid, packed, before.ordered and cut.ascending)


def _warnings(copied: CopiedDataFs, known: FileTids) -> Iterator[str]:
    cut = copied.surveyed.cut
    if not known.ascending:
        yield "the TIDs of Data.fs do not ascend: a restore to a point in time is refused"
    if cut.state == "torn":
        yield (
            f"Data.fs ends with an unfinished transaction at position {cut.end}, which is not in the backup"
        )
    if cut.unknown:
        yield f"the transaction at position {cut.unknown.pos} has the unknown status {cut.unknown.status!r}"
    future = list(takewhile(lambda segment: segment.future, reversed(copied.segments)))
    if future:
        size = sum(segment.raw for segment in future)
        last = tids.iso(tids.from_hex(future[0].last_tid)) if future[0].last_tid else "an unknown time"
        yield (
            f"the newest transactions have times after the clock of this machine: each run reads {size:,} "
            f"bytes of Data.fs and the blobs of these transactions again, until the clock has passed {last}; "
            "what is unchanged is not stored again"
        )


def _storage(copied: CopiedDataFs) -> DataFs:
    start, cut = copied.surveyed.start, copied.surveyed.cut
    before = start.previous.entry.data_fs if start.previous else None
    if before is not None and start.whole and not start.interrupted and before.end == start.end:
        known = before.transactions  # the manifest has the sum, so no list of segments is read
    else:
        known = sum(segment.transactions for segment in start.segments)
    segments = copied.segments.with_short_tail()
    return DataFs(
        end=cut.end, transactions=known + cut.transactions, lists=segments.lists, tail=segments.tail
    )
