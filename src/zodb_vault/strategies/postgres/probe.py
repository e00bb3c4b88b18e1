"""Ask a database in PostgreSQL a question, and give up soon."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from ...model.source import Database
from ..sql.probe import ANSWER_SECONDS, CLASS, CONNECT_SECONDS, LOCK_MILLISECONDS, NoAnswer, ProbedDatabase
from .requirements import PSYCOPG2

# What libpq says of a connection that cannot be made; the rest of such a message may repeat the DSN.
REASONS: Final = (
    "Connection refused",
    "timeout expired",
    "password authentication failed",
    "no password supplied",
    "could not translate host name",
    "does not exist",
    "No such file or directory",
    "Permission denied",
    "No route to host",
    "Network is unreachable",
    "SSL",
    "no pg_hba.conf entry",
    "the database system is starting up",
    "the database system is shutting down",
    "too many clients already",
    "remaining connection slots",
)


@contextlib.contextmanager
def connected(database: Database) -> Iterator[ProbedDatabase]:
    """Connect for reading; raise NoAnswer."""
    try:
        import psycopg2
    except ImportError:
        raise NoAnswer(f"{' or '.join(PSYCOPG2.distributions)} is not installed") from None
    try:
        connection = psycopg2.connect(database.dsn, connect_timeout=CONNECT_SECONDS)
    except (psycopg2.Error, ValueError) as error:
        raise NoAnswer(f"it cannot be reached ({_reason(str(error))})") from None
    with contextlib.closing(connection):
        # In one transaction, and for it alone: behind a pooler of connections, what is set for a session
        # would be set for the site.
        connection.set_session(readonly=True)
        first = partial(_first, connection.cursor(), psycopg2.Error)
        limits = (
            f"set local statement_timeout = {int(ANSWER_SECONDS * 1000)}; set local lock_timeout = "
            f"{LOCK_MILLISECONDS}"
        )
        first(f"{limits}; select 1")
        yield ProbedDatabase(first, "select to_regclass('{name}')", f"position('\\x{CLASS}'::bytea in state)")


def _first(cursor: Any, problem: type[Exception], query: str) -> Any:
    try:
        cursor.execute(query)
        row = cursor.fetchone()
    except problem as error:
        raise NoAnswer(
            f"it refused to answer ({getattr(error, 'pgcode', None) or type(error).__name__})"
        ) from None
    return row[0] if row else None


def _reason(message: str) -> str:
    return next((reason for reason in REASONS if reason in message), "the connection failed")
