"""Restore a backup into the directory of a site."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from pathlib import Path

import zc.lockfile

from zodb_vault.errors import InUse, TargetRefused
from zodb_vault.model.chain import dump_of, file_name
from zodb_vault.model.manifest import StoredFiles
from zodb_vault.model.restore import DestinationOptions, TargetState, UnfinishedRestore
from zodb_vault.model.source import Database
from zodb_vault.runtime import durable
from zodb_vault.runtime.new_files import NewFiles
from zodb_vault.strategies.destination import (
    DatabaseRestore,
    Destination,
    PlannedRestore,
    RestoreContext,
    RestoreSource,
)

from .capture import tid_of
from .storage import lock_file, transaction_files


class MsgpackDestination(Destination):
    """The directory of a site; see ``zodb_vault.strategies.destination.Destination``."""

    def __init__(self, database: Database, options: DestinationOptions) -> None:
        self._path, self._options = Path(database.option("path")), options

    @property
    def where(self) -> str:
        """Return the directory."""
        return str(self._path)

    @property
    def writes(self) -> list[Path]:
        """Return the directory."""
        return [self._path]

    def inspect(self, source: RestoreSource, unfinished: Collection[UnfinishedRestore]) -> PlannedRestore:
        """Look at what is there; raise TargetRefused for transactions that are not to be replaced."""
        if not isinstance(source.entry.storage, StoredFiles):
            raise TargetRefused(f"the backup holds no files of {source.entry.name}", "restore another backup")
        files = transaction_files(self._path)
        if files and not self._options.replace:
            raise TargetRefused(
                f"there are transactions in {self._path}",
                "restore into an empty directory, or give --replace: what is there is kept",
            )
        state = TargetState(
            where=self.where,
            location=self.where,
            content="files",
            exists=bool(files),
            last_tid=tid_of(files[-1].name) if files else None,
            unsaved=bool(files) and not self._options.elsewhere,
            way="the old directory is renamed, then the new one",
        )
        return PlannedRestore(state, partial(MsgpackRestore, self._path, source))

    def hold(self) -> AbstractContextManager[object]:
        """Hold the lock of the storage; raise InUse while a process has it open."""
        return _held(self._path)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    try:
        lock = zc.lockfile.LockFile(str(lock_file(path)))
    except zc.lockfile.LockError:
        raise InUse(f"a process has {path} open", "stop every process of the application first") from None
    with contextlib.closing(lock):
        yield


class MsgpackRestore(DatabaseRestore):
    """Writes a new directory beside the old one, and renames both."""

    def __init__(self, path: Path, source: RestoreSource, context: RestoreContext) -> None:
        super().__init__()
        self._path, self._source, self._context = path, source, context
        self._new = path.with_name(f"{path.name}.restoring-{context.restore}")

    def build(self) -> None:
        """Write the files, each durable."""
        self._new.mkdir(parents=True)
        for name, parts in groupby(dump_of(self._source.entry, self._source.objects), file_name):
            content = self._source.objects.read(parts)
            durable.write_atomically(self._new / name, content, exclusive=True, new=NewFiles(0o600))
            self._context.heartbeat()

    def make_valid(self) -> None:
        """Rename the old directory, then the new one.

        After an interruption in between there is no directory, so no process can use it: repeat the restore.
        """
        if self._path.exists():
            kept = self._path.with_name(f"{self._path.name}.replaced-{self._context.restore}")
            os.rename(self._path, kept)
            self.kept.append(str(kept))
        os.rename(self._new, self._path)
        durable.sync_directory(self._path.parent)

    def close(self) -> None:
        """Remove a new directory that is not valid."""
        shutil.rmtree(self._new, ignore_errors=True)
