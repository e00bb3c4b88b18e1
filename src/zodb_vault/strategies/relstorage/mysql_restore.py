"""Restore a RelStorage in MySQL or MariaDB into an empty database."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from ...errors import Damage, InUse, TargetRefused, VaultError
from ...model.chain import dump_of
from ...model.manifest import MysqlDump
from ...model.source import Database
from ..destination import PreflightFinding, RestoreContext
from ..sql.program import Program, program_of
from ..sql.restore import DumpLoad, LoadRequest, PlannedLoad
from ..sql.snapshot import advancing
from .mysql import CLIENT, DEFINER, counted, script_lines
from .mysql_login import Login, translate_errors

NAMED_SESSIONS: Final = 10
SESSIONS: Final = """
SELECT user, host, command FROM information_schema.processlist WHERE db = database() AND id <> connection_id()
"""
TABLES: Final = "SELECT table_name FROM information_schema.tables WHERE table_schema = database()"
ROUTINES: Final = "SELECT routine_name FROM information_schema.routines WHERE routine_schema = database()"


class MysqlTarget:
    """A database that a script is going to be loaded into, and a connection to it."""

    def __init__(self, database: Database) -> None:
        self.login = Login(database)
        self._connection = self.login.connect()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def query(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query; raise TargetRefused."""
        with translate_errors(TargetRefused), self._connection.cursor() as cursor:
            cursor.execute(query, parameters or None)
            return list(cursor.fetchall())

    def require_unused(self) -> None:
        """Raise InUse while sessions are connected."""
        others = self.query(SESSIONS)
        if others:
            named = "; ".join(
                f"{user} from {host or 'a local socket'}" for user, host, _command in others[:NAMED_SESSIONS]
            )
            raise InUse(
                f"the database {self.login.where} is in use by {len(others)} sessions: {named}",
                "stop every process of the application first",
            )

    def tables(self) -> list[str]:
        """Return the names of all tables."""
        return [row[0] for row in self.query(TABLES)]

    def drop_everything(self) -> None:
        """Drop all tables and procedures, over a connection in which foreign keys do not matter."""
        with contextlib.suppress(VaultError):
            self._connection.close()
            self._connection = self.login.connect()
            self.query("SET SESSION foreign_key_checks = 0")
            for table in self.tables():
                self.query(f"DROP TABLE IF EXISTS `{table}`")
            for (name,) in self.query(ROUTINES):
                self.query(f"DROP PROCEDURE IF EXISTS `{name}`")


def plan_load(database: Database, request: LoadRequest) -> PlannedLoad:
    """Log in and look; raise InUse, TargetRefused when the database is not empty."""
    dump = request.entry.dump
    if not isinstance(dump, MysqlDump):
        raise TargetRefused(
            f"the backup of {request.entry.name} is no script of MySQL", "restore it with --output DIR"
        )
    with contextlib.closing(MysqlTarget(database)) as target:
        target.require_unused()
        if target.tables():
            more = "; MySQL cannot exchange databases" if request.replace else ""
            raise TargetRefused(
                f"the database {target.login.where} is not empty",
                f"restore into an empty one, and name it in zope.conf{more}",
            )
    return PlannedLoad(
        exists=False, way="into the empty database", begin=partial(MysqlLoad, database, request, dump)
    )


def preflight(database: Database) -> Iterator[PreflightFinding]:
    """Yield where a script would go, also while the site runs."""
    with contextlib.closing(MysqlTarget(database)) as target:
        if target.tables():
            yield PreflightFinding(
                "MySQL cannot exchange databases: a restore goes into an empty database that zope.conf names"
            )
        else:
            yield PreflightFinding("a restore goes into the empty database")


class MysqlLoad(DumpLoad):
    """A script on its way into an empty database.

    MySQL has no transaction around tables: what fails is dropped again.
    """

    def __init__(
        self, database: Database, request: LoadRequest, dump: MysqlDump, context: RestoreContext
    ) -> None:
        self._request, self._dump, self._context = request, dump, context
        self._target = MysqlTarget(database)

    def close(self) -> None:
        """Close the connection."""
        self._target.close()

    def make_valid(self) -> list[str]:
        """Load the script; whatever fails, the database is empty again then."""
        self._context.progress.begin("storage", self._dump.size)
        try:
            self._run()
            found = counted(self._target.query)
            for table, rows in self._dump.tables.items():
                if found.get(table) != rows:
                    raise Damage(
                        f"the restored table {table} has {found.get(table)} rows, {rows} were dumped"
                    )
        except BaseException:
            self._target.drop_everything()
            raise
        return []

    def _run(self) -> None:
        login, objects = self._target.login, self._request.objects
        command = [
            program_of(CLIENT, "mariadb-client"),
            *login.arguments,
            "--max-allowed-packet=1G",
            "--binary-mode",
            login.name,
        ]
        with Program(command, login.environment, _refused, fed=True) as program:
            content = advancing(objects.read(dump_of(self._request.entry, objects)), self._context.progress)
            for line in script_lines(content):
                # procedures belong to the user who restores: to give them to another one needs a privilege
                kept = line if line.startswith((b"INSERT ", b"(")) else DEFINER.sub(b"", line)
                if not program.feed(kept + b"\n"):
                    break
                self._context.heartbeat()
            program.close_input()
            program.finish()


def _refused(text: str) -> VaultError:
    return TargetRefused(
        f"{text} (the database is empty again)", "check the rights of the user, and the log of the server"
    )
