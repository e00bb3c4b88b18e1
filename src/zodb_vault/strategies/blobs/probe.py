"""Ask a database in a database server where its blobs are, as a second opinion on what the configuration says.

The tables tell: ``blob_chunk`` of RelStorage and ``blob_state`` of zodb-pgjsonb hold the blobs that are in the database, the latter also the
keys of those in S3. No storage is opened, nothing is written, nobody is made to wait: what does not answer soon is a warning. Two
answers that differ are a warning that names both; where following the configuration would pass by blobs, or take a cache for all of them,
it is an error.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...blobs.layout import LAYOUTS
from ...config.blobmodes import marker
from ...errors import ConfigurationError
from ...model.source import Database

CONNECT_SECONDS: Final = 3
ANSWER_SECONDS: Final = 3.0
LOCK_MILLISECONDS: Final = 500
# The pickle of a blob names its class within the first bytes, see blobs/refs.py; no record of a blob comes near this size.
BLOB_RECORD: Final = 512
CLASS: Final = b"ZODB.blob".hex()
# What libpq says of a connection that cannot be made; the rest of such a message may repeat what it was given.
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

Ask = Callable[[str], Any]


class _Silent(Exception):
    """The database did not answer; the text is fit to be shown."""


class Opinion(NamedTuple):
    """What a database says, and whether it said anything: if not, ``warnings`` tell why."""

    asked: bool
    warnings: list[str]


class Rows(NamedTuple):
    """What the tables tell: blobs in the database, keys of blobs in S3, and an object that is a blob; None where it is not known."""

    stored: bool
    in_s3: bool = False
    blob: str | None = None


def opinions(databases: Iterable[Database]) -> dict[str, list[str]]:
    """Return the warnings of each database by its name; raise ConfigurationError for all at once that would lose blobs."""
    warnings: dict[str, list[str]] = {}
    issues: list[str] = []
    hints: list[str] = []
    for database in databases:
        try:
            opinion = second_opinion(database)
        except ConfigurationError as error:
            issues += error.issues
            hints.append(error.hint)
        else:
            warnings[database.name] = opinion.warnings if opinion else []
    if issues:
        raise ConfigurationError(issues, "\n".join(dict.fromkeys(hints)))
    return warnings


def second_opinion(database: Database) -> Opinion | None:
    """Return what a database says about where its blobs are, None where nobody can be asked.

    Raise ConfigurationError when some of them would be passed by, or a cache be taken for all.
    """
    connect = _connection(database)
    if connect is None:
        return None
    kind = "zodb-pgjsonb" if database.backend == "pgjsonb" else "RelStorage"
    look, judge = (
        (_pgjsonb, _judge_pgjsonb) if database.backend == "pgjsonb" else (_relstorage, _judge_relstorage)
    )
    try:
        with connect() as ask:
            rows = look(ask, database.adapter == "sqlite3")
    except _Silent as silent:
        return Opinion(False, [f"the database was not asked where its blobs are: {silent}"])
    return Opinion(
        True, [f"the database holds no tables of {kind} yet"] if rows is None else judge(database, rows)
    )


def _connection(database: Database) -> Callable[[], contextlib.AbstractContextManager[Ask]] | None:
    if database.adapter == "sqlite3":
        return lambda: _sqlite(Path(database.option("sqlite3.data-dir")) / "main.sqlite3")
    if database.adapter == "postgresql":
        return lambda: _postgresql(
            database.option("dsn" if database.backend == "pgjsonb" else "postgresql.dsn")
        )
    return None


# what is asked


def _relstorage(ask: Ask, is_sqlite: bool) -> Rows | None:
    """Return what the tables of a RelStorage tell, None when there are none."""
    if not _has_table(ask, "object_state", is_sqlite):
        return None
    stored = _has_table(ask, "blob_chunk", is_sqlite) and ask("select 1 from blob_chunk limit 1") is not None
    if stored:
        return Rows(True)
    names_class = f"instr(state, X'{CLASS}')" if is_sqlite else f"position('\\x{CLASS}'::bytea in state)"
    try:
        oid = ask(
            f"select zoid from object_state where state_size between 1 and {BLOB_RECORD} and {names_class} between 1 and 20 limit 1"
        )
    except _Silent:  # there are many objects, and none of the first ones is a blob
        return Rows(False)
    return Rows(False, blob=None if oid is None else f"0x{oid:016x}")


def _pgjsonb(ask: Ask, _is_sqlite: bool) -> Rows | None:
    """Return what the tables of zodb-pgjsonb tell, None when there are none."""
    if not _has_table(ask, "blob_state", False):
        return None
    in_s3 = ask("select 1 from blob_state where s3_key is not null limit 1")
    return Rows(stored=True, in_s3=in_s3 is not None)


def _has_table(ask: Ask, name: str, is_sqlite: bool) -> bool:
    if is_sqlite:
        return ask(f"select 1 from sqlite_master where type = 'table' and name = '{name}'") is not None
    return ask(f"select to_regclass('{name}')") is not None


# what it means


def _judge_relstorage(database: Database, rows: Rows) -> list[str]:
    where = database.blob_dir
    if database.blob_mode == "directory":
        return _judge_shared(database, where or "") if rows.stored else []
    if database.blob_mode == "database" and rows.blob:
        raise ConfigurationError(
            [
                f"database {database.name}: shared-blob-dir of <relstorage> is off, so its blobs should be in the database, but blob_chunk there "
                f"is empty and the object {rows.blob} is a blob: the blobs are in a directory, and none of them would be copied"
            ],
            f"set shared-blob-dir on, with the directory that holds all blobs as blob-dir ({where} if it is the one)",
        )
    if database.blob_mode == "none" and rows.blob:
        raise ConfigurationError(
            [
                f"database {database.name}: <relstorage> says no blob-dir, but the object {rows.blob} is a blob, and blob_chunk of the database "
                "is empty: the blobs are in a directory that is not named, and none of them would be copied"
            ],
            "name the directory as blob-dir, with shared-blob-dir on; or use the zope.conf that the site runs with",
        )
    if database.blob_mode == "none" and rows.stored:
        return [
            "<relstorage> says no blob-dir, but blob_chunk of the database holds blobs: they are in its dump"
        ]
    if database.blob_mode == "s3" and rows.stored:
        return [
            "blobs are configured to be in S3, but blob_chunk of the database holds blobs too, from before: they are in its dump"
        ]
    return []


def _judge_shared(database: Database, blob_dir: str) -> list[str]:
    """Judge blobs in the database of a storage that shares a directory: with a mark the directory is that of all blobs, without it is not."""
    found = f"the blobs of <relstorage> are configured to be in {blob_dir}, but blob_chunk of the database holds blobs too"
    if marker(blob_dir) in LAYOUTS:
        return [f"{found}, which this storage never reads: they are from before that, and in the dump"]
    raise ConfigurationError(
        [
            f"database {database.name}: {found}, and the directory is none that holds all blobs: a cache would be taken for all of them"
        ],
        "set shared-blob-dir off, as the blobs are in the database; or name the directory that holds them all as blob-dir",
    )


def _judge_pgjsonb(database: Database, rows: Rows) -> list[str]:
    if rows.in_s3 and database.blob_mode != "database+s3":
        raise ConfigurationError(
            [
                f"database {database.name}: <pgjsonb> names no s3-bucket-name, so its blobs should be in the database, but blob_state there "
                "refers to objects in S3: these blobs would not be copied"
            ],
            "name the bucket and the prefix as s3-bucket-name and s3-prefix; or use the zope.conf that the site runs with",
        )
    return []


# who is asked


@contextlib.contextmanager
def _sqlite(path: Path) -> Iterator[Ask]:
    """Open a database for reading, and leave no file beside it: one that nobody has open is read as a file that stands still."""
    log, shared = (path.with_name(f"{path.name}-{suffix}") for suffix in ("wal", "shm"))
    if not path.exists():
        raise _Silent(f"{path} does not exist")
    if log.exists() and not shared.exists():
        raise _Silent(f"{path} was not closed properly; it is put in order when the site starts")
    how = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, timeout=CONNECT_SECONDS)
    except sqlite3.Error:
        raise _Silent(f"{path} cannot be opened") from None
    with contextlib.closing(connection):
        yield lambda statement: _asked_sqlite(connection, path, statement)


def _asked_sqlite(connection: sqlite3.Connection, path: Path, statement: str) -> Any:
    end = time.monotonic() + ANSWER_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    try:
        row = connection.execute(statement).fetchone()
    except sqlite3.Error as error:
        raise _Silent(f"{path} cannot be read ({type(error).__name__})") from None
    return row[0] if row else None


@contextlib.contextmanager
def _postgresql(dsn: str) -> Iterator[Ask]:
    """Connect for reading, and give up soon."""
    try:
        import psycopg2
    except ImportError:
        raise _Silent("psycopg2 is not installed") from None
    try:
        connection = psycopg2.connect(dsn, connect_timeout=CONNECT_SECONDS)
    except (psycopg2.Error, ValueError) as error:
        raise _Silent(f"it cannot be reached ({_reason(str(error))})") from None
    with contextlib.closing(connection):
        # In one transaction, and for it alone: behind a pooler of connections, what is set for a session would be set for the site.
        connection.set_session(readonly=True)
        ask = partial(_asked_postgresql, connection.cursor(), psycopg2.Error)
        ask(
            f"set local statement_timeout = {int(ANSWER_SECONDS * 1000)}; set local lock_timeout = {LOCK_MILLISECONDS}; select 1"
        )
        yield ask


def _asked_postgresql(cursor: Any, problem: type[Exception], statement: str) -> Any:
    try:
        cursor.execute(statement)
        row = cursor.fetchone()
    except problem as error:
        raise _Silent(
            f"it refused to answer ({getattr(error, 'pgcode', None) or type(error).__name__})"
        ) from None
    return row[0] if row else None


def _reason(message: str) -> str:
    return next((reason for reason in REASONS if reason in message), "the connection failed")
