"""RelStorage on SQLite: two files, copied by SQLite's own online backup, ``main`` before ``oids``.

In the other order the copy of ``oids`` could be older than that of ``main``, and a restored site would give
OIDs to new objects that are already in use.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from ...blobs.refs import BlobSet
from ...datafs.records import is_blob
from ...errors import Damage, SourceError
from ...model.blob import BlobRef
from ...model.chain import dump_of, file_name
from ...model.manifest import DatabaseEntry, Part, SqliteCopy
from ...model.source import Database
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Checkpointer, CheckReport, Sink
from ..sql.snapshot import StoredDump, advancing
from .tables import BLOB_RECORDS, CLASS_NAME, revisions_of

MAIN, OIDS = "main.sqlite3", "oids.sqlite3"
FILES: Final = (MAIN, OIDS)
CHUNK: Final = 1 << 20
# Seconds to wait for another connection that is committing.
BUSY_TIMEOUT: Final = 30.0
FETCH: Final = 10_000


class SqliteRows:
    """The tables of RelStorage in ``main.sqlite3``, as one read transaction shows them; see ``Rows``."""

    transactions = '"transaction"'
    blob_records = BLOB_RECORDS.format(position=f"instr(state, x'{CLASS_NAME}')")
    revisions = revisions_of(blob_records)

    def __init__(self, database: Database) -> None:
        self.directory = data_dir(database)
        for name in FILES:
            if not (self.directory / name).is_file():
                raise SourceError(
                    f"{self.directory / name} does not exist",
                    "check data-dir in the configuration; both files are needed",
                )
        self._connection = open_read_only(self.directory / MAIN)
        try:
            self.snapshot()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @property
    def versions(self) -> dict[str, str]:
        """Return the version of SQLite."""
        return {"SQLite": sqlite3.sqlite_version}

    def snapshot(self) -> None:
        """Begin another read transaction; it sees what is committed when it reads for the first time."""
        with _translate_errors(self.directory / MAIN):
            self._connection.rollback()
            self._connection.execute("BEGIN")
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchall()

    def has_table(self, name: str) -> bool:
        """Tell whether a table exists."""
        return bool(self.query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = %s", name))

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query in the transaction."""
        with _translate_errors(self.directory / MAIN):
            return self._connection.execute(statement.replace("%s", "?"), parameters).fetchall()

    def stream(self, statement: str, *parameters: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query in the transaction."""
        with (
            _translate_errors(self.directory / MAIN),
            contextlib.closing(self._connection.execute(statement.replace("%s", "?"), parameters)) as cursor,
        ):
            while rows := cursor.fetchmany(FETCH):
                yield from rows

    def release(self) -> None:
        """End the read transaction: the log can be brought into the file again."""
        with _translate_errors(self.directory / MAIN):
            self._connection.rollback()

    def query_latest(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query as of now."""
        with (
            _translate_errors(self.directory / MAIN),
            contextlib.closing(open_read_only(self.directory / MAIN)) as connection,
        ):
            return connection.execute(statement.replace("%s", "?"), parameters).fetchall()

    def align(self) -> bool:
        """Do nothing: the dump is made of this very snapshot."""
        return False

    def dump(
        self, sink: Sink, folder: str, workers: Workers, checkpointer: Checkpointer, progress: Progress
    ) -> StoredDump:
        """Copy both files, the objects first, each through a temporary file."""
        tables = _tables(self._connection)
        parts: list[Part] = []
        with tempfile.TemporaryDirectory(prefix="zodb-vault-") as scratch:
            parts += self._copied(self._connection, Path(scratch) / MAIN, sink, f"{folder}/{MAIN}", progress)
            checkpointer.heartbeat()
            with contextlib.closing(open_read_only(self.directory / OIDS)) as oids:
                parts += self._copied(oids, Path(scratch) / OIDS, sink, f"{folder}/{OIDS}", progress)
        return StoredDump(storage=SqliteCopy, parts=parts, tables=tables)

    def _copied(
        self, source: sqlite3.Connection, copy: Path, sink: Sink, to: str, progress: Progress
    ) -> list[Part]:
        with _translate_errors(copy):
            with contextlib.closing(sqlite3.connect(copy)) as target:
                source.backup(target)
                # one file is the whole database
                target.execute("PRAGMA journal_mode = DELETE")
            writer = sink.content(to, long_distance=True)
            with copy.open("rb") as file:
                while chunk := file.read(CHUNK):
                    progress.advance(len(chunk))
                    writer.write(chunk)
            copy.unlink()
            return writer.close()


def data_dir(database: Database) -> Path:
    """Return the directory of the two files."""
    return Path(database.option("sqlite3.data-dir"))


def location(database: Database) -> str:
    """Return which database it is."""
    return str(data_dir(database) / MAIN)


def check_copy(
    entry: DatabaseEntry, sink: Sink, refs: BlobSet, report: CheckReport, progress: Progress
) -> None:
    """Write both files to a scratch directory and let SQLite check them; compare rows with the snapshot.

    Raise Damage.
    """
    dump = entry.dump
    assert isinstance(dump, SqliteCopy)
    with tempfile.TemporaryDirectory(prefix="zodb-vault-") as scratch:
        write_files(entry, sink, Path(scratch), progress, lambda: None)
        for name in FILES:
            for why in integrity_defects(Path(scratch) / name):
                report.damage("file", f"{name}: {why}")
        with contextlib.closing(sqlite3.connect(Path(scratch) / MAIN)) as connection, damage_named(MAIN):
            tables = _tables(connection)
            if entry.blob_mode in ("directory", "s3"):
                query = f"SELECT zoid, tid, state FROM object_state WHERE {SqliteRows.blob_records}"
                found = (
                    (zoid, tid) for zoid, tid, state in connection.execute(query) if is_blob(bytes(state))
                )
                refs.add(BlobRef(int(zoid).to_bytes(8), int(tid).to_bytes(8), True) for zoid, tid in found)
    for table in sorted(tables.keys() | dump.tables.keys()):
        report.count("rows", tables.get(table, 0))
        if tables.get(table) != dump.tables.get(table):
            wanted = f"{dump.tables.get(table)} in the snapshot that it was made of"
            report.damage("table", f"{table} has {tables.get(table)} rows in the copy, {wanted}")


def write_files(
    entry: DatabaseEntry, sink: Sink, directory: Path, progress: Progress, heartbeat: Callable[[], None]
) -> None:
    """Write the files of a backup; raise Damage when one is missing or damaged."""
    parts = list(dump_of(entry, sink))
    for name in FILES:
        ours = [part for part in parts if file_name(part) == name]
        if not ours:
            raise Damage(f"the backup of {entry.name} has no {name}")
        with (directory / name).open("xb") as file:
            for chunk in advancing(sink.read(ours), progress):
                file.write(chunk)
                heartbeat()
            file.flush()
            os.fsync(file.fileno())


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a file that has to be there, to be read."""
    with _translate_errors(path):
        return sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro",
            uri=True,
            timeout=BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
        )


def _tables(connection: sqlite3.Connection) -> dict[str, int]:
    names = [
        row[0]
        for row in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
        )
    ]
    return {
        name: int(connection.execute(f'SELECT count(*) FROM "{name}"').fetchall()[0][0]) for name in names
    }


def integrity_defects(path: Path) -> Iterator[str]:
    """Yield what SQLite's own integrity check finds."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            yield from (row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok")
    except sqlite3.Error as error:
        yield str(error)


@contextlib.contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise into a SourceError."""
    try:
        yield
    except sqlite3.Error as error:
        raise SourceError(
            f"{path}: {error}",
            "check the file, its permissions and the free space for a copy in the temporary directory",
        ) from None
    except OSError as error:
        raise SourceError(
            f"{path}: {error.strerror}",
            "free space in the temporary directory (TMPDIR), which takes a copy of the database",
        ) from None


@contextlib.contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Turn errors of SQLite into Damage that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise Damage(f"{name} of the backup cannot be read: {error}") from None
