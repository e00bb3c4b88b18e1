"""A store in memory: fast enough to break every byte of a repository, and easy to wrap."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from zodb_vault.errors import KeyChanged, KeyExists, KeyMissing
from zodb_vault.runtime import clock
from zodb_vault.stores.base import KEY, ListedKey
from zodb_vault.stores.local import LocalStore

CHUNK = 1 << 20


class MemoryStaging:
    """Content without a key."""

    def __init__(self, store: MemoryStore) -> None:
        self._store, self._chunks = store, list[bytes]()

    def write(self, data: bytes) -> None:
        self._chunks.append(bytes(data))

    def store(self, key: str) -> None:
        self._store.put(key, self._chunks)

    def discard(self) -> None:
        self._chunks = []


class MemoryStore:
    """``content`` is all there is; tests may change it without the knowledge of the store's user."""

    location = "/memory"

    def __init__(self, content: dict[str, bytes] | None = None) -> None:
        self.content = {} if content is None else content
        self._lock = threading.RLock()

    @classmethod
    def of(cls, root: Path) -> MemoryStore:
        """Return a copy of a local store."""
        store = LocalStore(root)
        return cls({entry.key: store.get(entry.key) for entry in store.list("")})

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        data = b"".join(chunks)
        with self._lock:
            if self.content.setdefault(_checked(key), data) != data:
                raise KeyExists(f"{key} exists already in {self.location} with other content")
        return len(data)

    def stage(self) -> MemoryStaging:
        return MemoryStaging(self)

    def replace(self, key: str, data: bytes, expected: bytes) -> None:
        with self._lock:
            if self.get(key) != expected:
                raise KeyChanged(f"{key} in {self.location} was changed by another run")
            self.content[key] = data

    def get(self, key: str) -> bytes:
        try:
            return self.content[_checked(key)]
        except KeyError:
            raise KeyMissing(f"{key} is not in {self.location}") from None

    def stream(self, key: str) -> Iterator[bytes]:
        data = self.get(key)
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]

    def list(self, prefix: str) -> Iterator[ListedKey]:
        if prefix and not (prefix.endswith("/") and KEY.match(prefix[:-1])):
            raise ValueError(f"{prefix!r} is not a prefix: a prefix ends with /")
        with self._lock:
            found = sorted(
                ListedKey(key, len(data)) for key, data in self.content.items() if key.startswith(prefix)
            )
        yield from found

    def delete(self, key: str, expected: bytes | None = None) -> None:
        with self._lock:
            if expected is not None and self.content.get(_checked(key), expected) != expected:
                raise KeyChanged(f"{key} in {self.location} was changed by another run")
            self.content.pop(_checked(key), None)

    def clock(self) -> datetime:
        return clock.now()


def _checked(key: str) -> str:
    if not KEY.match(key):
        raise ValueError(f"{key!r} is not a key")
    return key
