"""A PostgreSQL database as one exported snapshot shows it, and a dump of exactly that.

What its tables mean is no business of this module.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ...blobs.refs import BlobSet
from ...errors import SourceError, VaultError
from ...model.blob import BlobRef, MissingBlob
from ...model.manifest import Part
from ...runtime.progress import Progress
from ...runtime.workers import Workers, signals_blocked
from ..base import Checkpointer, Sink
from ..sql.program import Program, version_of
from ..sql.snapshot import PART_RAW, PIECE, store_part
from .connection import APPLICATION, WORDS, connect, secrets_of, shown_dsn, translate_errors, where
from .names import TableName
from .versions import PG_DUMP, SERVER, major_of_program, major_of_server, pg_dump_for, pg_restore_for

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

LOCK_TIMEOUT_MS: Final = 30_000
STATEMENT_TIMEOUT_MS: Final = 6 * 3_600_000
FETCH: Final = 10_000
LARGE_OBJECT: Final = re.compile(rb"lo_create\('(\d+)'\)")
NO_TID: Final = bytes(8)
TABLES: Final = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
# A replica that has replayed all it received does not lag, however long no transaction was committed.
LAG: Final = """
SELECT CASE WHEN NOT pg_is_in_recovery() THEN 0 WHEN NOT EXISTS (SELECT 1 FROM pg_stat_wal_receiver) THEN
  extract(epoch FROM now() - coalesce(pg_last_xact_replay_timestamp(), 'epoch'))::float8
WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float8 END
"""


class Postgres:
    """One connection that holds a snapshot.

    ``query`` answers from it, ``dump`` is taken of it, ``query_latest`` looks at what is there now.
    """

    def __init__(self, dsn: str, replica: str = "", lag: float = 0.0) -> None:
        self.dsn, self._primary = replica or dsn, dsn
        self._now: Connection | None = None
        self._connection = connect(self.dsn)
        self.snapshot_name = ""
        try:
            if replica:
                self._require_fresh(lag)
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

    def _require_fresh(self, limit: float) -> None:
        """Raise SourceError when a replica lags too much.

        A backup of it would leave out what was committed since.
        """
        ((lag,),) = self.query(LAG)
        if lag is not None and lag > limit:
            raise SourceError(
                f"the replica {where(self.dsn)} lags by {lag:.0f} seconds, {limit:.0f} are allowed",
                "see why it does not follow, or back up the primary: without dsn_backup",
            )
        self.release()

    @property
    def versions(self) -> dict[str, str]:
        """Return the versions of server and tool."""
        version = self.query("SHOW server_version")[0][0].split(" ")[0]
        tool = version_of(self.pg_dump())
        return {SERVER: version, PG_DUMP: f"{tool[0]}.{tool[1]}" if tool else ""}

    def pg_dump(self) -> str:
        """Return the pg_dump to use.

        Raise ConfigurationError when there is none that is as new as the server.
        """
        return pg_dump_for(major_of_server(self.version))

    def snapshot(self) -> None:
        """Take the snapshot again, as of now."""
        with translate_errors():
            self._connection.rollback()
            with self._connection.cursor() as cursor:
                # the role may have other limits; a snapshot that nobody may hold for hours is of no use
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
        """Give the snapshot and its locks up."""
        with translate_errors():
            self._connection.rollback()

    def query_latest(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query as of now, outside of the snapshot."""
        if self._now is None:
            # not a replica: what it still has may be gone already
            self._now = connect(self._primary)
            self._now.autocommit = True
        with translate_errors(), self._now.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall())

    def large_objects_named(self) -> tuple[int, list[MissingBlob]]:
        """Return how many large objects are blobs, and the blobs whose large objects the database has lost."""
        return 0, []

    def tables(self) -> dict[str, int]:
        """Return how many rows each table has in the snapshot."""
        counts = {}
        for table in tables_of(self.query):
            counts[str(table)] = int(self.query(f"SELECT count(*) FROM ONLY {table.quoted}")[0][0])
        return counts

    def sequences(self) -> dict[str, int]:
        """Return the last value of each sequence; a dump that is made later has this one or a higher one."""
        rows = self.query("SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2")
        return {str(TableName(schema, name)): int(value) for schema, name, value in rows if value is not None}

    def copy_out(self, query: str, file: Any) -> int:
        """Write what a COPY of the snapshot gives into a file; return the number of rows."""
        with translate_errors(), self._connection.cursor() as cursor:
            # as text that is read back the same under any settings, in the order in which rows stand
            cursor.execute(
                "SET LOCAL datestyle = ISO; SET LOCAL intervalstyle = postgres; SET LOCAL "
                "extra_float_digits = 1"
            )
            cursor.execute("SET LOCAL synchronize_seqscans = off")
            cursor.copy_expert(query, file)
            return int(cursor.rowcount)

    def large_object(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Yield the pieces of a large object of the snapshot with their positions.

        Of an empty one a piece without a byte.
        """
        with translate_errors(), contextlib.closing(self._connection.lobject(number, "rb")) as content:
            position, data = 0, content.read(PIECE)
            while data or position == 0:
                yield position, data
                position += len(data) or 1
                data = content.read(PIECE) if data else b""

    def definitions(self) -> Iterator[bytes]:
        """Yield the lines of a script that defines everything which the snapshot holds, without content."""
        command = [
            self.pg_dump(),
            "--schema-only",
            "--no-owner",
            "--no-acl",
            "--no-password",
            f"--snapshot={self.snapshot_name}",
            f"--lock-wait-timeout={LOCK_TIMEOUT_MS}",
            f"--dbname={shown_dsn(self.dsn)}",
        ]
        with Program(command, secrets_of(self.dsn), _failed) as program:
            yield from program.lines()
            program.finish()

    def dump_into(
        self, sink: Sink, to: str, workers: Workers, checkpointer: Checkpointer, progress: Progress
    ) -> Dumped:
        """Dump what the snapshot shows into objects, while this connection counts the rows of its tables.

        Raise SourceError when ``pg_dump`` fails, or when ``pg_restore`` cannot read the table of contents.
        """
        program = self.pg_dump()
        command = [
            program,
            "--format=custom",
            "--compress=0",
            "--large-objects" if major_of_program(program) >= 16 else "--blobs",
            "--no-password",
            f"--snapshot={self.snapshot_name}",
            f"--lock-wait-timeout={LOCK_TIMEOUT_MS}",
            f"--dbname={shown_dsn(self.dsn)}",
        ]
        dumping = Program(command, secrets_of(self.dsn), _failed, tick=checkpointer.heartbeat)
        with _aside(self.tables) as tables, dumping, Contents(major_of_program(program)) as contents:
            parts = [
                part
                for stored in workers.in_order(_jobs(dumping, contents, sink, to, progress))
                for part in stored
            ]
            dumping.finish()
            contents.finish()
            return Dumped(
                parts=parts, tables=tables(), large_objects=contents.large_objects, words=dumping.words()
            )


def tables_of(query: Callable[[str], list[tuple[Any, ...]]]) -> list[TableName]:
    """Return all tables of a database that are neither temporary nor part of an extension, in order."""
    return [TableName(schema, name) for schema, name in query(TABLES)]


class Dumped(msgspec.Struct):
    """A dump that is stored.

    Its parts, the rows of each table in its snapshot, the large objects it has, and what the tool warned of.
    """

    parts: list[Part]
    tables: dict[str, int]
    large_objects: BlobSet
    words: str


class Contents:
    """Reads the beginning of an archive while it is made, with ``pg_restore``.

    A table of contents that cannot be read is no backup.

    The definitions of its entries name the large objects; since PostgreSQL 17 one entry has many.
    """

    def __init__(self, made_by: int) -> None:
        self.large_objects = BlobSet()
        self._wants_more = True
        command = [pg_restore_for(made_by), "--section=pre-data", "--file=-"]
        self._program = Program(command, {}, _failed, fed=True)
        self._reader = threading.Thread(target=self._read, name="vault-contents")

    def __enter__(self) -> Contents:
        with signals_blocked():
            self._reader.start()
        return self

    def __exit__(self, *arguments: Any) -> None:
        self._program.__exit__(*arguments)
        self._reader.join()

    def feed(self, block: memoryview) -> None:
        """Take the next block of the archive."""
        self._wants_more = self._wants_more and self._program.feed(block)

    def finish(self) -> None:
        """Wait for the end; raise SourceError when the table of contents cannot be read."""
        self._program.close_input()
        self._reader.join()
        self._program.finish()

    def _read(self) -> None:
        found: list[BlobRef] = []
        with contextlib.suppress(
            ValueError, OSError
        ):  # the other end is closed when something else has failed
            for line in self._program.lines():
                found += [large_object(int(oid)) for oid in LARGE_OBJECT.findall(line)]
                if len(found) >= FETCH:
                    self.large_objects.add(found)
                    found = []
        self.large_objects.add(found)


def large_object(oid: int) -> BlobRef:
    """Return a large object as a set of blobs can hold it."""
    return BlobRef(oid.to_bytes(8), NO_TID, True)


def _jobs(
    dumping: Program, contents: Contents, sink: Sink, to: str, progress: Progress
) -> Iterator[Callable[[], list[Part]]]:
    for block in dumping.blocks(PART_RAW):
        contents.feed(block)
        progress.advance(len(block))
        yield lambda block=block: store_part(sink, to, block)  # type: ignore[misc]


@contextlib.contextmanager
def _aside(work: Callable[[], dict[str, int]]) -> Iterator[Callable[[], dict[str, int]]]:
    """Do something in a thread of its own; give what waits for its result."""
    with ThreadPoolExecutor(1, thread_name_prefix="vault-count") as pool:
        with signals_blocked():
            future: Future[dict[str, int]] = pool.submit(work)
        yield future.result


def _failed(text: str) -> VaultError:
    hint = next((hint for word, hint in WORDS.items() if word in text), "")
    return SourceError(text, hint)


# logging in
