"""What the code for PostgreSQL has to know of the tables of a storage.

A backend hands over one record for a storage without history, and one for a storage with history.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from ...model.blob import BlobRef
from ..base import CheckReport
from ..sql.history import Revisions

# The table of all current objects, or of all revisions, with the columns ``zoid`` and ``tid``.
OBJECTS: Final = "object_state"
# The column with the OID of a large object in a table of chunks.
CHUNK: Final = "chunk"

# ``set``: one row for each object; a commit replaces it by one with a later TID. ``revisions``: rows that do
# not change until a pack removes them. ``history``: revisions that a commit moves here from ``object_state``,
# with their old TIDs, when it writes a later one there.
Kind = Literal["set", "revisions", "history"]


class Keyed(NamedTuple):
    """A table whose rows have a TID.

    ``key`` are the columns of its key. ``sums`` are the columns that are added up, so that a later run sees
    whether rows are gone. ``changed`` are the small columns that a pack changes.
    """

    name: str
    kind: Kind
    key: tuple[str, ...]
    sums: tuple[str, ...]
    changed: tuple[str, ...] = ()


class BlobRows(NamedTuple):
    """A table whose rows say which blobs are outside of the database.

    ``read`` gets the ``columns`` of a row of a dump, as text of COPY, and returns the blob if it is outside.
    In a row of a delta, a blob is outside when the column ``key`` is not NULL.
    """

    table: str
    columns: tuple[str, ...]
    key: str
    read: Callable[[CheckReport, list[bytes]], BlobRef | None]


@dataclass(frozen=True, kw_only=True)
class StorageTables:
    """The tables of one kind of storage.

    ``keyed`` tables are copied row by row, by TID. ``derived`` tables have what a pack found out; the next
    pack fills them again, so they are never copied. All other tables are copied whole.

    ``columns`` are the known columns of ``object_state``. Another package can add columns there, and change
    them without a TID, so an unknown column forbids deltas. Empty: all columns belong to the storage.

    ``chunks`` is the table whose column ``chunk`` names large objects, with ``chunk_num`` for their order in
    a blob. None where blobs are not large objects.
    ``blob_rows`` is None where the records of blobs are the only sign of a blob outside of the database.

    ``revisions`` says how the storage is truncated to a transaction. ``truncation_note`` is what the user has
    to know before that.
    """

    keyed: tuple[Keyed, ...]
    revisions: Revisions
    derived: tuple[str, ...] = ()
    columns: frozenset[str] = frozenset()
    chunks: str | None = None
    blob_rows: BlobRows | None = None
    truncation_note: str | None = None


TablesOf = Callable[[bool], StorageTables]
"""Returns the tables of a storage with or without history."""


def sum_of(column: str) -> str:
    """Return the sum of a column as SQL, with booleans as 0 and 1."""
    return f"coalesce(sum({column}::{'integer' if column in ('packed', 'is_empty') else 'bigint'}), 0)"
