"""RelStorage in MySQL or MariaDB: a script of ``mariadb-dump``, of the same moment as our snapshot.

These servers cannot give a snapshot to another connection. So we lock the row that every commit of RelStorage
locks, from before our snapshot until that of the dump has begun. In that time nobody commits, so both
snapshots show the same.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from ...errors import SourceError, VaultError
from ...model.chain import dump_of
from ...model.manifest import DatabaseEntry, MysqlDump, Part
from ...model.source import Database
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Checkpointer, CheckReport, Sink
from ..sql.program import Program, program_of, version_of
from ..sql.snapshot import PART_RAW, StoredDump, advancing, store_part
from .mysql_login import Login, translate_errors
from .tables import BLOB_RECORDS, CLASS_NAME

FETCH: Final = 10_000
LOCK_TIMEOUT: Final = 30
COMPLETED: Final = b"-- Dump completed"
INSERT: Final = re.compile(rb"INSERT INTO `([^`]+)` VALUES ?")
TEXT: Final = re.compile(rb"'(?:[^'\\]|\\.)*'")
DEFINER: Final = re.compile(rb"(?:/\*!500\d\d )?DEFINER=`[^`]*`@`[^`]*`(?: ?\*/)?")
DUMP, CLIENT = ("mariadb-dump", "mysqldump"), ("mariadb", "mysql")


class MysqlRows:
    """The tables of RelStorage in one consistent snapshot; see ``Rows``."""

    transactions = "transaction"
    blob_records = BLOB_RECORDS.format(position=f"LOCATE(x'{CLASS_NAME}', state)")
    # a script cannot be loaded beside what is there and exchanged
    revisions = None

    def __init__(self, database: Database) -> None:
        self._login = Login(database)
        self._connection = self._login.connect()
        self._holding: Any = None
        try:
            self.snapshot()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections."""
        self._release()
        self._connection.close()

    @property
    def versions(self) -> dict[str, str]:
        """Return the versions of server and tool."""
        tool = version_of(program_of(DUMP, "mariadb-client"))
        return {
            "MySQL server": str(self.query("SELECT version()")[0][0]),
            "mariadb-dump": f"{tool[0]}.{tool[1]}" if tool else "",
        }

    def snapshot(self) -> None:
        """Take the snapshot again."""
        with translate_errors(), self._connection.cursor() as cursor:
            self._connection.rollback()
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    def has_table(self, name: str) -> bool:
        """Tell whether a table exists."""
        return bool(
            self.query(
                "SELECT 1 FROM information_schema.tables WHERE table_schema = database() AND table_name = %s",
                name,
            )
        )

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query in the snapshot."""
        with translate_errors(), self._connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall())

    def stream(self, statement: str, *parameters: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query in the snapshot, a few at a time."""
        from pymysql.cursors import SSCursor

        with translate_errors(), self._connection.cursor(SSCursor) as cursor:
            cursor.execute(statement, parameters or None)
            while rows := cursor.fetchmany(FETCH):
                yield from rows

    def release(self) -> None:
        """End the snapshot."""
        with translate_errors():
            self._connection.rollback()

    def query_latest(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query as of now."""
        with (
            contextlib.closing(self._login.connect()) as connection,
            translate_errors(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall())

    def align(self) -> bool:
        """Keep all sessions from committing, and take the snapshot again."""
        self._holding = self._login.connect()
        with translate_errors(), self._holding.cursor() as cursor:
            cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {LOCK_TIMEOUT}")
            cursor.execute("START TRANSACTION")
            cursor.execute("SELECT tid FROM commit_row_lock FOR UPDATE")
            cursor.fetchall()
        self.snapshot()
        return True

    def _release(self) -> None:
        holding, self._holding = self._holding, None
        if holding is not None:
            holding.close()

    def dump(
        self, sink: Sink, folder: str, workers: Workers, checkpointer: Checkpointer, progress: Progress
    ) -> StoredDump:
        """Run the tool, and let commits go on as soon as it writes; raise SourceError without an end."""
        end = ScriptEnd()
        command = [
            program_of(DUMP, "mariadb-client"),
            *self._login.arguments,
            "--single-transaction",
            "--quick",
            "--routines",
            "--triggers",
            "--hex-blob",
            "--no-tablespaces",
            "--skip-lock-tables",
            "--skip-dump-date",
            "--max-allowed-packet=1G",
            *self._of_mysql(),
            self._login.name,
        ]
        with Program(command, self._login.environment, _failed, tick=checkpointer.heartbeat) as dumping:
            jobs = self._jobs(dumping, sink, f"{folder}/database.sql", progress, end)
            parts = [part for stored in workers.in_order(jobs) for part in stored]
            dumping.finish()
            warnings = [f"mariadb-dump: {line}" for line in dumping.words().splitlines()[:20]]
        if COMPLETED not in end.bytes:
            raise SourceError(
                "the script of mariadb-dump does not end as it should",
                "see the log of the server, and run the command again",
            )
        return StoredDump(storage=MysqlDump, parts=parts, tables=self.tables(), warnings=warnings)

    def _of_mysql(self) -> list[str]:
        """Return the options that only the tool of MySQL itself has.

        Without this one it writes a state of replication that a restore must not set.
        """
        return [] if "mariadb" in program_of(DUMP, "mariadb-client") else ["--set-gtid-purged=OFF"]

    def _jobs(
        self, dumping: Program, sink: Sink, to: str, progress: Progress, end: ScriptEnd
    ) -> Iterator[Callable[[], list[Part]]]:
        for block in dumping.blocks(PART_RAW, self._release):
            end.add(block)
            progress.advance(len(block))
            yield lambda block=block: store_part(sink, to, block)  # type: ignore[misc]

    def tables(self) -> dict[str, int]:
        """Return how many rows each table has in the snapshot."""
        return counted(self.query)


class ScriptEnd:
    """The last 200 bytes of a script: its last line says whether it is complete."""

    def __init__(self) -> None:
        self.bytes = b""

    def add(self, block: memoryview) -> None:
        """Take the next block."""
        self.bytes = (self.bytes + bytes(block[-200:]))[-200:]


def check_script(entry: DatabaseEntry, sink: Sink, report: CheckReport, progress: Progress) -> None:
    """Read the script to its end and count the rows that it inserts; raise Damage when it cannot be read."""
    dump = entry.dump
    assert isinstance(dump, MysqlDump)
    found: dict[str, int] = {}
    last, table = b"", ""
    for line in script_lines(advancing(sink.read(dump_of(entry, sink)), progress)):
        last, values = line or last, line
        if match := INSERT.match(line):
            table, values = match[1].decode("utf-8", "replace"), line[match.end() :]
        if table:
            # MySQL writes all rows into one line, MariaDB each into its own
            values = TEXT.sub(b"", values)
            found[table] = found.get(table, 0) + values.count(b"),(") + values.startswith(b"(")
            table = "" if values.endswith(b";") else table
    if not last.startswith(COMPLETED):
        report.damage("dump", "the script has no end")
    for table, rows in sorted(dump.tables.items()):
        report.count("rows", found.get(table, 0))
        if found.get(table, 0) != rows:
            report.damage(
                "table",
                f"{table} has {found.get(table, 0)} rows in the script, {rows} in the snapshot that it "
                "was made of",
            )


def counted(query: Callable[[str], list[tuple[Any, ...]]]) -> dict[str, int]:
    """Return the number of rows of each table."""
    tables = query(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = database() AND table_type "
        "= 'BASE TABLE' ORDER BY table_name"
    )
    return {name: int(query(f"SELECT count(*) FROM `{name}`")[0][0]) for (name,) in tables}


def script_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines of a SQL script without their line ends."""
    rest = bytearray()
    for chunk in chunks:
        first, *whole = chunk.split(b"\n")
        rest += first
        if whole:
            yield bytes(rest)
            yield from whole[:-1]
            rest = bytearray(whole[-1])
    if rest:
        yield bytes(rest)


def _failed(text: str) -> VaultError:
    return SourceError(text, "check the rights of the user, and the log of the server")
