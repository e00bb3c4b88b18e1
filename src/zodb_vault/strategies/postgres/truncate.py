"""Truncate a restored database in PostgreSQL to the state that it had at one of its transactions."""

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

# Large objects are removed in groups, each in a transaction of its own: each one takes a lock until its
# transaction ends, and a server has room for few locks (max_locks_per_transaction is 64 by default).
LARGE_OBJECTS: Final = 1000


def truncate_database(
    connection: Connection, tables: StorageTables, point: RestorePoint, heartbeat: Callable[[], None]
) -> None:
    """Remove everything that is later than ``point``, in one transaction except for large objects.

    That is safe because the database is new, and nothing uses it yet. Raise Damage when the rest is not what
    the database had at ``point``, and TargetRefused when the server refuses it.
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
    """Remove the later rows of ``table``, and the large objects that no other row names.

    The trigger of RelStorage does the same where it exists.
    """
    named = f"SELECT 1 FROM {table} b WHERE b.{CHUNK} = m.oid"
    with translate_errors(TargetRefused), connection.cursor() as cursor:
        # without this index the trigger reads the whole table for each row that is deleted
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
