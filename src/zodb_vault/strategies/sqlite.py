"""RelStorage on SQLite: two files, copied by SQLite's own online backup, ``main`` before ``oids``.

The other way round OIDs that are in use already would be given again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from ..blobs.refs import BlobSet
from ..datafs.records import is_blob
from ..errors import Damage, InUse, SourceError, TargetRefused
from ..model import clock
from ..model import tid as tids
from ..model.blob import BlobRef
from ..model.chain import dump_of
from ..model.manifest import DatabaseEntry, Part, SqliteCopy
from ..model.source import Database
from ..stores.durable import sync_directory
from .base import Keeper, Point, Progress, Seen, Sink, Verdict, Workers
from .relstorage import BLOB_RECORDS, Dumped
from .relstorage_postgres import advancing
from .revisions import cut, relstorage

MAIN, OIDS = "main.sqlite3", "oids.sqlite3"
FILES: Final = (MAIN, OIDS)
CHUNK: Final = 1 << 20
# How long another connection that is just committing is waited for.
PATIENCE: Final = 30.0
FETCH: Final = 10_000


class SqliteRows:
    """The tables of RelStorage in ``main.sqlite3``, as one read transaction shows them; see ``Rows``."""

    transactions = '"transaction"'
    blob_records = BLOB_RECORDS.format(position=f"instr(state, x'{b'ZODB.blob'.hex()}')")
    revisions = relstorage(blob_records)

    def __init__(self, database: Database) -> None:
        self.directory = data_dir(database)
        for name in FILES:
            if not (self.directory / name).is_file():
                raise SourceError(f"{self.directory / name} does not exist", "check data-dir in the configuration; both files are needed")
        self._connection = _opened(self.directory / MAIN)
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
        with _translated(self.directory / MAIN):
            self._connection.rollback()
            self._connection.execute("BEGIN")
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchall()

    def has_table(self, name: str) -> bool:
        """Tell whether a table exists."""
        return bool(self.ask("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = %s", name))

    def ask(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query in the transaction."""
        with _translated(self.directory / MAIN):
            return self._connection.execute(query.replace("%s", "?"), parameters).fetchall()

    def stream(self, query: str, *parameters: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query in the transaction."""
        with _translated(self.directory / MAIN), contextlib.closing(self._connection.execute(query.replace("%s", "?"), parameters)) as cursor:
            while rows := cursor.fetchmany(FETCH):
                yield from rows

    def let_go(self) -> None:
        """End the read transaction: the log can be brought into the file again."""
        with _translated(self.directory / MAIN):
            self._connection.rollback()

    def ask_now(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query as of now."""
        with _translated(self.directory / MAIN), contextlib.closing(_opened(self.directory / MAIN)) as connection:
            return connection.execute(query.replace("%s", "?"), parameters).fetchall()

    def hold(self) -> bool:
        """Do nothing: the dump is made of this very snapshot."""
        return False

    def dump(self, sink: Sink, folder: str, workers: Workers, keeper: Keeper, progress: Progress) -> Dumped:
        """Copy both files, the objects first, each through a temporary file."""
        tables = _tables(self._connection)
        parts: list[Part] = []
        with tempfile.TemporaryDirectory(prefix="zodb-vault-") as scratch:
            parts += self._copied(self._connection, Path(scratch) / MAIN, sink, f"{folder}/{MAIN}", progress)
            keeper.beat()
            with contextlib.closing(_opened(self.directory / OIDS)) as oids:
                parts += self._copied(oids, Path(scratch) / OIDS, sink, f"{folder}/{OIDS}", progress)
        return Dumped(storage=SqliteCopy, parts=parts, tables=tables)

    def _copied(self, source: sqlite3.Connection, copy: Path, sink: Sink, to: str, progress: Progress) -> list[Part]:
        with _translated(copy):
            with contextlib.closing(sqlite3.connect(copy)) as target:
                source.backup(target)
                # one file is the whole database
                target.execute("PRAGMA journal_mode = DELETE")
            writer = sink.content(to, far=True)
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


def check_copy(entry: DatabaseEntry, sink: Sink, refs: BlobSet, verdict: Verdict, progress: Progress) -> None:
    """Write both files to a scratch directory and let SQLite check them; compare rows with the snapshot. Raise Damage."""
    dump = entry.dump
    assert isinstance(dump, SqliteCopy)
    with tempfile.TemporaryDirectory(prefix="zodb-vault-") as scratch:
        write_files(entry, sink, Path(scratch), progress, lambda: None)
        for name in FILES:
            for why in _defects(Path(scratch) / name):
                verdict.damage("file", f"{name}: {why}")
        with contextlib.closing(sqlite3.connect(Path(scratch) / MAIN)) as connection, _damaged(MAIN):
            tables = _tables(connection)
            if entry.blob_mode in ("directory", "s3"):
                query = f"SELECT zoid, tid, state FROM object_state WHERE {SqliteRows.blob_records}"
                found = ((zoid, tid) for zoid, tid, state in connection.execute(query) if is_blob(bytes(state)))
                refs.add(BlobRef(int(zoid).to_bytes(8), int(tid).to_bytes(8), True) for zoid, tid in found)
    for table in sorted(tables.keys() | dump.tables.keys()):
        verdict.count("rows", tables.get(table, 0))
        if tables.get(table) != dump.tables.get(table):
            wanted = f"{dump.tables.get(table)} in the snapshot that it was made of"
            verdict.damage("table", f"{table} has {tables.get(table)} rows in the copy, {wanted}")


def write_files(entry: DatabaseEntry, sink: Sink, directory: Path, progress: Progress, beat: Callable[[], None]) -> None:
    """Write the files of a backup; raise Damage when one is missing or damaged."""
    parts = list(dump_of(entry, sink))
    for name in FILES:
        ours = [part for part in parts if part.to.endswith(f"/{name}")]
        if not ours:
            raise Damage(f"the backup of {entry.name} has no {name}")
        with (directory / name).open("xb") as file:
            for chunk in advancing(sink.read(ours), progress):
                file.write(chunk)
                beat()
            file.flush()
            os.fsync(file.fileno())


class SqliteDestination:
    """A ``data-dir`` that a copy is to be put into; see ``Destination``."""

    def __init__(self, database: Database) -> None:
        self.directory = data_dir(database)

    def close(self) -> None:
        """Do nothing: no file is held open."""

    def look(self, entry: DatabaseEntry, *, replace: bool, point: Point | None = None) -> Seen:
        """Return what is there; raise InUse while somebody has it open, TargetRefused when it is not to be replaced."""
        if not isinstance(entry.dump, SqliteCopy):
            raise TargetRefused(f"the backup of {entry.name} is no copy of SQLite files", "restore it with --output DIR")
        empty = not any((self.directory / name).exists() for name in FILES)
        if not empty and not replace:
            hint = "restore into an empty data-dir, or give --replace: what is there is kept"
            raise TargetRefused(f"there is a database in {self.directory}", hint)
        last = self._last_tid() if not empty else None
        return Seen(where=str(self.directory), empty=empty, last_tid=last, way="into the empty directory" if empty else "exchanged by a rename")

    def _last_tid(self) -> str | None:
        self._settle()
        try:
            with contextlib.closing(_opened(self.directory / MAIN)) as connection:
                ((last,),) = connection.execute("SELECT max(tid) FROM object_state").fetchall()
        except sqlite3.Error:
            return None  # a damaged one is what restores are for
        return tids.to_hex(int(last).to_bytes(8)) if last is not None else None

    def _settle(self) -> None:
        """Bring everything into the file itself, which needs it for us alone; raise InUse when somebody has it open."""
        for name in FILES:
            path = self.directory / name
            if not path.exists():
                continue
            with contextlib.closing(sqlite3.connect(path, timeout=3)) as connection:
                try:
                    mode = connection.execute("PRAGMA journal_mode = DELETE").fetchall()[0][0]
                except sqlite3.OperationalError as error:
                    if "locked" in str(error):
                        raise InUse(f"{path} is in use: another process has it open", "stop every process of the application first") from None
                    raise TargetRefused(f"{path}: {error}", "check its permissions") from None
                except sqlite3.DatabaseError:
                    continue
                if mode != "delete":
                    raise InUse(f"{path} is in use: another process has it open", "stop every process of the application first")

    def load(
        self, entry: DatabaseEntry, sink: Sink, seen: Seen, progress: Progress, beat: Callable[[], None], point: Point | None = None
    ) -> list[str]:  # fmt: skip
        """Write both files beside the old ones, check them, and exchange them, the objects first."""
        self.directory.mkdir(parents=True, exist_ok=True)
        progress.begin("storage", entry.dump.size if entry.dump else 0)
        # two restores within a second keep what each replaced
        stamp = f"{clock.now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        kept = []
        with tempfile.TemporaryDirectory(prefix=".restoring-", dir=self.directory) as scratch:
            write_files(entry, sink, Path(scratch), progress, beat)
            for name in FILES:
                if defects := list(_defects(Path(scratch) / name)):
                    raise Damage(f"{name} of the backup does not hold: {defects[0]}")
            if point is not None:
                _cut(Path(scratch) / MAIN, point)
            self._settle()
            if seen.empty and any((self.directory / name).exists() for name in FILES):
                raise TargetRefused(f"there is a database in {self.directory} by now", "look at the plan again")
            for name in FILES:
                kept += self._exchange(Path(scratch) / name, self.directory / name, stamp)
        sync_directory(self.directory)
        return kept

    def _exchange(self, new: Path, path: Path, stamp: str) -> list[str]:
        info = path.stat() if path.exists() else path.parent.stat()
        if os.geteuid() == 0:
            os.chown(new, info.st_uid, info.st_gid)
        os.chmod(new, info.st_mode & 0o777 if path.exists() else 0o644)
        kept = path.with_name(f"{path.name}.replaced-{stamp}")
        existed = path.exists()
        if existed:
            os.link(path, kept)
        os.rename(new, path)
        for leftover in ("-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}{leftover}")
        return [str(kept)] if existed else []


def _cut(path: Path, point: Point) -> None:
    """Leave what there was up to a transaction; raise Damage."""
    with _damaged(MAIN), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:

        def do(statement: str) -> None:
            connection.execute(statement)

        def ask(query: str) -> int:
            return int(connection.execute(query).fetchall()[0][0])

        # durable when the transaction has ended
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN")
        cut(SqliteRows.revisions, do, ask, point)
        connection.execute("COMMIT")


def _opened(path: Path) -> sqlite3.Connection:
    """Open a file that has to be there, to be read."""
    with _translated(path):
        return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False)


def _tables(connection: sqlite3.Connection) -> dict[str, int]:
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")]
    return {name: int(connection.execute(f'SELECT count(*) FROM "{name}"').fetchall()[0][0]) for name in names}


def _defects(path: Path) -> Iterator[str]:
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            yield from (row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok")
    except sqlite3.Error as error:
        yield str(error)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise into a SourceError."""
    try:
        yield
    except sqlite3.Error as error:
        raise SourceError(f"{path}: {error}", "check the file, its permissions and the free space for a copy in the temporary directory") from None
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}", "free space in the temporary directory (TMPDIR), which takes a copy of the database") from None


@contextlib.contextmanager
def _damaged(name: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Damage(f"{name} of the backup cannot be read: {error}") from None
