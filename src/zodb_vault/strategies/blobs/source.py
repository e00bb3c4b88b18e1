"""The sources of blobs: what a source of blobs offers, and a blob directory in one of the layouts of ZODB."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final, Protocol

from ...blobs.layout import LAYOUTS
from ...errors import SourceError
from ...model.blob import BlobRef

# Errors that mean that there is no such file.
GONE: Final = (errno.ENOENT, errno.ENOTDIR)


class OpenedBlob(Protocol):
    """A blob that is being read: its length, and when it was written."""

    @property
    def size(self) -> int:
        """Return how many bytes it has."""
        ...

    @property
    def mtime(self) -> int:
        """Return when it was written, in seconds since 1970."""
        ...

    def read(self, length: int) -> bytes:
        """Return the next bytes, at most ``length``, and no bytes at the end; raise SourceError."""
        ...

    def close(self) -> None:
        """End reading."""
        ...


class BlobSource(Protocol):
    """Where the blobs of a storage are.

    ``remote`` tells that a service gives the blobs. Each request takes time, so many are sent at once.
    """

    remote: bool

    @property
    def root(self) -> Path | str:
        """Return the whole place, as messages name it."""
        ...

    def path(self, ref: BlobRef) -> Path | str:
        """Return where a blob should be, as messages name it."""
        ...

    def open(self, ref: BlobRef) -> OpenedBlob | None:
        """Return a blob, None when it is not there; raise SourceError when it cannot be opened."""
        ...


class OpenBlobFile:
    """A blob that is a file."""

    def __init__(self, directory: BlobDirectory, ref: BlobRef, fd: int) -> None:
        self._directory, self._ref, self._fd = directory, ref, fd
        info = os.fstat(fd)
        self.size, self.mtime = info.st_size, int(info.st_mtime)

    def read(self, length: int) -> bytes:
        """Return the next bytes."""
        return self._directory.read(self._ref, self._fd, length)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class BlobDirectory:
    """A blob directory; ``kept`` gives the blobs that a pack moved to ``<blob-dir>.old``."""

    remote = False

    def __init__(self, root: Path, layout: str) -> None:
        self.root, self.layout = root, layout
        self._path_of = LAYOUTS[layout]

    def path(self, ref: BlobRef) -> Path:
        """Return where the blob should be."""
        return self.root / self._path_of(ref.oid, ref.tid)

    def open(self, ref: BlobRef) -> OpenBlobFile | None:
        """Return the open file, or None when there is no such file.

        Raise SourceError when it cannot be opened.
        """
        path = f"{self.root}/{self._path_of(ref.oid, ref.tid)}"
        try:
            return OpenBlobFile(self, ref, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in GONE:
                return None
            raise self._unreadable(ref, error) from None

    def read(self, ref: BlobRef, fd: int, length: int) -> bytes:
        """Return the next bytes of an open blob; raise SourceError."""
        try:
            return os.read(fd, length)
        except OSError as error:
            raise self._unreadable(ref, error) from None

    def _unreadable(self, ref: BlobRef, error: OSError) -> SourceError:
        why = os.strerror(error.errno or 0)
        return SourceError(
            f"the blob {self.path(ref)} cannot be read: {why}",
            "run as the user that owns the site, and check the disk",
        )

    def kept(self) -> BlobDirectory | None:
        """Return the directory where a pack keeps the blobs that it removed, None when there is none."""
        old = Path(f"{self.root}.old")
        return BlobDirectory(old, self.layout) if old.is_dir() else None
