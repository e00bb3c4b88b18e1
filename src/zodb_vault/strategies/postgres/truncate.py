"""Truncate a database in PostgreSQL that was just restored: leave what it had at one of its transactions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ...errors import TargetRefused
from ...model.restore import RestorePoint
from ..sql.history import truncate
from .connection import translate_errors
from .tables import CHUNK, StorageTables

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Each large object that is removed takes a lock until its transaction ends.
LARGE_OBJECTS: Final = 1000


def truncate_database(
    connection: Connection, tables: StorageTables, point: RestorePoint, heartbeat: Callable[[], None]
) -> None:
    """Remove what is later than a transaction, in one transaction except for large objects.

    Raise Damage when the rest is not what the database had then, TargetRefused.
    """
    if tables.chunks is not None:
        _unlink(connection, tables.chunks, int(point.tid, 16), heartbeat)
    with translate_errors(TargetRefused), connection.cursor() as cursor:

        def do(statement: str) -> None:
            cursor.execute(statement)
            heartbeat()

        def query(statement: str) -> int:
            cursor.execute(statement)
            return int(cursor.fetchall()[0][0])

        cursor.execute("BEGIN")
        try:
            truncate(tables.revisions, do, query, point)
            cursor.execute("COMMIT")
        except BaseException:
            cursor.execute("ROLLBACK")
            raise


def _unlink(connection: Connection, table: str, tid: int, heartbeat: Callable[[], None]) -> None:
    """Remove the large objects that only later revisions of blobs have.

    The trigger of RelStorage does the same where it exists.
    """
    named = f"SELECT 1 FROM {table} b WHERE b.{CHUNK} = m.oid"
    with translate_errors(TargetRefused), connection.cursor() as cursor:
        # the trigger, where there is one, looks for other rows of the same large object, once for each row
        cursor.execute(f"CREATE INDEX zodb_vault_cut ON {table} ({CHUNK})")
        while True:
            some = f"SELECT ctid FROM {table} WHERE tid > {tid} LIMIT {LARGE_OBJECTS}"
            cursor.execute(f"DELETE FROM {table} WHERE ctid = ANY(ARRAY({some})) RETURNING {CHUNK}")
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
