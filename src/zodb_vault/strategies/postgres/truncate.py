"""Truncate a database in PostgreSQL that was just restored: leave what it had at one of its transactions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from ...errors import TargetRefused
from ...model.restore import RestorePoint
from ..sql.history import Revisions, truncate
from .connection import translate_errors

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Each large object that is removed takes a lock until its transaction ends.
LARGE_OBJECTS: Final = 1000


class Truncation(NamedTuple):
    """What truncating means for one kind of storage.

    ``revisions`` says how it keeps them. ``large_objects``: its blobs are large objects that ``blob_chunk``
    names.

    ``note`` is what the user has to know before.
    """

    revisions: Revisions
    large_objects: bool
    note: str | None = None


def truncate_database(
    connection: Connection, truncation: Truncation, point: RestorePoint, heartbeat: Callable[[], None]
) -> None:
    """Remove what is later than a transaction, in one transaction except for large objects.

    Raise Damage when the rest is not what the database had then, TargetRefused.
    """
    if truncation.large_objects:
        _unlink(connection, int(point.tid, 16), heartbeat)
    with translate_errors(TargetRefused), connection.cursor() as cursor:

        def do(statement: str) -> None:
            cursor.execute(statement)
            heartbeat()

        def query(statement: str) -> int:
            cursor.execute(statement)
            return int(cursor.fetchall()[0][0])

        cursor.execute("BEGIN")
        try:
            truncate(truncation.revisions, do, query, point)
            cursor.execute("COMMIT")
        except BaseException:
            cursor.execute("ROLLBACK")
            raise


def _unlink(connection: Connection, tid: int, heartbeat: Callable[[], None]) -> None:
    """Remove the large objects that only later revisions of blobs have.

    The trigger of RelStorage does the same where it exists.
    """
    named = "SELECT 1 FROM blob_chunk b WHERE b.chunk = m.oid"
    with translate_errors(TargetRefused), connection.cursor() as cursor:
        # the trigger, where there is one, looks for other rows of the same large object, once for each row
        cursor.execute("CREATE INDEX zodb_vault_cut ON blob_chunk (chunk)")
        while True:
            some = f"SELECT ctid FROM blob_chunk WHERE tid > {tid} LIMIT {LARGE_OBJECTS}"
            cursor.execute(f"DELETE FROM blob_chunk WHERE ctid = ANY(ARRAY({some})) RETURNING chunk")
            chunks = [row[0] for row in cursor.fetchall()]
            if not chunks:
                break
            left = (
                "SELECT oid FROM pg_largeobject_metadata m "
                f"WHERE oid = ANY(%s::oid[]) AND NOT EXISTS ({named})"
            )
            cursor.execute(f"SELECT lo_unlink(oid) FROM ({left}) l", (chunks,))
            heartbeat()
        cursor.execute("DROP INDEX zodb_vault_cut")
