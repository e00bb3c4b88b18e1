"""Open the Data.fs of a running site, once for a whole run."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ...datafs.tail import check_magic
from ...errors import SourceError

# Seconds to wait before each new try. A pack renames Data.fs away, then the packed file into its place: for a
# moment there is no Data.fs.
PACK_WINDOW: Final = (0.05, 0.2, 0.75)


class DataFile:
    """One open file: it can still be read after a pack has put another file in its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = _open(path)
        try:
            with self.readable():
                check_magic(self.fd, str(path))
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    def read_at(self, length: int, pos: int) -> bytes:
        """Return up to ``length`` bytes at a position, fewer at the end of the file; raise SourceError."""
        with self.readable():
            return os.pread(self.fd, length, pos)

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """Turn the error of a failed read into a SourceError that names the file."""
        try:
            yield
        except OSError as error:
            raise SourceError(
                f"{self.path} cannot be read: {error.strerror}", "check the disk and the system log"
            ) from None

    def replaced(self) -> bool:
        """Tell whether there is another file, or none, under the path now."""
        try:
            now = os.stat(self.path)
        except FileNotFoundError:
            return True
        return not os.path.samestat(now, os.fstat(self.fd))


def _open(path: Path) -> int:
    for pause in PACK_WINDOW:
        try:
            return _open_regular(path)
        except FileNotFoundError:
            time.sleep(pause)
    try:
        return _open_regular(path)
    except FileNotFoundError:
        raise SourceError(
            f"{path} does not exist", "check the path given with --data-fs or in zope.conf"
        ) from None


def _open_regular(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise SourceError(
            f"{path} may not be read by uid {os.geteuid()}", "run as the user that owns the site"
        ) from None
    except NotADirectoryError:
        raise SourceError(
            f"{path} does not exist: a part of its path is not a directory", "check the path"
        ) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        what = "a directory" if path.is_dir() else "not a regular file"
        raise SourceError(f"{path} is {what}, not a Data.fs", "name the Data.fs itself")
    return fd
