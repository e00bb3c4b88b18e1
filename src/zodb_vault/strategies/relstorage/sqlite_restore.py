"""Restore a RelStorage on SQLite into a data-dir."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...errors import Damage, InUse, TargetRefused
from ...model import tid as tids
from ...model.manifest import DatabaseEntry, SqliteCopy
from ...model.source import Database
from ...runtime import clock
from ...runtime.durable import sync_directory
from ...runtime.progress import Progress
from ..base import RestorePoint, Sink, TargetState
from ..sql.history import cut
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


class SqliteDestination:
    """A ``data-dir`` that a copy is to be put into; see ``Destination``."""

    def __init__(self, database: Database) -> None:
        self.directory = data_dir(database)

    def close(self) -> None:
        """Do nothing: no file is held open."""

    def look(self, entry: DatabaseEntry, *, replace: bool, point: RestorePoint | None = None) -> TargetState:
        """Return what is there; raise InUse while somebody has it open, TargetRefused when it is not to be replaced."""
        if not isinstance(entry.dump, SqliteCopy):
            raise TargetRefused(
                f"the backup of {entry.name} is no copy of SQLite files", "restore it with --output DIR"
            )
        empty = not any((self.directory / name).exists() for name in FILES)
        if not empty and not replace:
            hint = "restore into an empty data-dir, or give --replace: what is there is kept"
            raise TargetRefused(f"there is a database in {self.directory}", hint)
        last = self._last_tid() if not empty else None
        return TargetState(
            where=str(self.directory),
            empty=empty,
            last_tid=last,
            way="into the empty directory" if empty else "exchanged by a rename",
        )

    def _last_tid(self) -> str | None:
        self._settle()
        try:
            with contextlib.closing(open_read_only(self.directory / MAIN)) as connection:
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
                        raise InUse(
                            f"{path} is in use: another process has it open",
                            "stop every process of the application first",
                        ) from None
                    raise TargetRefused(f"{path}: {error}", "check its permissions") from None
                except sqlite3.DatabaseError:
                    continue
                if mode != "delete":
                    raise InUse(
                        f"{path} is in use: another process has it open",
                        "stop every process of the application first",
                    )

    def load(
        self,
        entry: DatabaseEntry,
        sink: Sink,
        seen: TargetState,
        progress: Progress,
        beat: Callable[[], None],
        point: RestorePoint | None = None,
    ) -> list[str]:
        """Write both files beside the old ones, check them, and exchange them, the objects first."""
        self.directory.mkdir(parents=True, exist_ok=True)
        progress.begin("storage", entry.dump.size if entry.dump else 0)
        # two restores within a second keep what each replaced
        stamp = f"{clock.now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        kept = []
        with tempfile.TemporaryDirectory(prefix=".restoring-", dir=self.directory) as scratch:
            write_files(entry, sink, Path(scratch), progress, beat)
            for name in FILES:
                if defects := list(integrity_defects(Path(scratch) / name)):
                    raise Damage(f"{name} of the backup does not hold: {defects[0]}")
            if point is not None:
                _truncate(Path(scratch) / MAIN, point)
            self._settle()
            if seen.empty and any((self.directory / name).exists() for name in FILES):
                raise TargetRefused(
                    f"there is a database in {self.directory} by now", "look at the plan again"
                )
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


def _truncate(path: Path, point: RestorePoint) -> None:
    """Leave what there was up to a transaction; raise Damage."""
    with damage_named(MAIN), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:

        def do(statement: str) -> None:
            connection.execute(statement)

        def ask(query: str) -> int:
            return int(connection.execute(query).fetchall()[0][0])

        # durable when the transaction has ended
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN")
        cut(SqliteRows.revisions, do, ask, point)
        connection.execute("COMMIT")
