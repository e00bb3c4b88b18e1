"""A PostgreSQL database as one exported snapshot shows it.

A transaction on one connection exports its snapshot. ``pg_dump`` uses the same one, so what is queried here
and what is dumped are of the same moment. This module does not know what the tables mean.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ...model.blob import BlobRef, MissingBlob
from ..sql.program import version_of
from ..sql.snapshot import PIECE
from .connection import APPLICATION, connect, translate_errors
from .names import TableName
from .replica import require_fresh
from .versions import PG_DUMP, SERVER, major_of_server, pg_dump_for

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

LOCK_TIMEOUT_MS: Final = 30_000
STATEMENT_TIMEOUT_MS: Final = 6 * 3_600_000
FETCH: Final = 10_000
LARGE_OBJECT: Final = re.compile(rb"lo_create\('(\d+)'\)")
NO_TID: Final = bytes(8)
TABLES: Final = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't'
AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
AND NOT EXISTS (
  SELECT 1 FROM pg_depend d
  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
)
ORDER BY 1, 2
"""


class Postgres:
    """One connection that holds a snapshot.

    ``query`` and ``stream`` answer from the snapshot, ``query_latest`` from the database as it is now.
    """

    def __init__(self, dsn: str, replica: str = "", lag: float = 0.0) -> None:
        self.dsn, self._primary = replica or dsn, dsn
        self._now: Connection | None = None
        self._connection = connect(self.dsn)
        self.snapshot_name = ""
        try:
            if replica:
                require_fresh(self.query, self.dsn, lag)
                self.release()
            with translate_errors():
                self._connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            self.snapshot()
            self.version = int(self.query("SHOW server_version_num")[0][0])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections."""
        for connection in (self._connection, self._now):
            if connection is not None:
                connection.close()

    @property
    def versions(self) -> dict[str, str]:
        """Return the versions of server and tool."""
        version = self.query("SHOW server_version")[0][0].split(" ")[0]
        tool = version_of(pg_dump_for(major_of_server(self.version)))
        return {SERVER: version, PG_DUMP: f"{tool[0]}.{tool[1]}" if tool else ""}

    def snapshot(self) -> None:
        """Take the snapshot again, as of now."""
        with translate_errors():
            self._connection.rollback()
            with self._connection.cursor() as cursor:
                # the role may have shorter limits, and a dump of a large database takes hours
                cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
                cursor.execute(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}")
                cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                cursor.execute("SELECT pg_export_snapshot()")
                self.snapshot_name = cursor.fetchall()[0][0]

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query in the snapshot."""
        with translate_errors(), self._connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall())

    def stream(self, statement: str, *parameters: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query in the snapshot, a few at a time."""
        with translate_errors(), self._connection.cursor(name=APPLICATION.replace("-", "_")) as cursor:
            cursor.itersize = FETCH
            cursor.execute(statement, parameters or None)
            while rows := cursor.fetchmany(FETCH):
                yield from rows

    def has_table(self, name: str) -> bool:
        """Tell whether a table exists in the snapshot."""
        return self.query("SELECT to_regclass(%s)", name)[0][0] is not None

    def align(self) -> bool:
        """Do nothing: a dump is made of this very snapshot."""
        return False

    def release(self) -> None:
        """End the transaction, and with it the snapshot and its locks."""
        with translate_errors():
            self._connection.rollback()

    def query_latest(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query as of now, outside of the snapshot."""
        if self._now is None:
            # the primary: a replica may still have a blob that is gone there
            self._now = connect(self._primary)
            self._now.autocommit = True
        with translate_errors(), self._now.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall())

    def large_objects_named(self) -> tuple[int, list[MissingBlob]]:
        """Return how many large objects are blobs, and the blobs whose large object is lost."""
        return 0, []

    def tables(self) -> dict[str, int]:
        """Return how many rows each table has in the snapshot."""
        counts = {}
        for table in tables_of(self.query):
            counts[str(table)] = int(self.query(f"SELECT count(*) FROM ONLY {table.quoted}")[0][0])
        return counts

    def sequences(self) -> dict[str, int]:
        """Return the last value of each sequence; a later dump has this value or a higher one."""
        rows = self.query("SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2")
        return {str(TableName(schema, name)): int(value) for schema, name, value in rows if value is not None}

    def copy_out(self, query: str, file: Any) -> int:
        """Write the output of a COPY in the snapshot to a file; return the number of rows."""
        with translate_errors(), self._connection.cursor() as cursor:
            # so that any server reads the text as the same values, and equal tables give equal bytes
            cursor.execute(
                "SET LOCAL datestyle = ISO; SET LOCAL intervalstyle = postgres; SET LOCAL "
                "extra_float_digits = 1"
            )
            cursor.execute("SET LOCAL synchronize_seqscans = off")
            cursor.copy_expert(query, file)
            return int(cursor.rowcount)

    def large_object(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Yield the pieces of a large object of the snapshot, each with its position.

        An empty large object has one empty piece.
        """
        with translate_errors(), contextlib.closing(self._connection.lobject(number, "rb")) as content:
            position, data = 0, content.read(PIECE)
            while data or position == 0:
                yield position, data
                position += len(data) or 1
                data = content.read(PIECE) if data else b""


def tables_of(query: Callable[[str], list[tuple[Any, ...]]]) -> list[TableName]:
    """Return all tables of a database that are neither temporary nor part of an extension, in order."""
    return [TableName(schema, name) for schema, name in query(TABLES)]


def large_object(oid: int) -> BlobRef:
    """Return a large object in the form that a BlobSet can hold: its OID, and no TID."""
    return BlobRef(oid.to_bytes(8), NO_TID, True)
