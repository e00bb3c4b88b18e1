"""List the transactions of a backup, to pick a restore point."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ..model import tid as tids
from ..model.chain import log_of, segment_tids, segments_of
from ..model.manifest import DatabaseEntry, Segment, Transactions
from ..repository.objects import Objects


class LogRow(msgspec.Struct, frozen=True):
    """One transaction of a backup; ``restorable`` unless a later pack has taken away what it needs."""

    database: str
    tid: str
    time: str
    user: str | None
    description: str | None
    size: int
    objects: int
    blobs: int
    restorable: bool


def log(documents: Objects, entry: DatabaseEntry) -> Iterator[LogRow]:
    """Yield the transactions of a database in a backup, newest first; without the key of encrypted content those without user and description."""
    start = entry.pack_tid or entry.first_tid or ""
    blocks: Iterator[Segment | Transactions] = reversed(
        log_of(entry, documents) if entry.dump else segments_of(entry, documents)
    )
    for segment in blocks:
        rows = segment_tids(documents, segment)
        known = segment.log and not documents.concealed(segment.log)
        texts = (
            msgspec.json.decode(b"".join(documents.read(segment.log)))["rows"]
            if known
            else [[None] * 4] * len(rows)
        )
        for (tid, _pos, size, _status, objects, blobs), (_tid, user, description, _extension) in zip(
            reversed(rows), reversed(texts), strict=True
        ):
            yield LogRow(
                entry.name,
                tid,
                tids.iso(tids.from_hex(tid)),
                user,
                description,
                size,
                objects,
                blobs,
                tid >= start,
            )
