"""Some objects with their TIDs, stored with each dump, so that the next run recognises the database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from ...model import canonical
from ...model.chain import Documents
from .snapshot import Rows, hex_of

# The number of newest objects that are stored, and the number of oldest ones, which seldom change.
MARKS: Final = 128


class MarkRows(msgspec.Struct):
    """The document of remembered objects: OID, TID."""

    rows: list[tuple[str, str]]


class Comparison(NamedTuple):
    """How remembered objects are now; the fields are those of ``DumpFacts``."""

    common_tid: str | None = None
    backwards: bool = False
    superseded: bool = False


def store_marks(rows: Rows, current_table: str, documents: Documents) -> str:
    """Store some objects of the snapshot with their TIDs; return the name of the document."""
    found: dict[str, str] = {}
    for order in ("DESC", "ASC"):
        query = f"SELECT zoid, tid FROM {current_table} ORDER BY tid {order}, zoid LIMIT {MARKS}"
        found |= {hex_of(zoid): hex_of(tid) for zoid, tid in rows.query(query)}
    lines = [msgspec.json.encode(row) for row in sorted(found.items())]
    return documents.put_document(canonical.rows("marks", lines)).meta


def compare_marks(
    rows: Rows, current_table: str, documents: Documents, marks: str | None, *, history: bool
) -> Comparison:
    """Compare the objects that a backup remembers with the snapshot.

    Raise Damage when their document cannot be read.
    """
    if marks is None:
        return Comparison()
    before = dict(canonical.decode(documents.document(marks), MarkRows, f"the list {marks}").rows)
    if not before:
        return Comparison(superseded=True)
    now = dict(_pairs(rows, f"SELECT zoid, tid FROM {current_table} WHERE zoid IN ({{}})", before))
    unchanged = {oid for oid, tid in now.items() if before[oid] == tid}
    if history:
        # a revision that is no longer the current one is nevertheless there, unless a pack removed it
        query = "SELECT zoid, tid FROM object_state WHERE zoid IN ({}) AND tid IN ({})"
        there = _pairs(rows, query, before, set(before.values()))
        unchanged |= {oid for oid, tid in there if before[oid] == tid}
    common = max((before[oid] for oid in unchanged), default=None)
    backwards = any(tid < before[oid] for oid, tid in now.items())
    # Without history, every object of a small database may have changed: that is no other database. A new and
    # almost empty database has the first OIDs as well, but not most of the others.
    most_exist = 2 * len(now) >= len(before)
    superseded = not history and most_exist and common is None and len(before) < 2 * MARKS
    return Comparison(common, backwards, superseded and not backwards)


def _pairs(rows: Rows, query: str, *values: Iterable[str]) -> Iterator[tuple[str, str]]:
    numbers = [[int(text, 16) for text in some] for some in values]
    places = (", ".join(["%s"] * len(some)) for some in numbers)
    found = rows.query(query.format(*places), *(number for some in numbers for number in some))
    return ((hex_of(zoid), hex_of(tid)) for zoid, tid in found)
