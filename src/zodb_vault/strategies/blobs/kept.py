"""Note what a restore changes in a blob directory, and keep the files that it replaces.

An undo of the restore needs both.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ...runtime import durable
from ...runtime.ownership import Ownership

KEPT_PREFIX: Final = ".zodb-vault-kept-"
ADDED: Final = "added"


class KeptDirectory:
    """The folder in a blob directory where a restore keeps blobs of the old state, with the same paths."""

    def __init__(self, blob_dir: Path, name: str, owner: Ownership) -> None:
        self._blob_dir, self._root, self._owner = blob_dir, blob_dir / name, owner

    @property
    def added(self) -> Path:
        """Return the path of the list of the blobs that the restore added; make the folder."""
        self._make_directories(self._root)
        return self._root / ADDED

    def path(self, relative: str) -> Path:
        """Return the path where a file is kept; make its directory."""
        target = self._root / relative
        self._make_directories(target.parent)
        return target

    def keep(self, relative: str) -> None:
        """Keep a file that is going to be replaced, by a hard link."""
        target = self.path(relative)
        with contextlib.suppress(FileExistsError):  # an interrupted restore has kept it already
            os.link(self._blob_dir / relative, target)
        durable.sync_directory(target.parent)

    def _make_directories(self, path: Path) -> None:
        if path.is_dir():
            return
        self._make_directories(path.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        if (self._owner.uid, self._owner.gid) != (-1, -1):
            os.chown(path, self._owner.uid, self._owner.gid)
        durable.sync_directory(path.parent)


class ChangeRecord:
    """Notes each change of a blob directory before it happens; several threads may use it at the same time.

    Paths are relative to the blob directory.
    """

    def __init__(self, kept: KeptDirectory, fd: int) -> None:
        self._kept, self._fd = kept, fd

    def add(self, relatives: Iterable[str]) -> None:
        """Note files that do not exist and are going to be written."""
        # a single write, so that the lines of two threads do not mix
        os.write(self._fd, "".join(f"{relative}\n" for relative in relatives).encode("ascii"))

    def keep(self, relative: str) -> None:
        """Keep a file that is going to be replaced."""
        self._kept.keep(relative)


@contextlib.contextmanager
def recorded(kept: KeptDirectory) -> Iterator[ChangeRecord]:
    """Give the record of the changes of a restore, to which a restore that continues appends."""
    fd = os.open(kept.added, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        durable.write_all(fd, [b"\n"])  # an interrupted run may have ended in the middle of a line
        yield ChangeRecord(kept, fd)
    finally:
        os.close(fd)
