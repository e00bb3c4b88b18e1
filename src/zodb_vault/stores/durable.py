"""The one way bytes become durable: a temporary file in the same directory, fsync, its final name, fsync of the directory."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

TEMPORARY_PREFIX: Final = ".tmp-"


def write(path: Path, chunks: Iterable[bytes], *, exclusive: bool, mode: int = 0o400) -> int:
    """Write the joined chunks under the name ``path`` and return their length.

    Exclusive: raise FileExistsError when the name is taken, also by a run of this very moment; else take its place.
    At any moment the name stands for nothing, the old content or the whole new one.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        try:
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


def write_all(fd: int, chunks: Iterable[bytes]) -> int:
    """Write every byte of every chunk; the system may take less than it was offered."""
    size = 0
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            written = os.write(fd, view)
            view, size = view[written:], size + written
    return size


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directories(path: Path, mode: int = 0o700) -> None:
    """Make a directory and its parents, each durable in its own parent; an existing one is left as it is."""
    missing = list(_missing(path))
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, mode)
        sync_directory(directory.parent)


def _missing(path: Path) -> Iterator[Path]:
    while not path.is_dir():
        if path.exists():
            raise NotADirectoryError(20, "is in the way and not a directory", str(path))
        yield path
        path = path.parent
