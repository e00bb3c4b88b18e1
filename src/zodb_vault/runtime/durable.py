"""Write files durably.

The steps are a temporary file in the same directory, fsync, its final name, and fsync of the directory.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, cast

from ..errors import StoreError
from .new_files import PRIVATE, NewFiles


def sync_file_system(path: Path) -> None:
    """Make all writes to the file system of ``path`` durable; raise StoreError."""
    import ctypes  # nothing but a restore needs it

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(library, "syncfs"):
            os.sync()
        elif library.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise StoreError(
                f"{path} could not be written to the disk: {os.strerror(number)}",
                "check the disk; nothing was switched over",
            )
    finally:
        os.close(fd)


def write_file(
    path: str, chunks: Iterable[memoryview], mode: int, settle: Callable[[int], None], *, exclusive: bool
) -> int:
    """Write a file that no other process uses yet, and return its length in bytes.

    ``settle`` gets its descriptor after the last byte. Raise FileExistsError (``exclusive``) or
    FileNotFoundError before the first chunk is read.
    """
    fd = os.open(
        path, os.O_WRONLY | os.O_CREAT | (os.O_EXCL if exclusive else os.O_TRUNC) | os.O_CLOEXEC, mode
    )
    try:
        size = write_all(fd, chunks)
        settle(fd)
    finally:
        os.close(fd)
    return size


TEMPORARY_PREFIX: Final = ".tmp-"
# An unnamed file gets its name through this directory; a chroot without /proc does not have it.
DESCRIPTORS: Final = "/proc/self/fd"
# The errors of file systems and kernels without O_TMPFILE (open(2)).
NO_ANONYMOUS_FILES: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
SYNC_FILE_RANGE_WRITE: Final = 2
# A longer file is content, which is not read again soon: it leaves the page cache.
DOCUMENT: Final = 1 << 20


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    import ctypes  # nothing but a restore needs it

    found = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if found is None:
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return cast(Callable[[int, int, int, int], int], found)


def write_atomically(path: Path, chunks: Iterable[bytes], *, exclusive: bool, new: NewFiles = PRIVATE) -> int:
    """Write the joined chunks to ``path`` and return their length in bytes.

    The name appears or changes atomically: a reader finds no file, the old content or the new content.
    ``exclusive``: raise FileExistsError when the name exists, even if another process makes it at the same
    time. Otherwise an existing file is replaced.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, new.file_mode)
    try:
        try:
            new.settle_file(fd)
            size = write_all(fd, chunks)
            os.fsync(fd)
        finally:
            os.close(fd)
        if exclusive:
            os.link(temporary, path)
        else:
            os.rename(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_directory(path.parent)
    return size


class UnnamedFile:
    """A file that is written without a name, and gets its name when it is complete and durable.

    If the process ends before that, no file is left, provided the file system supports O_TMPFILE. Otherwise a
    temporary file may be left.
    """

    def __init__(self, directory: Path, new: NewFiles = PRIVATE) -> None:
        self._temporary: Path | None = None
        fd = _anonymous(directory, new.file_mode)
        if fd is None:
            self._temporary = directory / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
            fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, new.file_mode)
        self._fd = fd
        self._end = weakref.finalize(self, _discard, self._fd, self._temporary)
        new.settle_file(fd)

    def write(self, data: bytes) -> None:
        """Append bytes."""
        write_all(self._fd, [data])

    def link(self, path: Path) -> None:
        """Make the content durable under a new name; raise FileExistsError when the name exists."""
        os.fsync(self._fd)
        drop_from_cache(self._fd, DOCUMENT, 0)
        if self._temporary is None:
            # the directory descriptor makes Python call linkat, which follows the link in /proc to the file
            os.link(f"{DESCRIPTORS}/{self._fd}", path, src_dir_fd=self._fd, follow_symlinks=True)
        else:
            os.link(self._temporary, path)
        sync_directory(path.parent)

    def read_at(self, length: int, pos: int) -> bytes:
        """Return at most ``length`` bytes from the position ``pos``."""
        return os.pread(self._fd, length, pos)

    def discard(self) -> None:
        """Close the file; without a name its content is removed."""
        self._end()


def _anonymous(directory: Path, mode: int) -> int | None:
    """Return the descriptor of a new unnamed file; None if the system cannot make or link such files."""
    if not os.path.isdir(DESCRIPTORS):
        return None
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno in NO_ANONYMOUS_FILES:
            return None
        raise


def _discard(fd: int, temporary: Path | None) -> None:
    os.close(fd)
    if temporary is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def write_all(fd: int, chunks: Iterable[bytes | memoryview]) -> int:
    """Write all bytes of all chunks, also when a write is partial, and return their number."""
    size = 0
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            written = os.write(fd, view)
            view, size = view[written:], size + written
    return size


def start_writeback(fd: int, pos: int, size: int) -> None:
    """Let the system begin to write a range of a file to the disk, so that a later fsync is faster.

    It does nothing on systems without ``sync_file_range``.
    """
    if (call := _sync_file_range()) is not None:
        call(fd, pos, size, SYNC_FILE_RANGE_WRITE)


def drop_from_cache(fd: int, pos: int, size: int) -> None:
    """Advise the system that a range of a file is not read again soon.

    This leaves the page cache to the site, which needs it.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # advice only
            os.posix_fadvise(fd, pos, size, os.POSIX_FADV_DONTNEED)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directories(path: Path, new: NewFiles = PRIVATE) -> None:
    """Make a directory and its parents durably; existing directories stay unchanged.

    Raise NotADirectoryError when a file has the name of one of them.
    """
    missing = list(_missing(path))
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            new.make_directory(directory)
        sync_directory(directory.parent)


def _missing(path: Path) -> Iterator[Path]:
    while not path.is_dir():
        # is_dir again: another process may have made the directory in between
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(20, "is in the way and not a directory", str(path))
        yield path
        path = path.parent
