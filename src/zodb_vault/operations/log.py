"""List the transactions of a backup, from which a user chooses a restore point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from ..model import tid as tids
from ..model.chain import log_of, segments_of, transaction_rows
from ..model.manifest import DatabaseEntry, Segment, Transactions
from ..repository.objects import Objects

# TID, user, description and extension of each transaction, as the log of a segment has them.
TextRow = Sequence[str | None]


class LogRow(msgspec.Struct, frozen=True):
    """One transaction of a backup; not ``restorable`` if a later pack has removed objects that it needs."""

    database: str
    tid: str
    time: str
    user: str | None
    description: str | None
    size: int
    objects: int
    blobs: int
    restorable: bool


def is_concealed(documents: Objects, entry: DatabaseEntry) -> bool:
    """Tell whether the newest users and descriptions of a database are encrypted and no key is configured."""
    newest: Sequence[Segment | Transactions] = ()
    if entry.data_fs:
        newest = entry.data_fs.tail
    elif entry.dump:
        newest = entry.dump.log
    return any(documents.cannot_decrypt(one.log) for one in newest)


def log(documents: Objects, entry: DatabaseEntry) -> Iterator[LogRow]:
    """Yield the transactions of a database, newest first; user and description are None without the key."""
    start = entry.pack_tid or entry.first_tid or ""
    blocks: Iterator[Segment | Transactions] = reversed(
        log_of(entry, documents) if entry.dump else segments_of(entry, documents)
    )
    for block in blocks:
        rows = transaction_rows(documents, block)
        texts = _texts(documents, block) or [[None] * 4] * len(rows)
        for row, text in zip(reversed(rows), reversed(texts), strict=True):
            tid, _position, size, _status, objects, blobs = row
            _tid, user, description, _extension = text
            yield LogRow(
                database=entry.name,
                tid=tid,
                time=tids.iso(tids.from_hex(tid)),
                user=user,
                description=description,
                size=size,
                objects=objects,
                blobs=blobs,
                restorable=tid >= start,
            )


def _texts(documents: Objects, block: Segment | Transactions) -> list[TextRow] | None:
    """Return users and descriptions, None when they are not stored or cannot be decrypted."""
    if not block.log or documents.cannot_decrypt(block.log):
        return None
    rows: list[TextRow] = msgspec.json.decode(b"".join(documents.read(block.log)))["rows"]
    return rows
