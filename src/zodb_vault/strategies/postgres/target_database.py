"""A database of a PostgreSQL server that a dump is going to be loaded into, and its sessions."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...errors import InUse, TargetRefused, VaultError
from ...model import tid as tids
from .connection import connect, parameters_of, translate_errors, where
from .snapshot import tables_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

OTHERS: Final = """
SELECT coalesce(nullif(application_name, ''), usename::text, '?'),
  coalesce(client_addr::text, 'a local socket'), backend_start
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND coalesce(backend_type, 'client backend') = 'client backend'
ORDER BY backend_start
"""
ANYTHING: Final = """
SELECT (
  SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    AND NOT EXISTS (
      SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    )
) + (SELECT count(*) FROM pg_largeobject_metadata)
"""
ABOUT: Final = """
SELECT current_database(), pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype,
  current_user, r.rolsuper, r.rolcreatedb OR r.rolsuper, pg_has_role(current_user, datdba, 'MEMBER')
FROM pg_database, pg_roles r WHERE datname = current_database() AND r.rolname = current_user
"""
# The first table or sequence that the role may not drop, and whether it may create tables where they are
# restored.
NOT_OURS: Final = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
  AND NOT pg_has_role(current_user, c.relowner, 'MEMBER')
  AND NOT EXISTS (
    SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
  )
ORDER BY c.relname LIMIT 1
"""
MAY_CREATE: Final = """
SELECT coalesce(bool_or(has_schema_privilege(current_user, oid, 'CREATE')), false)
FROM pg_namespace WHERE nspname = coalesce(current_schema(), 'public')
"""
# The pauses, in seconds, between the attempts to find no other session: one that was just closed needs a
# moment to go.
PAUSES: Final = (0, 0.2, 0.5, 1.0)
NAMED_SESSIONS: Final = 10
# Databases that every server has. A database cannot be renamed from inside, so the restore logs in to one of
# these.
MAINTENANCE: Final = ("postgres", "template1")


class Facts(NamedTuple):
    """What a server says of a database and of the role that is logged in.

    ``role`` is the owner that everything gets, None when that is the user itself. ``creates``: the user may
    make, rename and drop databases like this one.
    """

    name: str
    owner: str
    encoding: str
    collate: str
    ctype: str
    user: str
    creates: bool
    role: str | None
    version: int


class TargetDatabase:
    """One database as the role of its DSN sees it, over a connection without transactions."""

    def __init__(self, dsn: str, role: str | None) -> None:
        self.dsn, self.where = dsn, where(dsn)
        self.connection = connect(dsn)
        try:
            self.connection.autocommit = True
            self.facts = self._facts(role)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _facts(self, role: str | None) -> Facts:
        name, owner, encoding, collate, ctype, user, superuser, creates, member = self.query(ABOUT)[0]
        return Facts(
            name=name,
            owner=owner,
            encoding=encoding,
            collate=collate,
            ctype=ctype,
            user=user,
            creates=bool(creates and (superuser or member)),
            # what a superuser makes belongs to it, and the application could not read it
            role=role or (owner if superuser and owner != user else None),
            version=int(self.query("SHOW server_version_num")[0][0]),
        )

    def query(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query; raise TargetRefused."""
        with translate_errors(TargetRefused), self.connection.cursor() as cursor:
            cursor.execute(query, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []

    def require_unused(self) -> None:
        """Raise InUse while sessions are connected."""
        others: list[tuple[Any, ...]] = []
        for pause in PAUSES:
            time.sleep(pause)
            if not (others := self.query(OTHERS)):
                return
        named = "; ".join(
            f"{application} from {address}, since {since:%Y-%m-%d %H:%M:%S}"
            for application, address, since in others[:NAMED_SESSIONS]
        )
        more = f" and {len(others) - NAMED_SESSIONS} more" if len(others) > NAMED_SESSIONS else ""
        raise InUse(
            f"the database {self.where} is in use by {len(others)} sessions: {named}{more}",
            "stop every process of the application first",
        )

    def is_empty(self) -> bool:
        """Tell whether there is neither a table, view or sequence nor a large object.

        What extensions bring does not count.
        """
        return not self.query(ANYTHING)[0][0]

    def require_rights(self, *, empty: bool) -> None:
        """Raise TargetRefused when the role may not make tables in this database, or drop those in it."""
        user = self.facts.user
        if not self.query(MAY_CREATE)[0][0]:
            raise TargetRefused(
                f"the role {user} may not create tables in {self.where}",
                f"GRANT CREATE ON SCHEMA public TO {user}, as the owner of the database",
            )
        others = [] if empty else self.query(NOT_OURS)
        if others:
            raise TargetRefused(
                f"the role {user} may not replace {others[0][0]} in {self.where}: another role owns it",
                f"GRANT the role that owns it TO {user}, or ALTER ROLE {user} CREATEDB",
            )

    def tables(self) -> set[str]:
        """Return the names of all tables, with their schema."""
        return {str(table) for table in tables_of(self.query)}

    def last_tid(self) -> str | None:
        """Return the TID of the newest object, None where there is no table of objects."""
        if self.query("SELECT to_regclass('object_state')")[0][0] is None:
            return None
        ((last,),) = self.query("SELECT max(tid) FROM object_state")
        return tids.to_hex(int(last).to_bytes(8)) if last is not None else None

    def dsn_of(self, name: str) -> str:
        """Return the DSN of another database of the server."""
        from psycopg2.extensions import make_dsn

        return str(make_dsn(**(parameters_of(self.dsn) | {"dbname": name})))

    def connect_beside(self) -> Connection:
        """Log in to another database of the server; raise TargetRefused."""
        for name in MAINTENANCE:
            with contextlib.suppress(VaultError):
                connection = connect(self.dsn_of(name))
                connection.autocommit = True
                return connection
        raise TargetRefused(
            f"{self.facts.user} may connect to neither of {', '.join(MAINTENANCE)}, from where a database "
            "is renamed",
            "restore into an empty database",
        )


def execute(connection: Connection, statement: str) -> None:
    """Execute a statement; raise TargetRefused."""
    with translate_errors(TargetRefused), connection.cursor() as cursor:
        cursor.execute(statement)


def execute_once(dsn: str, statement: str) -> None:
    """Log in and execute one statement outside of any transaction; raise TargetRefused."""
    with contextlib.closing(connect(dsn)) as connection:
        connection.autocommit = True
        execute(connection, statement)
