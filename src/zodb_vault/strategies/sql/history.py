"""The transactions of a database that keeps all revisions.

From which transaction on it can be restored to each one, how they are listed, and how it is truncated. The
queries for its tables come from the backend, as ``Revisions``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, Protocol

import msgspec

from ...errors import Damage
from ...model import canonical
from ...model import tid as tids
from ...model.chain import Chain, log_of, transaction_rows
from ...model.manifest import DatabaseEntry, Transactions
from ...model.restore import RestorePoint
from ..base import CheckReport, Sink

# The number of transactions in one document. A list of ten million has some hundred documents, and one of
# them is read to find a transaction.
BLOCK: Final = 65_536


class Queryable(Protocol):
    """A database as one snapshot shows it."""

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement."""
        ...

    def stream(self, statement: str, *parameters: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a statement."""
        ...


class Revisions(msgspec.Struct, frozen=True, kw_only=True):
    """How one kind of storage keeps revisions, in SQL; ``%s`` is a TID.

    ``transactions`` and ``states`` are the tables, or subqueries, of all transactions and all revisions. The
    latter have ``tid``, ``state_size`` and what the condition ``blob_records`` needs.

    ``packed`` are queries for the TIDs up to which a pack has removed revisions. ``marks_packs``: they find
    every pack; otherwise some packs leave no sign. ``truncate`` are statements that remove what is later than
    a TID. ``check`` are queries, each with the name of what it counts, that then have to give 0.
    """

    transactions: str
    states: str
    blob_records: str
    packed: tuple[str, ...]
    truncate: tuple[str, ...]
    check: tuple[tuple[str, str], ...]
    marks_packs: bool = True

    def start(self, rows: Queryable) -> str | None:
        """Return the TID up to which a pack has removed revisions, None when there was none."""
        found = [row[0] for query in self.packed for row in rows.query(query) if row[0] is not None]
        return tids.to_hex(int(max(found)).to_bytes(8)) if found else None

    def count(self, rows: Queryable, until: str) -> tuple[int, int]:
        """Return how many transactions and how many revisions there are up to a TID."""
        number = int(until, 16)
        ((transactions,),) = rows.query(
            f"SELECT count(*) FROM {self.transactions} t WHERE tid > 0 AND tid <= %s", number
        )
        ((states,),) = rows.query(f"SELECT count(*) FROM {self.states} s WHERE tid <= %s", number)
        return int(transactions), int(states)

    def log(
        self, rows: Queryable, sink: Sink, folder: str, after: str | None, heartbeat: Callable[[], None]
    ) -> Iterator[Transactions]:
        """List the transactions that are later than a TID."""
        number = int(after, 16) if after else 0
        counted = f"""
        SELECT tid, count(*) AS objects, sum(state_size) AS size,
          sum(CASE WHEN {self.blob_records} THEN 1 ELSE 0 END) AS blobs
        FROM {self.states} s WHERE tid > %s GROUP BY tid
        """
        query = f"""
        SELECT t.tid, t.username, t.description, t.extension,
          coalesce(c.objects, 0), coalesce(c.size, 0), coalesce(c.blobs, 0)
        FROM {self.transactions} t LEFT JOIN ({counted}) c ON c.tid = t.tid WHERE t.tid > %s ORDER BY t.tid
        """
        found = rows.stream(query, number, number)
        while block := list(islice(found, BLOCK)):
            yield _stored(block, sink, folder)
            heartbeat()


def _stored(block: list[tuple[Any, ...]], sink: Sink, folder: str) -> Transactions:
    """Store some transactions as two lists: a document in clear, and content that may be private."""
    clear, content = [], []
    for number, user, description, extension, objects, size, blobs in block:
        tid = tids.to_hex(int(number).to_bytes(8))
        digest = hashlib.sha256(_bytes(extension)).hexdigest() if extension else ""
        clear.append(b'["%s",0,%d,"",%d,%d]' % (tid.encode(), size, objects, blobs))
        content.append(msgspec.json.encode([tid, _text(user), _text(description), digest]))
    writer = sink.content(f"{folder}/log")
    writer.write(canonical.rows("log", content))
    first, last = (tids.to_hex(int(row[0]).to_bytes(8)) for row in (block[0], block[-1]))
    document = sink.put_document(canonical.rows("tids", clear))
    return Transactions(count=len(block), first_tid=first, last_tid=last, tids=document, log=writer.close())


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _text(value: Any) -> str:
    return (
        ""
        if value is None
        else value
        if isinstance(value, str)
        else bytes(value).decode("utf-8", "backslashreplace")
    )


def is_unchanged(revisions: Revisions, rows: Queryable, sink: Sink, earlier: DatabaseEntry) -> bool:
    """Tell whether the database still has everything that an earlier backup lists."""
    log = log_of(earlier, sink)
    if not len(log) or earlier.last_tid is None:
        return False
    point = point_at(log, sink, earlier.last_tid)
    return revisions.count(rows, earlier.last_tid) == (point.transactions, point.states)


def start_of(
    revisions: Revisions, rows: Queryable, sink: Sink, earlier: DatabaseEntry | None, last_tid: str
) -> str | None:
    """Return the oldest transaction that can be restored, None for the first one.

    Some packs leave no sign. Then one is noticed when something is gone that an earlier backup lists, and
    only the last state can be restored from this backup; the earlier one has the older states.
    """
    found = revisions.start(rows)
    if revisions.marks_packs or earlier is None or not len(log_of(earlier, sink)):
        return found
    noticed = earlier.pack_tid if is_unchanged(revisions, rows, sink, earlier) else last_tid
    return max((one for one in (found, noticed) if one is not None), default=None)


def log_since(
    revisions: Revisions,
    rows: Queryable,
    sink: Sink,
    folder: str,
    earlier: DatabaseEntry | None,
    heartbeat: Callable[[], None],
) -> Chain[Transactions]:
    """Return the list of all transactions; it continues that of an earlier backup if no pack changed it."""
    goes_on = earlier is not None and is_unchanged(revisions, rows, sink, earlier)
    known = log_of(earlier, sink) if earlier is not None and goes_on else Chain(Transactions, sink)
    until = earlier.last_tid if earlier is not None and goes_on else None
    return known.extended(list(revisions.log(rows, sink, folder, until, heartbeat))).with_short_tail()


def point_at(log: Chain[Transactions], sink: Sink, until: str) -> RestorePoint:
    """Return what a database has up to a transaction of its log."""
    transactions = states = 0
    for block in log:
        if block.first_tid > until:
            break
        rows = [row for row in transaction_rows(sink, block) if row[0] <= until]
        transactions, states = transactions + len(rows), states + sum(row[4] for row in rows)
    return RestorePoint(tid=until, transactions=transactions, states=states)


def check_log(entry: DatabaseEntry, sink: Sink, report: CheckReport) -> None:
    """Check the list of transactions: it can be read, ascends, and ends with the last TID of the dump."""
    before, count = "", 0
    for block in log_of(entry, sink):
        rows = transaction_rows(sink, block)
        ascending = all(
            one < other
            for one, other in zip([before, *(row[0] for row in rows)], (row[0] for row in rows), strict=False)
        )
        if (
            not rows
            or not ascending
            or (len(rows), rows[0][0], rows[-1][0]) != (block.count, block.first_tid, block.last_tid)
        ):
            report.damage("log", "a list of transactions is not the one that was stored", tid=block.first_tid)
            return
        before, count = rows[-1][0], count + len(rows)
    report.count("transactions", count)
    if count and before != entry.last_tid:
        report.damage("log", f"the list of transactions ends with {before}, the dump with {entry.last_tid}")


def truncate(
    revisions: Revisions, do: Callable[[str], None], query: Callable[[str], int], point: RestorePoint
) -> None:
    """Remove what is later than ``point``; raise Damage unless the rest is what the storage had then.

    ``do`` executes a statement, ``query`` returns the number that a query gives.
    """
    number = int(point.tid, 16)
    for statement in revisions.truncate:
        do(statement.replace("%s", str(number)))
    left = (
        (
            "transactions",
            f"SELECT count(*) FROM {revisions.transactions} t WHERE tid > 0",
            point.transactions,
        ),
        ("revisions", f"SELECT count(*) FROM {revisions.states} s", point.states),
        *((what, statement.replace("%s", str(number)), 0) for what, statement in revisions.check),
    )
    for what, statement, wanted in left:
        if (found := query(statement)) != wanted:
            raise Damage(
                f"after everything later than {point.tid} was removed there are {found} {what}, and "
                f"{wanted} were expected"
            )
