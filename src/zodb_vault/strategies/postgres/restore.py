"""A dump back into PostgreSQL: into an empty database, beside a full one that is then renamed, or over it in one transaction."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ...errors import Damage, InUse, TargetRefused, VaultError
from ...model import tid as tids
from ...model.chain import dump_of
from ...model.manifest import DatabaseEntry, PgDump, PgTransactions
from ...runtime import clock
from ...runtime.progress import Progress
from ..base import RestorePoint, Sink, TargetState
from ..sql.program import Program, program_of
from .connection import connect, parameters_of, quoted, secrets_of, shown_dsn, translate_errors, where
from .delta_restore import Assembly, require_keys
from .snapshot import TABLES
from .truncate import truncate_database

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

NAME_LIMIT: Final = 63
OTHERS: Final = """
SELECT coalesce(nullif(application_name, ''), usename::text, '?'), coalesce(client_addr::text, 'a local socket'), backend_start
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND coalesce(backend_type, 'client backend') = 'client backend'
ORDER BY backend_start
"""
ANYTHING: Final = """
SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
  AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'))
  + (SELECT count(*) FROM pg_largeobject_metadata)
"""
ABOUT: Final = """
SELECT current_database(), pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, r.rolsuper, r.rolcreatedb OR r.rolsuper,
  pg_has_role(current_user, datdba, 'MEMBER'), current_user
