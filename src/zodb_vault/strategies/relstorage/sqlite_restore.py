"""Restore a RelStorage on SQLite into a data-dir."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from ...errors import Damage, InUse, TargetRefused
from ...model import tid as tids
from ...model.manifest import SqliteCopy
from ...model.restore import RestorePoint
from ...model.source import Database
from ...runtime import clock
from ...runtime.durable import sync_directory
from ...runtime.ownership import require_links, require_owner
from ..destination import PreflightFinding, RestoreContext, finding_of, require_met
from ..sql.history import truncate
from ..sql.restore import DumpLoad, LoadRequest, PlannedLoad
from .sqlite import (
    FILES,
    MAIN,
    SqliteRows,
    damage_named,
    data_dir,
    integrity_defects,
    open_read_only,
    write_files,
)

# For how many seconds SQLite waits for a lock of another process.
LOCK_SECONDS: Final = 3
# What SQLite keeps beside a file while it is open; it belongs to the old file.
BESIDE: Final = ("-wal", "-shm", "-journal")


def plan_load(database: Database, request: LoadRequest) -> PlannedLoad:
    """Look into the data-dir.

    Raise InUse, TargetRefused when there is a database that is not to be replaced.
    """
    if not isinstance(request.entry.dump, SqliteCopy):
        raise TargetRefused(
            f"the backup of {request.entry.name} is no copy of SQLite files", "restore it with --output DIR"
        )
    directory = data_dir(database)
    require_met(preflight(database))
    exists = _is_there(directory)
    if exists and not request.replace:
        raise TargetRefused(
            f"there is a database in {directory}",
            "restore into an empty data-dir, or give --replace: what is there is kept",
        )
    return PlannedLoad(
        exists=exists,
        way="exchanged by a rename" if exists else "into the empty directory",
        begin=partial(SqliteLoad, directory, request, was_empty=not exists),
        last_tid=_last_tid(directory) if exists else None,
    )


def preflight(database: Database) -> Iterator[PreflightFinding]:
    """Yield whether the files can be replaced, and the old ones be kept, also while the site runs."""
    directory = data_dir(database)
    yield finding_of(
        f"files can be written to {directory} with their owner", partial(_require_owner, directory)
    )
    if _is_there(directory):
        yield finding_of("a hard link can keep the replaced files", partial(_require_links, directory))


def _require_owner(directory: Path) -> None:
    for path in (directory, *(directory / name for name in FILES)):
        require_owner(path, ours=False)


def _require_links(directory: Path) -> None:
    for path in (directory / name for name in FILES):
        if path.exists():
            require_links(path)


def _is_there(directory: Path) -> bool:
    return any((directory / name).exists() for name in FILES)


def _last_tid(directory: Path) -> str | None:
    require_unused(directory)
    try:
        with contextlib.closing(open_read_only(directory / MAIN)) as connection:
            ((last,),) = connection.execute("SELECT max(tid) FROM object_state").fetchall()
    except sqlite3.Error:
        return None  # a damaged one is what restores are for
    return tids.to_hex(int(last).to_bytes(8)) if last is not None else None


def require_unused(directory: Path) -> None:
    """Raise InUse when another process has a file open.

    SQLite is asked to bring the write-ahead log into the file, which it does only where nothing else has the
    file open.
    """
    for path in (directory / name for name in FILES):
        if not path.exists():
            continue
        with contextlib.closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as connection:
            try:
                mode = connection.execute("PRAGMA journal_mode = DELETE").fetchall()[0][0]
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise TargetRefused(f"{path}: {error}", "check its permissions") from None
                mode = "locked"
            except sqlite3.DatabaseError:
                continue  # a damaged one is what restores are for
        if mode != "delete":
            raise InUse(
                f"{path} is in use: another process has it open",
                "stop every process of the application first",
            )


class SqliteLoad(DumpLoad):
    """A copy on its way into a data-dir: written and checked beside the old files, then renamed."""

    def __init__(
        self, directory: Path, request: LoadRequest, context: RestoreContext, *, was_empty: bool
    ) -> None:
        self._directory, self._request, self._context = directory, request, context
        self._was_empty = was_empty
        directory.mkdir(parents=True, exist_ok=True)
        self._scratch = tempfile.TemporaryDirectory(prefix=".restoring-", dir=directory)

    def close(self) -> None:
        """Remove what was not renamed."""
        self._scratch.cleanup()

    def build(self) -> None:
        """Write both files, check them, and truncate them."""
        entry, scratch = self._request.entry, Path(self._scratch.name)
        self._context.progress.begin("storage", entry.dump.size if entry.dump else 0)
        write_files(entry, self._request.objects, scratch, self._context.progress, self._context.heartbeat)
        for name in FILES:
            if defects := list(integrity_defects(scratch / name)):
                raise Damage(f"{name} of the backup is damaged: {defects[0]}")
        if self._request.point is not None:
            truncate_file(scratch / MAIN, self._request.point)

    def make_valid(self) -> list[str]:
        """Rename both files into their places, the objects first; the old ones get names of their own."""
        require_unused(self._directory)
        if self._was_empty and _is_there(self._directory):
            raise TargetRefused(f"there is a database in {self._directory} by now", "look at the plan again")
        # with a random part, so that two restores within a second keep what each replaced
        stamp = f"{clock.now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        kept = [one for name in FILES for one in self._exchange(name, stamp)]
        sync_directory(self._directory)
        return kept

    def _exchange(self, name: str, stamp: str) -> list[str]:
        new, path = Path(self._scratch.name) / name, self._directory / name
        existed = path.exists()
        info = path.stat() if existed else path.parent.stat()
        if os.geteuid() == 0:
            os.chown(new, info.st_uid, info.st_gid)
        os.chmod(new, info.st_mode & 0o777 if existed else 0o644)
        kept = path.with_name(f"{path.name}.replaced-{stamp}")
        if existed:
            os.link(path, kept)
        os.rename(new, path)
        for suffix in BESIDE:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}{suffix}")
        return [str(kept)] if existed else []


def truncate_file(path: Path, point: RestorePoint) -> None:
    """Leave what there was up to a transaction; raise Damage."""
    with damage_named(MAIN), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:

        def do(statement: str) -> None:
            connection.execute(statement)

        def query(statement: str) -> int:
            return int(connection.execute(statement).fetchall()[0][0])

        # durable when the transaction has ended
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN")
        truncate(SqliteRows.revisions, do, query, point)
        connection.execute("COMMIT")
