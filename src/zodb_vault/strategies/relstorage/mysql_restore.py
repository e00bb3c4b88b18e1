"""Restore a RelStorage in MySQL or MariaDB into an empty database."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from ...errors import Damage, InUse, TargetRefused, VaultError
from ...model.chain import dump_of
from ...model.manifest import DatabaseEntry, MysqlDump
from ...model.source import Database
from ...runtime.progress import Progress
from ..base import RestorePoint, Sink, TargetState
from ..sql.program import Program, program_of
from ..sql.snapshot import advancing
from .mysql import CLIENT, DEFINER, counted, script_lines
from .mysql_login import Login, translate_errors


class MysqlDestination:
    """A database that a script is to be loaded into; see ``Destination``."""

    def __init__(self, database: Database) -> None:
        self._login = Login(database)
        self._connection = self._login.connect()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with translate_errors(TargetRefused), self._connection.cursor() as cursor:
            cursor.execute(query, parameters or None)
            return list(cursor.fetchall())

    def look(self, entry: DatabaseEntry, *, replace: bool, point: RestorePoint | None = None) -> TargetState:
        """Return what is there; raise InUse while somebody has it open, TargetRefused when it is not empty."""
        if not isinstance(entry.dump, MysqlDump):
            raise TargetRefused(
                f"the backup of {entry.name} is no script of MySQL", "restore it with --output DIR"
            )
        others = self._ask(
            "SELECT user, host, command FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
        )
        if others:
            named = "; ".join(
                f"{user} from {host or 'a local socket'}" for user, host, _command in others[:10]
            )
            in_use = f"the database {self._login.where} is in use by {len(others)} sessions: {named}"
            raise InUse(in_use, "stop every process of the application first")
        if self._tables():
            more = "; MySQL cannot exchange databases" if replace else ""
            instead = f"restore into an empty one, and name it in zope.conf{more}"
            raise TargetRefused(f"the database {self._login.where} is not empty", instead)
        return TargetState(where=self._login.where, empty=True, way="into the empty database")

    def _tables(self) -> list[str]:
        return [
            row[0]
            for row in self._ask(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = database()"
            )
        ]

    def load(
        self,
        entry: DatabaseEntry,
        sink: Sink,
        seen: TargetState,
        progress: Progress,
        beat: Callable[[], None],
        point: RestorePoint | None = None,
    ) -> list[str]:
        """Load the script; whatever fails, the database is empty again then. Raise Damage, TargetRefused."""
        dump = entry.dump
        assert isinstance(dump, MysqlDump)
        progress.begin("storage", dump.size)
        try:
            self._run(entry, sink, progress, beat)
            found = counted(self._ask)
            for table, rows in dump.tables.items():
                if found.get(table) != rows:
                    raise Damage(
                        f"the restored table {table} has {found.get(table)} rows, {rows} were dumped"
                    )
        except BaseException:
            self._empty()
            raise
        return []

    def _run(self, entry: DatabaseEntry, sink: Sink, progress: Progress, beat: Callable[[], None]) -> None:
        command = [
            program_of(CLIENT, "mariadb-client"),
            *self._login.arguments,
            "--max-allowed-packet=1G",
            "--binary-mode",
            self._login.name,
        ]
        with Program(command, self._login.environment, _refused, fed=True) as program:
            for line in script_lines(advancing(sink.read(dump_of(entry, sink)), progress)):
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
            for (name,) in self._ask(
                "SELECT routine_name FROM information_schema.routines WHERE routine_schema = database()"
            ):
                self._ask(f"DROP PROCEDURE IF EXISTS `{name}`")


def _refused(text: str) -> VaultError:
    return TargetRefused(
        f"{text} (the database is empty again)", "check the rights of the user, and the log of the server"
    )
