"""A repository in a local directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..errors import KeyChanged, KeyExists, KeyMissing, StoreError
from ..runtime import clock, durable
from .base import ListedKey, require_key, require_prefix

CHUNK: Final = 1 << 20
LOCK_NAME: Final = ".lock"
HINTS: Final = {
    errno.ENOSPC: "free space there, then run the command again; it reuses what is already stored",
    errno.EDQUOT: "raise the quota, then run the command again",
    errno.EROFS: "mount it writable",
    errno.ENOTDIR: "a repository is a directory, and so is everything above it; choose another path",
    errno.EACCES: "run as the user that owns the repository, or correct its permissions",
    errno.EPERM: "the file system refuses hard links or the change; "
    "keep the repository on one that allows them",
    errno.EMLINK: "the file system refuses hard links; keep the repository on one that allows them",
    errno.ENOTSUP: "the file system refuses hard links; keep the repository on one that allows them",
}


class LocalStaging:
    """An unnamed file in the repository, on the same file system as its final path."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        with _translate_errors(store.root, "new content"):
            durable.make_directories(store.root)
            self._file = durable.UnnamedFile(store.root)

    def write(self, data: bytes) -> None:
        """Append bytes."""
        with _translate_errors(self._store.root, "new content"):
            self._file.write(data)

    def store(self, key: str) -> None:
        """Link the file under its key; see the contract."""
        path = self._store.path(key)
        with _translate_errors(self._store.root, key):
            durable.make_directories(path.parent)
            try:
                self._file.link(path)
            except FileExistsError:
                self._store.require_equal(key, self._chunks())
        self._file.discard()

    def discard(self) -> None:
        """Drop the file."""
        self._file.discard()

    def _chunks(self) -> Iterator[bytes]:
        pos = 0
        while chunk := self._file.read_at(CHUNK, pos):
            yield chunk
            pos += len(chunk)


class LocalStore:
    """Keys are files below ``root``: files 0400, directories 0700."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def location(self) -> str:
        """Return the path of the directory."""
        return str(self.root)

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """Store under a new key; see the contract."""
        chunks = list(chunks)
        path = self.path(key)
        with _translate_errors(self.root, key):
            durable.make_directories(path.parent)
            try:
                return durable.write_atomically(path, chunks, exclusive=True)
            except FileExistsError:
                pass
        self.require_equal(key, chunks)
        return sum(map(len, chunks))

    def stage(self) -> LocalStaging:
        """Return an empty staging."""
        return LocalStaging(self)

    def replace(self, key: str, data: bytes, expected: bytes) -> None:
        """Replace exactly ``expected``; see the contract."""
        path = self.path(key)
        with _translate_errors(self.root, key), _exclusive(path.parent):
            self._require(key, expected)
            durable.write_atomically(path, [data], exclusive=False)

    def get(self, key: str) -> bytes:
        """Return the stored bytes."""
        with _translate_errors(self.root, key):
            return self.path(key).read_bytes()

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the stored bytes in chunks."""
        pos = 0
        with _translate_errors(self.root, key), self.path(key).open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                yield chunk
                if len(chunk) == CHUNK:  # a file of 1 MiB or more is content, which is read only once
                    durable.drop_from_cache(file.fileno(), pos, CHUNK)
                pos += len(chunk)

    def list(self, prefix: str) -> Iterator[ListedKey]:
        """Yield the keys below a directory, in byte order."""
        require_prefix(prefix)
        with _translate_errors(self.root, prefix):
            yield from _walk(self.root, self.root / prefix, prefix)

    def stored_at(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Yield the keys below a directory with the times of their files."""
        for entry in self.list(prefix):
            with contextlib.suppress(KeyMissing), _translate_errors(self.root, entry.key):
                yield entry.key, datetime.fromtimestamp((self.root / entry.key).stat().st_mtime, UTC)

    def delete(self, key: str, expected: bytes | None = None) -> None:
        """Remove a key durably."""
        path = self.path(key)
        if not path.parent.is_dir():
            return
        exclusive = contextlib.nullcontext() if expected is None else _exclusive(path.parent)
        with _translate_errors(self.root, key), exclusive:
            if expected is not None and path.exists():
                self._require(key, expected)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            durable.sync_directory(path.parent)

    def temporaries(self) -> Iterator[ListedKey]:
        """Yield the temporary files below the directory."""
        with _translate_errors(self.root, ""):
            for directory, _names, files in os.walk(self.root):
                for name in files:
                    if name.startswith(durable.TEMPORARY_PREFIX):
                        path = os.path.join(directory, name)
                        with contextlib.suppress(FileNotFoundError):
                            yield ListedKey(os.path.relpath(path, self.root), os.stat(path).st_size)

    def remove_temporary(self, name: str) -> None:
        """Remove a temporary file."""
        path = self.root / name
        if not path.name.startswith(durable.TEMPORARY_PREFIX) or ".." in path.parts:
            raise ValueError(f"{name!r} is not a temporary file")
        with _translate_errors(self.root, name), contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def require_equal(self, key: str, chunks: Iterable[bytes]) -> None:
        """Raise KeyExists unless exactly this content is stored: writing the same twice is no conflict."""
        if _digest(chunks) != _digest(self.stream(key)):
            raise KeyExists(f"{key} exists already in {self.location} with other content")
        with _translate_errors(self.root, key):
            # the process that wrote it may have stopped just before the name became durable
            durable.sync_directory(self.path(key).parent)

    def clock(self) -> datetime:
        """Return the clock of this machine."""
        return clock.now()

    def path(self, key: str) -> Path:
        """Return the file of a key; raise ValueError if the key is not valid."""
        require_key(key)
        return self.root / key

    def _require(self, key: str, expected: bytes) -> None:
        try:
            found = self.path(key).read_bytes()
        except FileNotFoundError:
            raise KeyMissing(f"{key} is no longer in {self.location}") from None
        if found != expected:
            raise KeyChanged(f"{key} in {self.location} was changed by another run")


@contextlib.contextmanager
def _translate_errors(root: Path, key: str) -> Iterator[None]:
    """Translate errors of the operating system into the errors of the contract."""
    try:
        yield
    except FileNotFoundError:
        raise KeyMissing(f"{key} is not in {root}") from None
    except OSError as error:
        hint = HINTS.get(error.errno or 0, "")
        where = f" ({key})" if key else ""
        raise StoreError(f"{root}: {os.strerror(error.errno or 0)}{where}", hint) from error


@contextlib.contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory: no other process replaces or removes a known content in it."""
    # a file system has no single call for compare and exchange, so this lock protects the two steps
    fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _walk(root: Path, directory: Path, prefix: str) -> Iterator[ListedKey]:
    """Yield the keys of the files below a directory, in byte order; ``prefix`` is that of the directory."""
    try:
        with os.scandir(directory) as scan:
            found = [
                (entry.name + "/" * entry.is_dir(follow_symlinks=False), entry)
                for entry in scan
                if entry.name[0] != "."
            ]
    except FileNotFoundError:
        return
    except NotADirectoryError:
        if root.is_dir():
            return  # the prefix is the name of a key, so there are no keys below it
        raise
    for name, entry in sorted(found, key=lambda pair: os.fsencode(pair[0])):
        if name.endswith("/"):
            yield from _walk(root, directory / entry.name, prefix + name)
        else:
            with contextlib.suppress(FileNotFoundError):  # deleted since the directory was read
                yield ListedKey(prefix + name, entry.stat().st_size)


def _digest(chunks: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()
