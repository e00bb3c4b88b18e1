"""Restore a dump into PostgreSQL.

Into an empty database, beside a full one that is then renamed, or over a full one in one transaction.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final

from ...errors import TargetRefused, VaultError
from ...model.manifest import PgDump
from ...model.restore import RestorePoint
from ...runtime import clock
from ..destination import PreflightFinding, RestoreContext, finding_of
from ..sql.restore import DumpLoad, LoadRequest, PlannedLoad
from .connection import connect
from .names import literal, quoted
from .pg_restore import DumpToLoad, load_dump, require_loaded
from .tables import StorageTables, TablesOf
from .target_database import TargetDatabase, execute
from .truncate import truncate_database
from .versions import SERVER, major, major_of_server

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Names in PostgreSQL are cut off after this many bytes.
NAME_LIMIT: Final = 63


class Way(Enum):
    """How a dump gets into a database; the value is what the plan of a restore says."""

    EMPTY = "into the empty database"
    BESIDE = "beside it, exchanged by a rename"
    OVER = "over it, in one transaction"


def plan_load(dsn: str, tables_of: TablesOf, request: LoadRequest) -> PlannedLoad:
    """Log in, look, and choose the way.

    Raise InUse, TargetRefused when the database is not empty and is not to be replaced.
    """
    dump = request.entry.dump
    if not isinstance(dump, PgDump):
        raise TargetRefused(
            f"the backup of {request.entry.name} is no dump of PostgreSQL", "restore it with --output DIR"
        )
    tables = tables_of(bool(request.entry.history))
    with contextlib.closing(TargetDatabase(dsn, request.role)) as database:
        database.require_unused()
        empty = database.is_empty()
        if not empty and not request.replace:
            raise TargetRefused(
                f"the database {database.where} is not empty",
                "restore into an empty database, or give --replace: "
                "what is there is kept under another name, or saved first",
            )
        way = _way(database, request.point, empty=empty)
        _require_way(database, way, dump)
        load = LoadBeside if way is Way.BESIDE else LoadInPlace
        return PlannedLoad(
            exists=not empty,
            way=way.value,
            begin=partial(load, dsn, tables, request, dump, was_empty=empty),
            last_tid=None if empty else database.last_tid(),
            notes=list(_notes(database, tables, dump, way, request.point)),
        )


def preflight(dsn: str, request: LoadRequest | None, role: str | None) -> Iterator[PreflightFinding]:
    """Yield the way that a dump would take now, and whether the role has the rights for it.

    Sessions of the running site do not matter here. Raise ConfigurationError, SourceError without an answer.
    """
    dump = request.entry.dump if request is not None else None
    with contextlib.closing(TargetDatabase(dsn, role)) as database:
        empty, user = database.is_empty(), database.facts.user
        way = _way(database, None, empty=empty)
        may = "may" if database.facts.creates else "may not"
        message = f"the role {user} {may} create databases: a restore goes {way.value}"
        check = partial(_require_way, database, way, dump if isinstance(dump, PgDump) else None)
        yield finding_of(message, check)


def _require_way(database: TargetDatabase, way: Way, dump: PgDump | None) -> None:
    """Raise TargetRefused when the role lacks a right for this way, or the dump does not fit.

    Without a ``dump``, only the rights count.
    """
    if way is Way.BESIDE:
        database.connect_beside().close()
        return
    database.require_rights(empty=way is Way.EMPTY)
    if way is Way.OVER and dump is not None:
        _require_same_tables(database, dump)


def _way(database: TargetDatabase, point: RestorePoint | None, *, empty: bool) -> Way:
    """Return the way of a dump.

    One that is truncated is so, wherever that is possible, before any process can see it.
    """
    creates, user = database.facts.creates, database.facts.user
    if empty and (point is None or not creates):
        return Way.EMPTY
    if creates:
        return Way.BESIDE
    if point is not None:
        raise TargetRefused(
            f"the role {user} may not create databases, so what is later than {point.tid} cannot be removed "
            "before the database is valid",
            f"ALTER ROLE {user} CREATEDB for the time of the restore, or restore into an empty database",
        )
    return Way.OVER


def _require_same_tables(database: TargetDatabase, dump: PgDump) -> None:
    """Raise TargetRefused when there are tables that the dump would not drop."""
    user = database.facts.user
    if more := sorted(database.tables() - dump.tables.keys()):
        raise TargetRefused(
            f"the role {user} may not create databases, and {database.where} has tables that the backup "
            "does not have: "
            f"{', '.join(more[:5])}",
            f"ALTER ROLE {user} CREATEDB for the time of the restore, or restore into an empty database",
        )


def _notes(
    database: TargetDatabase, tables: StorageTables, dump: PgDump, way: Way, point: RestorePoint | None
) -> Iterator[str]:
    made_of = dump.versions.get(SERVER, "")
    if major(made_of) > major_of_server(database.facts.version):
        yield (f"the dump was made of a newer server ({made_of}): it may hold what this server does not know")
    if way is Way.EMPTY and point is not None:
        yield (
            f"the role {database.facts.user} may not create databases: the whole backup is loaded first, "
            "and truncated "
            "then; no process may use the database before the restore has succeeded"
        )
    if point is not None and tables.truncation_note:
        yield tables.truncation_note
    if way is Way.OVER and dump.large_objects:
        yield "large objects that only the replaced state has stay behind; `vacuumlo` removes them"


class _Load(DumpLoad):
    """What both ways have in common: a connection to the database, and what is loaded."""

    def __init__(
        self,
        dsn: str,
        tables: StorageTables,
        request: LoadRequest,
        dump: PgDump,
        context: RestoreContext,
        *,
        was_empty: bool,
    ) -> None:
        self._database = TargetDatabase(dsn, request.role)
        self._point, self._was_empty = request.point, was_empty
        facts = self._database.facts
        self._dump = DumpToLoad(
            entry=request.entry,
            dump=dump,
            tables=tables,
            objects=request.objects,
            progress=context.progress,
            heartbeat=context.heartbeat,
            role=facts.role,
            user=facts.user,
        )

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def _complete(self, connection: Connection) -> None:
        """Compare what was loaded with what was dumped, and truncate it."""
        require_loaded(connection, self._dump)
        if self._point is not None:
            truncate_database(connection, self._dump.tables, self._point, self._dump.heartbeat)


class LoadInPlace(_Load):
    """A dump that is loaded into the database itself, in one transaction.

    The database is empty, or its contents are replaced.
    """

    def make_valid(self) -> list[str]:
        """Load the dump; nothing is kept: what was there is in the safety backup."""
        self._database.require_unused()
        if self._was_empty and not self._database.is_empty():
            raise TargetRefused(
                f"the database {self._database.where} is not empty any more", "look at the plan again"
            )
        load_dump(self._database.dsn, self._dump, clean=not self._was_empty)
        self._complete(self._database.connection)
        return []


class LoadBeside(_Load):
    """A dump that is loaded into a new database of the server, which then gets the name of the old one."""

    def __init__(
        self,
        dsn: str,
        tables: StorageTables,
        request: LoadRequest,
        dump: PgDump,
        context: RestoreContext,
        *,
        was_empty: bool,
    ) -> None:
        super().__init__(dsn, tables, request, dump, context, was_empty=was_empty)
        stamp = f"{clock.now():%Y%m%dt%H%M%S}_{secrets.token_hex(2)}"
        # the longer of both words is "restoring": with it, the stamp and two underscores the name has to fit
        self._stem = self._database.facts.name[: NAME_LIMIT - len(stamp) - len("_restoring_")]
        self._new, self._old = f"{self._stem}_restoring_{stamp}", f"{self._stem}_replaced_{stamp}"
        try:
            self._server = self._database.connect_beside()
        except BaseException:
            super().close()
            raise

    def build(self) -> None:
        """Make the new database, load the dump into it, and let the server look at its contents."""
        self._database.require_unused()
        self._drop_interrupted()
        execute(self._server, self._create())
        dsn = self._database.dsn_of(self._new)
        load_dump(dsn, self._dump)
        with contextlib.closing(connect(dsn)) as connection:
            connection.autocommit = True
            self._complete(connection)
            execute(connection, "ANALYZE")

    def make_valid(self) -> list[str]:
        """Rename both databases; an empty one that was replaced is dropped."""
        self._database.require_unused()
        # a database is not renamed while a session is connected to it, our own included
        self._database.close()
        self.rename()
        if self._was_empty:
            with contextlib.suppress(VaultError):
                execute(self._server, f"DROP DATABASE {quoted(self._old)}")
                return []
        return [f"the database {self._old}"]

    def close(self) -> None:
        """Drop the new database unless it has got its final name."""
        with contextlib.suppress(VaultError):
            execute(self._server, f"DROP DATABASE IF EXISTS {quoted(self._new)}")
        self._server.close()
        super().close()

    def _drop_interrupted(self) -> None:
        """Drop what interrupted restores left.

        A restore that is running has its new database open, which keeps it.
        """
        found = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
        for (left,) in self._database.query(found, f"{self._stem}_restoring_"):
            with contextlib.suppress(VaultError):
                execute(self._server, f"DROP DATABASE {quoted(left)}")

    def _create(self) -> str:
        facts = self._database.facts
        return (
            f"CREATE DATABASE {quoted(self._new)} OWNER {quoted(facts.owner)} TEMPLATE template0 "
            f"ENCODING '{facts.encoding}' LC_COLLATE {literal(facts.collate)} LC_CTYPE "
            f"{literal(facts.ctype)}"
        )

    def rename(self) -> None:
        """Rename both in one transaction, so that at every moment a whole database has the name."""
        name = quoted(self._database.facts.name)
        old = f"ALTER DATABASE {name} RENAME TO {quoted(self._old)}"
        new = f"ALTER DATABASE {quoted(self._new)} RENAME TO {name}"
        execute(self._server, f"BEGIN; {old}; {new}; COMMIT")