FROM pg_database, pg_roles r WHERE datname = current_database() AND r.rolname = current_user
"""
EMPTY, BESIDE, OVER = (
    "into the empty database",
    "beside it, exchanged by a rename",
    "over it, in one transaction",
)
PATIENCE: Final = (0, 0.2, 0.5, 1.0)
MAINTENANCE: Final = ("postgres", "template1")


class PostgresDestination:
    """One database of a server, as the role of its DSN sees it; see ``Destination``."""

    def __init__(self, dsn: str, role: str | None) -> None:
        self.dsn, self._role = dsn, role
        self._connection = connect(dsn)
        self._connection.autocommit = True
        try:
            self._about()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _about(self) -> None:
        about = self._ask(ABOUT)[0]
        (
            self.name,
            self.owner,
            self._encoding,
            self._collate,
            self._ctype,
            superuser,
            self._creates,
            member,
            self.user,
        ) = about
        self._creates = bool(self._creates and (superuser or member))
        # what a superuser makes belongs to it, and the application could not read it
        self.role = self._role or (self.owner if superuser and self.owner != self.user else None)
        self.version = int(self._ask("SHOW server_version_num")[0][0])

    def _ask(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with translate_errors(TargetRefused), self._connection.cursor() as cursor:
            cursor.execute(query, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []

    def look(self, entry: DatabaseEntry, *, replace: bool, point: RestorePoint | None = None) -> TargetState:
        """Return what is there and how the dump will take its place; raise InUse, or TargetRefused when it is not empty and not to be replaced."""
        dump = entry.dump
        if not isinstance(dump, PgDump):
            raise TargetRefused(
                f"the backup of {entry.name} is no dump of PostgreSQL", "restore it with --output DIR"
            )
        self._refuse_others()
        empty = not self._ask(ANYTHING)[0][0]
        if not empty and not replace:
            raise TargetRefused(
                f"the database {where(self.dsn)} is not empty",
                "restore into an empty database, or give --replace: what is there is kept under another name, or saved first",
            )
        way = self._way(empty, point)
        if way == OVER:
            self._require_same_tables(dump)
        notes = list(self._notes(entry.backend, dump, way, point))
        return TargetState(
            where=where(self.dsn),
            empty=empty,
            last_tid=self._last_tid() if not empty else None,
            way=way,
            notes=notes,
        )

    def _way(self, empty: bool, point: RestorePoint | None) -> str:
        """Return how a dump gets there: cut to a point it has to be, wherever that is possible, before anybody can see it."""
        if empty and (point is None or not self._creates):
            return EMPTY
        if self._creates:
            return BESIDE
        if point is not None:
            raise TargetRefused(
                f"the role {self.user} may not create databases, so what is later than {point.tid} cannot be taken away before it is valid",
                f"ALTER ROLE {self.user} CREATEDB for the time of the restore, or restore into an empty database",
            )
        return OVER

    def _refuse_others(self) -> None:
        """Raise InUse while there are other sessions; one that has just been closed needs a moment to go."""
        for pause in PATIENCE:
            time.sleep(pause)
            if not (others := self._ask(OTHERS)):
                return
        named = "; ".join(
            f"{application} from {address}, since {since:%Y-%m-%d %H:%M:%S}"
            for application, address, since in others[:10]
        )
        more = f" and {len(others) - 10} more" if len(others) > 10 else ""
        in_use = f"the database {where(self.dsn)} is in use by {len(others)} sessions: {named}{more}"
        raise InUse(in_use, "stop every process of the application first")

    def _require_same_tables(self, dump: PgDump) -> None:
        ours = {f"{schema}.{table}" for schema, table in self._ask(TABLES)}
        if more := sorted(ours - dump.tables.keys()):
            raise TargetRefused(
                f"the role {self.user} may not create databases, and {where(self.dsn)} has tables that the backup has not: {', '.join(more[:5])}",
                f"ALTER ROLE {self.user} CREATEDB for the time of the restore, or restore into an empty database",
            )

    def _last_tid(self) -> str | None:
        if self._ask("SELECT to_regclass('object_state')")[0][0] is None:
            return None
        ((last,),) = self._ask("SELECT max(tid) FROM object_state")
        return tids.to_hex(int(last).to_bytes(8)) if last is not None else None

    def _notes(self, backend: str, dump: PgDump, way: str, point: RestorePoint | None) -> Iterator[str]:
        if _major(dump.versions.get("PostgreSQL server", "")) > self.version // 10_000:
            yield f"the dump was made of a newer server ({dump.versions['PostgreSQL server']}): it may hold what this one does not know"
        if way == EMPTY and point is not None:
            yield (
                f"the role {self.user} may not create databases: the whole backup is loaded first, and cut then; "
                "nobody may use the database before the restore has ended well"
            )
        if backend == "pgjsonb" and point is not None:
            yield "columns that other packages keep in object_state, as a catalog does, have no history: have them computed again after the restore"
        if way == OVER and dump.large_objects:
            yield "large objects that only the replaced state has stay behind; `vacuumlo` removes them"

    # loading

    def load(
        self,
        entry: DatabaseEntry,
        sink: Sink,
        seen: TargetState,
        progress: Progress,
        beat: Callable[[], None],
        point: RestorePoint | None = None,
    ) -> list[str]:
        """Load the dump and make it valid in one step; return what was kept. Raise Damage, TargetRefused: the old state is whole then."""
        self._refuse_others()
        if seen.way == BESIDE:
            return self._exchange(entry, sink, seen, progress, beat, point)
        if seen.way == EMPTY and self._ask(ANYTHING)[0][0]:
            raise TargetRefused(
                f"the database {where(self.dsn)} is not empty any more", "look at the plan again"
            )
        self._run(
            self.dsn, entry, sink, progress, beat, ["--clean", "--if-exists"] if seen.way == OVER else []
        )
        self._finish(self._connection, entry, point, beat)
        return []

    def _finish(
        self,
        connection: Connection,
        entry: DatabaseEntry,
        point: RestorePoint | None,
        beat: Callable[[], None],
    ) -> None:
        """Compare what was loaded with what was dumped, and cut it."""
        self._require_rows(connection, entry)
        if point is not None:
            truncate_database(connection, entry, point, beat)

    def _exchange(
        self,
        entry: DatabaseEntry,
        sink: Sink,
        seen: TargetState,
        progress: Progress,
        beat: Callable[[], None],
        point: RestorePoint | None,
    ) -> list[str]:
        stamp = f"{clock.now():%Y%m%dt%H%M%S}_{secrets.token_hex(2)}"
        room = NAME_LIMIT - len(stamp) - 11
        new, old = (f"{self.name[:room]}_{what}_{stamp}" for what in ("restoring", "replaced"))
        with contextlib.closing(self._maintenance()) as server:
            for (left,) in self._ask(
                "SELECT datname FROM pg_database WHERE starts_with(datname, %s)",
                f"{self.name[:room]}_restoring_",
            ):
                with contextlib.suppress(
                    VaultError
                ):  # of a restore that was interrupted; one that is going on has it open
                    _do(server, f"DROP DATABASE {quoted(left)}")
            _do(server, self._create(new))
            try:
                self._run(self._dsn_of(new), entry, sink, progress, beat, [])
                with contextlib.closing(connect(self._dsn_of(new))) as connection:
                    connection.autocommit = True
                    self._finish(connection, entry, point, beat)
                    _do(connection, "ANALYZE")
                self._refuse_others()
                self.close()
                self._rename(server, new, old)
            except BaseException:
                with contextlib.suppress(VaultError):
                    _do(server, f"DROP DATABASE IF EXISTS {quoted(new)}")
                raise
            if seen.empty:  # nothing is in it that would have to be kept
                with contextlib.suppress(VaultError):
                    _do(server, f"DROP DATABASE {quoted(old)}")
                    return []
        return [f"the database {old}"]

    def _create(self, name: str) -> str:
        options = (
            f"ENCODING '{self._encoding}' LC_COLLATE {_text(self._collate)} LC_CTYPE {_text(self._ctype)}"
        )
        return f"CREATE DATABASE {quoted(name)} OWNER {quoted(self.owner)} TEMPLATE template0 {options}"

    def _rename(self, server: Connection, new: str, old: str) -> None:
        """Rename both in one transaction: at no moment is there none, or another one, under the name."""
        steps = f"ALTER DATABASE {quoted(self.name)} RENAME TO {quoted(old)}; ALTER DATABASE {quoted(new)} RENAME TO {quoted(self.name)}"
        _do(server, f"BEGIN; {steps}; COMMIT")

    def _maintenance(self) -> Connection:
        """Log in to another database of the server: none can be renamed from inside."""
        for name in MAINTENANCE:
            with contextlib.suppress(VaultError):
                connection = connect(self._dsn_of(name))
                connection.autocommit = True
                return connection
        raise TargetRefused(
            f"{self.user} may connect to neither of {', '.join(MAINTENANCE)}, from where a database is renamed",
            "restore into an empty database",
        )

    def _dsn_of(self, name: str) -> str:
        from psycopg2.extensions import make_dsn

        return str(make_dsn(**(parameters_of(self.dsn) | {"dbname": name})))

    def _run(
        self,
        dsn: str,
        entry: DatabaseEntry,
        sink: Sink,
        progress: Progress,
        beat: Callable[[], None],
        more: list[str],
    ) -> None:
        dump = entry.dump
        assert isinstance(dump, PgDump)
        progress.begin("storage", dump.size)
        versions = dump.base.versions if isinstance(dump, PgTransactions) else dump.versions
        command = [
            program_of(["pg_restore"], "postgresql-client", _major(versions.get("pg_dump", ""))),
            "--no-owner",
            "--no-acl",
            *([f"--role={self.role}"] if self.role else []),
        ]
        if isinstance(dump, PgTransactions):
            self._assemble(dsn, command, entry, dump, sink, progress, beat, more)
            return
        command += [
            "--exit-on-error",
            "--single-transaction",
            "--no-password",
            f"--dbname={shown_dsn(dsn)}",
            *more,
        ]
        with Program(command, secrets_of(dsn), _failed, fed=True) as program:
            for part in dump_of(entry, sink):
                # whole before a byte of it is handed over: behind the last one everything would be committed
                content = b"".join(sink.read([part]))
                if not program.feed(content):
                    break
                progress.advance(len(content))
                beat()
            program.close_input()
            program.finish()

    def _assemble(
        self,
        dsn: str,
        command: list[str],
        entry: DatabaseEntry,
        dump: PgTransactions,
        sink: Sink,
        progress: Progress,
        beat: Callable[[], None],
        more: list[str],
    ) -> None:
        """Load a dump and what is laid over it, and commit when everything is as it was in the snapshot."""
        with contextlib.closing(connect(dsn)) as connection:
            Assembly(connection, command, _failed, sink, progress, beat).run(entry, dump, more)
            require_keys(connection, entry, dump)
            self._require_rows(connection, entry)
            with translate_errors(TargetRefused):
                connection.commit()

    def _require_rows(self, connection: Connection, entry: DatabaseEntry) -> None:
        """Raise Damage unless the restored tables have the rows, the sequences the values and the large objects the owner that they should have."""
        dump = entry.dump
        assert isinstance(dump, PgDump)
        with translate_errors(TargetRefused), connection.cursor() as cursor:
            for table, rows in dump.tables.items():
                schema, _dot, name = table.partition(".")
                cursor.execute(f"SELECT count(*) FROM {quoted(schema)}.{quoted(name)}")
                if (found := cursor.fetchall()[0][0]) != rows:
                    raise Damage(f"the restored table {table} has {found} rows, {rows} were dumped")
            for sequence, value in dump.sequences.items():
                schema, _dot, name = sequence.partition(".")
                cursor.execute(
                    "SELECT coalesce(max(last_value), 0) FROM pg_sequences WHERE (schemaname, sequencename) = (%s, %s)",
                    (schema, name),
                )
                if (found := cursor.fetchall()[0][0]) < value:
                    raise Damage(
                        f"the restored sequence {sequence} stands at {found}, {value} were used already"
                    )
            cursor.execute(
                "SELECT count(*) FROM pg_largeobject_metadata WHERE pg_get_userbyid(lomowner) <> %s",
                (self.role or self.user,),
            )
            if (others := cursor.fetchall()[0][0]) != 0:
                raise TargetRefused(
                    f"{others} large objects do not belong to {self.role or self.user}",
                    "remove them first: `vacuumlo`",
                )


def execute(dsn: str, statement: str) -> None:
    """Log in and execute one statement outside of any transaction; raise TargetRefused."""
    with contextlib.closing(connect(dsn)) as connection:
        connection.autocommit = True
        _do(connection, statement)


def _do(connection: Connection, statement: str) -> None:
    with translate_errors(TargetRefused), connection.cursor() as cursor:
        cursor.execute(statement)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _major(version: str) -> int:
    number = version.partition(".")[0]
    return int(number) if number.isdigit() else 0


def _failed(text: str) -> VaultError:
    hint = next((hint for word, hint in WORDS.items() if word in text), "")
    return TargetRefused(f"{text} (nothing was changed in the database)", hint)


WORDS: Final = {
    "permission denied to create extension": "let an administrator create the extension in the database first",
    "out of shared memory": "raise max_locks_per_transaction on the server, or let the role create databases (CREATEDB)",
    "already exists": "restore into an empty database, or give --replace",
    "permission denied for schema": "GRANT CREATE ON SCHEMA public TO the role that restores",
}
