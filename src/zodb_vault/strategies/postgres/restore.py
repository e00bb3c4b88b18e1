"""Load a dump into PostgreSQL: into the database itself, or into a new one that then gets its name."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Final

from ...errors import TargetRefused, VaultError
from ...model.manifest import PgDump
from ...runtime import clock
from ..destination import RestoreContext
from ..sql.restore import DumpLoad, LoadRequest
from .connection import connect
from .names import literal, quoted
from .pg_restore import DumpToLoad, load_dump, require_loaded
from .tables import StorageTables
from .target_database import TargetDatabase, execute
from .truncate import truncate_database

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Names in PostgreSQL are cut off after this many bytes.
NAME_LIMIT: Final = 63


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
