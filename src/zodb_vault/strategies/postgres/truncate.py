"""A database in PostgreSQL that was just restored, cut to one of its transactions before anybody uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ...errors import TargetRefused
from ...model.manifest import DatabaseEntry
from ..base import RestorePoint
from ..sql.history import PGJSONB, Revisions, cut, relstorage
from .connection import translate_errors

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Each large object that is removed takes a lock until its transaction ends.
LARGE_OBJECTS: Final = 1000
REVISIONS: Final = {"relstorage": relstorage(""), "pgjsonb": PGJSONB}


def truncate_database(
    connection: Connection, entry: DatabaseEntry, point: RestorePoint, beat: Callable[[], None]
) -> None:
    """Take away what is later than a transaction, all at once but for large objects; raise Damage when the rest is not what was there then."""
    revisions = revisions_of(entry)
    if entry.backend == "relstorage":
        _unlink(connection, int(point.tid, 16), beat)
    with translate_errors(TargetRefused), connection.cursor() as cursor:

        def do(statement: str) -> None:
            cursor.execute(statement)
            beat()

        def ask(query: str) -> int:
            cursor.execute(query)
            return int(cursor.fetchall()[0][0])

        cursor.execute("BEGIN")
        try:
            cut(revisions, do, ask, point)
            cursor.execute("COMMIT")
        except BaseException:
            cursor.execute("ROLLBACK")
            raise


def revisions_of(entry: DatabaseEntry) -> Revisions:
    """Return how a database keeps revisions; raise TargetRefused for one that this version knows nothing of."""
    found = REVISIONS.get(entry.backend)
    if found is None:
        raise TargetRefused(
            f"a dump of {entry.backend} can be restored as a whole only",
            "leave out --tid, --before-tid and --at",
        )
    return found


def _unlink(connection: Connection, tid: int, beat: Callable[[], None]) -> None:
    """Remove the large objects that only later revisions of blobs have; the trigger of RelStorage does that where it is there."""
    named = "SELECT 1 FROM blob_chunk b WHERE b.chunk = m.oid"
    with translate_errors(TargetRefused), connection.cursor() as cursor:
        # the trigger looks for other rows of the same large object, once for each
        cursor.execute("CREATE INDEX zodb_vault_cut ON blob_chunk (chunk)")
        while True:
            some = f"SELECT ctid FROM blob_chunk WHERE tid > {tid} LIMIT {LARGE_OBJECTS}"
            cursor.execute(f"DELETE FROM blob_chunk WHERE ctid = ANY(ARRAY({some})) RETURNING chunk")
            chunks = [row[0] for row in cursor.fetchall()]
            if not chunks:
                break
            left = f"SELECT oid FROM pg_largeobject_metadata m WHERE oid = ANY(%s::oid[]) AND NOT EXISTS ({named})"
            cursor.execute(f"SELECT lo_unlink(oid) FROM ({left}) l", (chunks,))
            beat()
        cursor.execute("DROP INDEX zodb_vault_cut")
