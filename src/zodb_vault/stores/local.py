"""A repository in a local directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from ..errors import KeyChanged, KeyExists, KeyMissing, StoreError
from ..model import clock
from . import durable
from .base import Entry

CHUNK: Final = 1 << 20
LOCK_NAME: Final = ".lock"
KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*\Z")
HINTS: Final = {
    errno.ENOSPC: "free space there, then run the command again; what is stored already is used",
    errno.EDQUOT: "raise the quota, then run the command again",
    errno.EROFS: "mount it writable",
    errno.EACCES: "run as the user that owns the repository, or correct its permissions",
    errno.EPERM: "the file system refuses hard links or the change; keep the repository on one that allows them",
    errno.EMLINK: "the file system refuses hard links; keep the repository on one that allows them",
    errno.ENOTSUP: "the file system refuses hard links; keep the repository on one that allows them",
}


class LocalStore:
    """Keys are files below ``root``: files 0400, directories 0700."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def location(self) -> str:
        """Return the directory."""
        return str(self.root)

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """Store under a new key; see the contract."""
        chunks = list(chunks)
        path = self._path(key)
        with self._translated(key):
            durable.make_directories(path.parent)
            try:
                return durable.write(path, chunks, exclusive=True)
            except FileExistsError:
                pass
        if self.get(key) != b"".join(chunks):
            raise KeyExists(f"{key} exists already in {self.location} with other content")
        return sum(map(len, chunks))

    def replace(self, key: str, data: bytes, expected: bytes) -> None:
        """Exchange exactly ``expected``; see the contract."""
        path = self._path(key)
        with self._exclusive(key):
            self._require(key, expected)
            durable.write(path, [data], exclusive=False)

    def get(self, key: str) -> bytes:
        """Return what is stored."""
        with self._translated(key):
            return self._path(key).read_bytes()

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield what is stored in chunks."""
        with self._translated(key), self._path(key).open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yield the keys below a directory, in byte order."""
        if prefix and not prefix.endswith("/"):
            raise ValueError("a prefix ends with /")
        with self._translated(prefix):
            yield from self._walk(self.root / prefix, prefix)

    def delete(self, key: str, expected: bytes | None = None) -> None:
        """Remove a key durably."""
        path = self._path(key)
        if not path.parent.is_dir():
            return
        with self._exclusive(key) if expected is not None else self._translated(key):
            if expected is not None:
                self._require(key, expected)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            durable.sync_directory(path.parent)

    def clock(self) -> datetime:
        """Return the clock of this machine."""
        return clock.now()

    def _walk(self, directory: Path, prefix: str) -> Iterator[Entry]:
        try:
            with os.scandir(directory) as scan:
                found = [(entry.name + "/" * entry.is_dir(follow_symlinks=False), entry) for entry in scan if entry.name[0] != "."]
        except FileNotFoundError:
            return
        for name, entry in sorted(found, key=lambda pair: pair[0].encode()):
            if name.endswith("/"):
                yield from self._walk(directory / entry.name, prefix + name)
            else:
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    yield Entry(prefix + name, entry.stat().st_size)

    def _path(self, key: str) -> Path:
        if not KEY.match(key):
            raise ValueError(f"{key!r} is not a key")
        return self.root / key

    def _require(self, key: str, expected: bytes) -> None:
        try:
            found = self._path(key).read_bytes()
        except FileNotFoundError:
            raise KeyMissing(f"{key} is gone from {self.location}") from None
        if found != expected:
            raise KeyChanged(f"{key} in {self.location} was changed by another run")

    @contextlib.contextmanager
    def _exclusive(self, key: str) -> Iterator[None]:
        # compare and exchange is no single call of a file system: whoever does it holds this lock
        with self._translated(key):
            fd = os.open(self._path(key).parent / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise KeyMissing(f"{key} is not in {self.location}") from None
        except OSError as error:
            hint = HINTS.get(error.errno or 0, "")
            raise StoreError(f"{self.location}: {os.strerror(error.errno or 0)} ({key})", hint) from error
