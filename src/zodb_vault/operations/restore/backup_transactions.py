"""The transactions that a backup holds of one database, and where each of them ends."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple, TypeVar

import msgspec

from ...errors import TargetMissing
from ...model.chain import Chain, Documents, log_of, segments_of, transaction_rows
from ...model.manifest import DatabaseEntry, Segment, Transactions
from ...model.tid import from_datetime, from_hex, to_hex
from ...policy.commits import SPAN, CommitPart
from ...policy.recovery import AtTimestamp, Request
from ...repository.objects import Objects
from ..catalog import Backup

B = TypeVar("B", Segment, Transactions)


class TransactionEnd(NamedTuple):
    """One transaction as it is compared with those of other databases, and the position at which it ends."""

    part: CommitPart
    end: int


def require_storage(backup_id: str, entry: DatabaseEntry) -> None:
    """Raise TargetMissing when a backup holds only the blobs of a database."""
    if entry.storage is None:
        raise TargetMissing(
            f"backup {backup_id} does not hold the storage of {entry.name}", "choose another backup"
        )


def transactions_near(
    backup: Backup, database: str, documents: Documents, request: Request
) -> Iterator[tuple[str, int]]:
    """Yield (TID, end) of a database's transactions.

    When TIDs ascend, only from shortly before the wanted one.

    Raise TargetMissing when the backup does not hold the storage of the database.
    """
    entry = next((entry for entry in backup.manifest.databases if entry.name == database), None)
    if entry is None:
        raise TargetMissing(f"backup {backup.manifest.id} does not hold {database}", "choose another backup")
    require_storage(backup.manifest.id, entry)
    for block in _blocks_near(entry, documents, request):
        for tid, pos, size, *_ in transaction_rows(documents, block):
            yield tid, pos + size
    if entry.dump is not None and not len(log_of(entry, documents)) and entry.last_tid is not None:
        yield entry.last_tid, entry.dump.size  # all that is known of a dump without a log


def _blocks_near(
    entry: DatabaseEntry, documents: Documents, request: Request
) -> Iterator[Segment] | Iterator[Transactions]:
    if entry.dump is not None:
        return _near(entry, log_of(entry, documents), request)
    return _near(entry, segments_of(entry, documents), request)


def _near(entry: DatabaseEntry, blocks: Chain[B], request: Request) -> Iterator[B]:
    """Yield the blocks from the last one before the wanted transaction on."""
    bound = _tid_of(request)
    before: B | None = None
    for block in blocks:
        if entry.ordered and (block.last_tid or "") < bound:
            before = block
            continue
        if before is not None:
            yield before
            before = None
        yield block
    if before is not None:
        yield before


def _tid_of(request: Request) -> str:
    """Return the TID of a request, or the TID of its time."""
    if isinstance(request, AtTimestamp):
        return to_hex(from_datetime(request.time))
    return to_hex(from_hex(request.tid))


def later_in_data_fs(entry: DatabaseEntry, documents: Documents, end: int) -> int:
    """Return how many transactions of a Data.fs end after a position."""
    count = 0
    for segment in reversed(segments_of(entry, documents)):
        if segment.end <= end:
            break
        count += sum(1 for row in transaction_rows(documents, segment) if row[1] + row[2] > end)
    return count


def later_in_dump(entry: DatabaseEntry, documents: Documents, tid: str) -> int:
    """Return how many transactions in the log of a dump are later than a TID."""
    blocks = [block for block in log_of(entry, documents) if block.last_tid > tid]
    if not blocks:
        return 0
    in_first = sum(1 for row in transaction_rows(documents, blocks[0]) if row[0] > tid)
    return in_first + sum(block.count for block in blocks[1:])


def transactions_around(
    entry: DatabaseEntry, documents: Objects, first: datetime, last: datetime
) -> Iterator[TransactionEnd]:
    """Yield the transactions around a time range.

    One that is further away shares no commit with any transaction in the range.
    """
    earliest, latest = to_hex(from_datetime(first - 3 * SPAN)), to_hex(from_datetime(last + 3 * SPAN))
    before: Segment | None = None
    for segment in segments_of(entry, documents):
        if (segment.last_tid or "") < earliest:
            before = segment
        elif segment.first_tid is not None and segment.first_tid <= latest:
            if before is not None:
                yield from _ends_in(documents, before)
                before = None
            yield from _ends_in(documents, segment)
    if before is not None:
        yield from _ends_in(documents, before)


def _ends_in(documents: Objects, segment: Segment) -> Iterator[TransactionEnd]:
    """Yield the transactions of a segment; one without a log counts as different from all others."""
    rows = transaction_rows(documents, segment)
    marks = [[row[0], row[0]] for row in rows]
    if segment.log:
        marks = msgspec.json.decode(b"".join(documents.read(segment.log)))["rows"]
    for (tid, pos, size, *_), (_tid, *mark) in zip(rows, marks, strict=True):
        yield TransactionEnd(CommitPart(tid, tuple(mark)), pos + size)
