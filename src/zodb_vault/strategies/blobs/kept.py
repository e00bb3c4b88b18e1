"""Files that a restore replaces are kept, and noted so that an abort can put them back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ...runtime import durable
from ...runtime.ownership import Ownership

KEPT_PREFIX: Final = ".zodb-vault-kept-"
ADDED: Final = "added"


class KeptFiles:
    """What a restore does to a blob directory, noted so that the old state can be put back: files that were exchanged, names that are new."""

    def __init__(self, blob_dir: Path, name: str, owner: Ownership) -> None:
        self._blob_dir, self._root, self._owner = blob_dir, blob_dir / name, owner

    def __enter__(self) -> KeptFiles:
        self._make_directories(self._root)
        self._fd = os.open(self._root / ADDED, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        durable.write_all(self._fd, [b"\n"])  # an interrupted run may have ended in the middle of a line
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def add(self, relatives: Iterable[str]) -> None:
        """Note names before there are such files; one write, so that several threads may do it."""
        os.write(self._fd, "".join(f"{relative}\n" for relative in relatives).encode("ascii"))

    def keep(self, relative: str) -> None:
        """Link a file that is about to be exchanged to where it is kept."""
        target = self.path(relative)
        with contextlib.suppress(FileExistsError):  # an interrupted restore has kept it already
            os.link(self._blob_dir / relative, target)
        durable.sync_directory(target.parent)

    def path(self, relative: str) -> Path:
        """Return where a file is kept; its directory is made."""
        target = self._root / relative
        self._make_directories(target.parent)
        return target

    def _make_directories(self, path: Path) -> None:
        if path.is_dir():
            return
        self._make_directories(path.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        if (self._owner.uid, self._owner.gid) != (-1, -1):
            os.chown(path, self._owner.uid, self._owner.gid)
        durable.sync_directory(path.parent)
