"""RelStorage in MySQL or MariaDB: a script of ``mariadb-dump``, of the same moment as what is read here.

These servers cannot lend a snapshot to another connection. So the row that every commit of RelStorage locks is held from before our snapshot
until that of the dump has begun: for a moment nobody commits, and both see the same.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..errors import ConfigurationError, Damage, InUse, SourceError, TargetRefused, VaultError
from ..model.chain import dump_of
from ..model.manifest import DatabaseEntry, MysqlDump, Part
from ..model.source import Database
from .base import Keeper, Point, Progress, Seen, Sink, Verdict, Workers
from .postgres import PART_RAW, store_part
from .programs import Program, program_of, version_of
from .relstorage import BLOB_RECORDS, Dumped
from .relstorage_postgres import advancing

FETCH: Final = 10_000
LOCK_TIMEOUT: Final = 30
CONNECT_TIMEOUT: Final = 30
COMPLETED: Final = b"-- Dump completed"
INSERT: Final = re.compile(rb"INSERT INTO `([^`]+)` VALUES ?")
TEXT: Final = re.compile(rb"'(?:[^'\\]|\\.)*'")
DEFINER: Final = re.compile(rb"(?:/\*!500\d\d )?DEFINER=`[^`]*`@`[^`]*`(?: ?\*/)?")
DUMP, CLIENT = ("mariadb-dump", "mysqldump"), ("mariadb", "mysql")


class MysqlRows:
    """The tables of RelStorage in one consistent snapshot; see ``Rows``."""

    transactions = "transaction"
    blob_records = BLOB_RECORDS.format(position=f"LOCATE(x'{b'ZODB.blob'.hex()}', state)")
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
        return {"MySQL server": str(self.ask("SELECT version()")[0][0]), "mariadb-dump": f"{tool[0]}.{tool[1]}" if tool else ""}

    def snapshot(self) -> None:
        """Take the snapshot again."""
        with translated(), self._connection.cursor() as cursor:
            self._connection.rollback()
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    def has_table(self, name: str) -> bool:
        """Tell whether a table exists."""
        return bool(self.ask("SELECT 1 FROM information_schema.tables WHERE table_schema = database() AND table_name = %s", name))

    def ask(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query in the snapshot."""
        with translated(), self._connection.cursor() as cursor:
            cursor.execute(query, parameters or None)
            return list(cursor.fetchall())

    def stream(self, query: str, *parameters: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query in the snapshot, a few at a time."""
        from pymysql.cursors import SSCursor

        with translated(), self._connection.cursor(SSCursor) as cursor:
            cursor.execute(query, parameters or None)
            while rows := cursor.fetchmany(FETCH):
                yield from rows

    def let_go(self) -> None:
        """Give the snapshot up."""
        with translated():
            self._connection.rollback()

    def ask_now(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query as of now."""
        with contextlib.closing(self._login.connect()) as connection, translated(), connection.cursor() as cursor:
            cursor.execute(query, parameters or None)
            return list(cursor.fetchall())

    def hold(self) -> bool:
        """Let nobody commit, and take the snapshot again."""
        self._holding = self._login.connect()
        with translated(), self._holding.cursor() as cursor:
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

    def dump(self, sink: Sink, folder: str, workers: Workers, keeper: Keeper, progress: Progress) -> Dumped:
        """Run the tool, and let commits go on as soon as it has begun; raise SourceError when the script has no end."""
        tail = Tail()
        command = [
            program_of(DUMP, "mariadb-client"), *self._login.arguments, "--single-transaction", "--quick", "--routines", "--triggers", "--hex-blob",
            "--no-tablespaces", "--skip-lock-tables", "--skip-dump-date", "--max-allowed-packet=1G", *self._of_mysql(), self._login.name,
        ]  # fmt: skip
        with Program(command, self._login.environment, _failed, tick=keeper.beat) as dumping:
            jobs = self._jobs(dumping, sink, f"{folder}/database.sql", progress, tail)
            parts = [part for stored in workers.in_order(jobs) for part in stored]
            dumping.finish()
            warnings = [f"mariadb-dump: {line}" for line in dumping.words().splitlines()[:20]]
        if COMPLETED not in tail.bytes:
            raise SourceError("the script of mariadb-dump does not end as it should", "see the log of the server, and run the command again")
        return Dumped(storage=MysqlDump, parts=parts, tables=self.tables(), warnings=warnings)

    def _of_mysql(self) -> list[str]:
        """Return what only the tool of MySQL itself knows: it would write a state of replication that no restore wants."""
        return [] if "mariadb" in program_of(DUMP, "mariadb-client") else ["--set-gtid-purged=OFF"]

    def _jobs(self, dumping: Program, sink: Sink, to: str, progress: Progress, tail: Tail) -> Iterator[Callable[[], list[Part]]]:
        for block in dumping.blocks(PART_RAW, self._release):
            tail.add(block)
            progress.advance(len(block))
            yield lambda block=block: store_part(sink, to, block)  # type: ignore[misc]

    def tables(self) -> dict[str, int]:
        """Return how many rows each table has in the snapshot."""
        return _counted(self.ask)


class Tail:
    """The last bytes of a stream."""

    def __init__(self) -> None:
        self.bytes = b""

    def add(self, block: memoryview) -> None:
        """Take the next block."""
        self.bytes = (self.bytes + bytes(block[-200:]))[-200:]


class Login:
    """How to log in to the database of a storage section, ourselves and with a program."""

    def __init__(self, database: Database) -> None:
        def option(key: str) -> str:
            return database.option(f"mysql.{key}")

        self.name = option("db")
        self._given = {key: option(key) for key in ("host", "user", "port", "unix_socket", "read_default_file") if option(key)}
        self._password = option("passwd")
        if not self.name:
            raise ConfigurationError([f"<mysql> of {database.name} says no db"])

    def connect(self) -> Any:
        """Log in; raise SourceError, or ConfigurationError when PyMySQL is not installed."""
        try:
            import pymysql
        except ImportError:
            raise ConfigurationError(["PyMySQL is not installed"], "pip install PyMySQL") from None
        known: dict[str, Any] = {key: value for key, value in self._given.items() if key != "port"}
        if "port" in self._given:
            known["port"] = int(self._given["port"])
        if not os.path.exists(known.get("unix_socket", "/")):
            # PyMySQL would leave its end of it open
            raise SourceError(f"{self.where} does not answer: there is no such socket", "start the server, or correct unix_socket")
        with translated():
            return pymysql.connect(database=self.name, password=self._password, connect_timeout=CONNECT_TIMEOUT, charset="utf8mb4", **known)

    @property
    def arguments(self) -> list[str]:
        """Return the arguments of a program; no secret is in them."""
        names = {"read_default_file": "defaults-file", "unix_socket": "socket"}
        given = sorted(self._given.items(), key=lambda one: one[0] != "read_default_file")  # which has to come first
        return [f"--{names.get(key, key)}={value}" for key, value in given] + ["--default-character-set=utf8mb4"]

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment that gives a program the password."""
        return {"MYSQL_PWD": self._password} if self._password else {}

    @property
    def where(self) -> str:
        """Return which database it is."""
        return f"mysql://{self._given.get('unix_socket') or self._given.get('host', 'localhost')}:{self._given.get('port', '3306')}/{self.name}"


def location(database: Database) -> str:
    """Return which database it is."""
    return Login(database).where


def check_script(entry: DatabaseEntry, sink: Sink, verdict: Verdict, progress: Progress) -> None:
    """Read the script to its end and count the rows that it inserts; raise Damage when it cannot be read."""
    dump = entry.dump
    assert isinstance(dump, MysqlDump)
    found: dict[str, int] = {}
    last, table = b"", ""
    for line in _lines(advancing(sink.read(dump_of(entry, sink)), progress)):
        last, values = line or last, line
        if match := INSERT.match(line):
            table, values = match[1].decode("utf-8", "replace"), line[match.end() :]
        if table:
            # MySQL writes all rows into one line, MariaDB each into its own
            values = TEXT.sub(b"", values)
            found[table] = found.get(table, 0) + values.count(b"),(") + values.startswith(b"(")
            table = "" if values.endswith(b";") else table
    if not last.startswith(COMPLETED):
        verdict.damage("dump", "the script has no end")
    for table, rows in sorted(dump.tables.items()):
        verdict.count("rows", found.get(table, 0))
        if found.get(table, 0) != rows:
            verdict.damage("table", f"{table} has {found.get(table, 0)} rows in the script, {rows} in the snapshot that it was made of")


class MysqlDestination:
    """A database that a script is to be loaded into; see ``Destination``."""

    def __init__(self, database: Database) -> None:
        self._login = Login(database)
        self._connection = self._login.connect()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with translated(TargetRefused), self._connection.cursor() as cursor:
            cursor.execute(query, parameters or None)
            return list(cursor.fetchall())

    def look(self, entry: DatabaseEntry, *, replace: bool, point: Point | None = None) -> Seen:
        """Return what is there; raise InUse while somebody has it open, TargetRefused when it is not empty."""
        if not isinstance(entry.dump, MysqlDump):
            raise TargetRefused(f"the backup of {entry.name} is no script of MySQL", "restore it with --output DIR")
        others = self._ask("SELECT user, host, command FROM information_schema.processlist WHERE db = database() AND id <> connection_id()")
        if others:
            named = "; ".join(f"{user} from {host or 'a local socket'}" for user, host, _command in others[:10])
            in_use = f"the database {self._login.where} is in use by {len(others)} sessions: {named}"
            raise InUse(in_use, "stop every process of the application first")
        if self._tables():
            more = "; MySQL cannot exchange databases" if replace else ""
            instead = f"restore into an empty one, and name it in zope.conf{more}"
            raise TargetRefused(f"the database {self._login.where} is not empty", instead)
        return Seen(where=self._login.where, empty=True, way="into the empty database")

    def _tables(self) -> list[str]:
        return [row[0] for row in self._ask("SELECT table_name FROM information_schema.tables WHERE table_schema = database()")]

    def load(
        self, entry: DatabaseEntry, sink: Sink, seen: Seen, progress: Progress, beat: Callable[[], None], point: Point | None = None
    ) -> list[str]:  # fmt: skip
        """Load the script; whatever fails, the database is empty again then. Raise Damage, TargetRefused."""
        dump = entry.dump
        assert isinstance(dump, MysqlDump)
        progress.begin("storage", dump.size)
        try:
            self._run(entry, sink, progress, beat)
            found = _counted(self._ask)
            for table, rows in dump.tables.items():
                if found.get(table) != rows:
                    raise Damage(f"the restored table {table} has {found.get(table)} rows, {rows} were dumped")
        except BaseException:
            self._empty()
            raise
        return []

    def _run(self, entry: DatabaseEntry, sink: Sink, progress: Progress, beat: Callable[[], None]) -> None:
        command = [program_of(CLIENT, "mariadb-client"), *self._login.arguments, "--max-allowed-packet=1G", "--binary-mode", self._login.name]
        with Program(command, self._login.environment, _refused, fed=True) as program:
            for line in _lines(advancing(sink.read(dump_of(entry, sink)), progress)):
                # procedures belong to who restores: to make them somebody else's is a privilege
                kept = line if line.startswith((b"INSERT ", b"(")) else DEFINER.sub(b"", line)
                if not program.feed(kept + b"\n"):
                    break
                beat()
            program.close_input()
            program.finish()

    def _empty(self) -> None:
        with contextlib.suppress(VaultError):
            self._connection.close()
            self._connection = self._login.connect()
            self._ask("SET SESSION foreign_key_checks = 0")
            for table in self._tables():
                self._ask(f"DROP TABLE IF EXISTS `{table}`")
            for (name,) in self._ask("SELECT routine_name FROM information_schema.routines WHERE routine_schema = database()"):
                self._ask(f"DROP PROCEDURE IF EXISTS `{name}`")


def _counted(ask: Callable[[str], list[tuple[Any, ...]]]) -> dict[str, int]:
    tables = ask("SELECT table_name FROM information_schema.tables WHERE table_schema = database() AND table_type = 'BASE TABLE' ORDER BY table_name")
    return {name: int(ask(f"SELECT count(*) FROM `{name}`")[0][0]) for (name,) in tables}


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
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


@contextlib.contextmanager
def translated(failure: type[VaultError] = SourceError) -> Iterator[None]:
    """Turn an error of PyMySQL into one of ours."""
    import pymysql

    try:
        yield
    except pymysql.MySQLError as error:
        text = str(error.args[1]) if len(error.args) > 1 else str(error) or type(error).__name__
        raise failure(f"MySQL: {text}", "check the login in zope.conf, and the log of the server") from None


def _failed(text: str) -> VaultError:
    return SourceError(text, "check the rights of the user, and the log of the server")


def _refused(text: str) -> VaultError:
    return TargetRefused(f"{text} (the database is empty again)", "check the rights of the user, and the log of the server")
