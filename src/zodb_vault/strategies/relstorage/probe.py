"""Find out from its tables where a RelStorage keeps its blobs.

``blob_chunk`` holds those that are in the database.

Two answers that differ are a warning that names both. Where following the configuration would leave out
blobs, or take a cache for all of them, it is an error.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ...blobs.layout import LAYOUTS
from ...config.blobmodes import layout_name
from ...errors import ConfigurationError
from ...model.source import Database
from ..sql.probe import ANSWER_SECONDS, CLASS, CONNECT_SECONDS, NoAnswer, ProbedDatabase
from .sqlite import MAIN, data_dir

# The pickle of a blob names its class within the first bytes, see blobs/refs.py; no record of a blob comes
# near this size.
BLOB_RECORD: Final = 512


def judge(database: Database, probed: ProbedDatabase) -> list[str]:
    """Compare where the tables say that blobs are with the configuration.

    Return warnings, raise ConfigurationError.
    """
    if not probed.has_table("object_state"):
        return ["the database holds no tables of RelStorage yet"]
    if probed.has_table("blob_chunk") and probed.first("select 1 from blob_chunk limit 1") is not None:
        return _judge_stored(database)
    if (oid := _first_blob(probed)) is not None:
        _require_copied(database, f"0x{oid:016x}")
    return []


def _first_blob(probed: ProbedDatabase) -> int | None:
    """Return the OID of a blob, None when there is none, or when none is found soon among many objects."""
    is_blob = f"state_size between 1 and {BLOB_RECORD} and {probed.class_position} between 1 and 20"
    try:
        found: int | None = probed.first(f"select zoid from object_state where {is_blob} limit 1")
    except NoAnswer:
        return None
    return found


def _require_copied(database: Database, oid: str) -> None:
    """Raise ConfigurationError when the blobs are in a directory that the configuration does not name."""
    if database.blob_mode == "database":
        raise ConfigurationError(
            [
                f"database {database.name}: shared-blob-dir of <relstorage> is off, so its blobs should "
                "be in the database, "
                f"but blob_chunk there is empty and the object {oid} is a blob: the blobs are in a "
                "directory, "
                "and none of them would be copied"
            ],
            "set shared-blob-dir on, with the directory that holds all blobs as blob-dir "
            f"({database.blob_dir} if it is the one)",
        )
    if database.blob_mode == "none":
        raise ConfigurationError(
            [
                f"database {database.name}: <relstorage> says no blob-dir, but the object {oid} is a blob, "
                "and blob_chunk of the database is empty: the blobs are in a directory that is not named, "
                "and none of them would be copied"
            ],
            "name the directory as blob-dir, with shared-blob-dir on; or use the zope.conf that the site "
            "runs with",
        )


def _judge_stored(database: Database) -> list[str]:
    """Return what to say of blobs in the database when they are configured to be elsewhere."""
    if database.blob_mode == "directory":
        return _judge_shared(database, database.blob_dir or "")
    if database.blob_mode == "none":
        return [
            "<relstorage> says no blob-dir, but blob_chunk of the database holds blobs: they are in its dump"
        ]
    if database.blob_mode == "s3":
        return [
            "blobs are configured to be in S3, but blob_chunk of the database holds blobs too, from "
            "before: they are in its dump"
        ]
    return []


def _judge_shared(database: Database, blob_dir: str) -> list[str]:
    """Judge a shared directory: with the mark of a layout it holds all blobs, without one it does not."""
    found = (
        f"the blobs of <relstorage> are configured to be in {blob_dir}, "
        "but blob_chunk of the database holds blobs too"
    )
    if layout_name(blob_dir) in LAYOUTS:
        return [f"{found}, which this storage never reads: they are from before that, and in the dump"]
    raise ConfigurationError(
        [
            f"database {database.name}: {found}, and the directory is none that holds all blobs: a cache "
            "would be taken for all of them"
        ],
        "set shared-blob-dir off, as the blobs are in the database; or name the directory that holds "
        "them all as blob-dir",
    )


@contextlib.contextmanager
def connected_to_sqlite(database: Database) -> Iterator[ProbedDatabase]:
    """Open a database for reading, and leave no file beside it; raise NoAnswer.

    A database that no process has open is read as a file that does not change.
    """
    path = data_dir(database) / MAIN
    log, shared = (path.with_name(f"{path.name}-{suffix}") for suffix in ("wal", "shm"))
    if not path.exists():
        raise NoAnswer(f"{path} does not exist")
    if log.exists() and not shared.exists():
        raise NoAnswer(f"{path} was not closed properly; it is put in order when the site starts")
    how = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, timeout=CONNECT_SECONDS)
    except sqlite3.Error:
        raise NoAnswer(f"{path} cannot be opened") from None
    with contextlib.closing(connection):
        yield ProbedDatabase(
            lambda query: _first(connection, path, query),
            "select 1 from sqlite_master where type = 'table' and name = '{name}'",
            f"instr(state, X'{CLASS}')",
        )


def _first(connection: sqlite3.Connection, path: Path, query: str) -> Any:
    end = time.monotonic() + ANSWER_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    try:
        row = connection.execute(query).fetchone()
    except sqlite3.Error as error:
        raise NoAnswer(f"{path} cannot be read ({type(error).__name__})") from None
    return row[0] if row else None
