"""A repository in a local directory."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..errors import KeyChanged, KeyExists, KeyMissing
from ..runtime import clock, durable
from ..runtime.new_files import GROUP_DIRECTORY, NewFiles, new_files_below
from .base import ListedKey, require_key, require_prefix
from .local_errors import translate_errors

CHUNK: Final = 1 << 20
LOCK_NAME: Final = ".lock"


class LocalStaging:
    """An unnamed file in the repository, on the same file system as its final path."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        with translate_errors(store.root, "new content"):
            durable.make_directories(store.root, store.new_files)
            self._file = durable.UnnamedFile(store.root, store.new_files)

    def write(self, data: bytes) -> None:
        """Append bytes."""
        with translate_errors(self._store.root, "new content"):
            self._file.write(data)

    def store(self, key: str) -> None:
        """Link the file under its key; see the contract."""
        path = self._store.path(key)
        with translate_errors(self._store.root, key):
            durable.make_directories(path.parent, self._store.new_files)
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
    """Keys are files below ``root``.

    Files have the mode 0400 and directories 0700, with group access 0640 and 02750. As root, they belong to
    the owner of ``root``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def location(self) -> str:
        """Return the path of the directory."""
        return str(self.root)

    @property
    def new_files(self) -> NewFiles:
        """Return how new files and directories are made."""
        return new_files_below(self.root)

    def share_with_group(self) -> None:
        """Let the group of the directory read everything that is stored from now on.

        The mode of the directory is the record of it, so every later writer does the same.
        """
        with translate_errors(self.root, ""):
            durable.make_directories(self.root, self.new_files)
            os.chmod(self.root, GROUP_DIRECTORY)
            durable.sync_directory(self.root)

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """Store under a new key; see the contract."""
        chunks = list(chunks)
        path = self.path(key)
        with translate_errors(self.root, key):
            durable.make_directories(path.parent, self.new_files)
            try:
                return durable.write_atomically(path, chunks, exclusive=True, new=self.new_files)
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
        with translate_errors(self.root, key), _exclusive(path.parent, self.new_files):
            self._require(key, expected)
            durable.write_atomically(path, [data], exclusive=False, new=self.new_files)

    def get(self, key: str) -> bytes:
        """Return the stored bytes."""
        with translate_errors(self.root, key):
            return self.path(key).read_bytes()

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the stored bytes in chunks."""
        pos = 0
        with translate_errors(self.root, key), self.path(key).open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                yield chunk
                if len(chunk) == CHUNK:  # a file of 1 MiB or more is content, which is read only once
                    durable.drop_from_cache(file.fileno(), pos, CHUNK)
                pos += len(chunk)

    def list(self, prefix: str) -> Iterator[ListedKey]:
        """Yield the keys below a directory, in byte order."""
        require_prefix(prefix)
        with translate_errors(self.root, prefix):
            yield from _walk(self.root, self.root / prefix, prefix)

    def stored_at(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Yield the keys below a directory with the times of their files."""
        for entry in self.list(prefix):
            with contextlib.suppress(KeyMissing), translate_errors(self.root, entry.key):
                yield entry.key, datetime.fromtimestamp((self.root / entry.key).stat().st_mtime, UTC)

    def delete(self, key: str, expected: bytes | None = None) -> None:
        """Remove a key durably."""
        path = self.path(key)
        if not path.parent.is_dir():
            return
        exclusive = contextlib.nullcontext() if expected is None else _exclusive(path.parent, self.new_files)
        with translate_errors(self.root, key), exclusive:
            if expected is not None and path.exists():
                self._require(key, expected)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            durable.sync_directory(path.parent)

    def temporaries(self) -> Iterator[ListedKey]:
        """Yield the temporary files below the directory."""
        with translate_errors(self.root, ""):
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
        with translate_errors(self.root, name), contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def require_equal(self, key: str, chunks: Iterable[bytes]) -> None:
        """Raise KeyExists unless exactly this content is stored: writing the same twice is no conflict."""
        if _digest(chunks) != _digest(self.stream(key)):
            raise KeyExists(f"{key} exists already in {self.location} with other content")
        with translate_errors(self.root, key):
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
def _exclusive(directory: Path, new: NewFiles) -> Iterator[None]:
    """Hold the lock of a directory: no other process replaces or removes a known content in it."""
    # a file system has no single call for compare and exchange, so this lock protects the two steps
    fd = _open_lock(directory / LOCK_NAME, new)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _open_lock(path: Path, new: NewFiles) -> int:
    """Open the lock file, which belongs to the owner of the repository. Its name never leads elsewhere."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        if new.uid != -1:
            os.fchown(fd, new.uid, new.gid)
        return fd
    return os.open(path, flags)


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
