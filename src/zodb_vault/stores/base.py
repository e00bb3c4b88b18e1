"""The contract of a store. Each sentence of it is a test in ``tests/contracts/test_store_contract.py``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """A key and the size of what is stored under it."""

    key: str
    size: int


class Staging(Protocol):
    """Content that gets its key when it is complete, because the key depends on it."""

    def write(self, data: bytes) -> None:
        """Append; what is written takes no memory where the store can help it."""
        ...

    def store(self, key: str) -> None:
        """Store everything written under a new key, as ``put`` does."""
        ...

    def discard(self) -> None:
        """Forget everything written; a staging that is neither stored nor discarded leaves nothing behind either."""
        ...


class Store(Protocol):
    """Keys are relative paths with ``/``; a prefix is a directory and ends with ``/``; anything else is a ValueError.

    Every write is durable when the call returns and is seen by the next call of any process.
    What is stored appears whole or not at all. Failures of the medium raise StoreError.
    """

    @property
    def location(self) -> str:
        """Return how a user names this store, without secrets."""
        ...

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """Store the joined chunks under a new key and return their length.

        The same bytes under the key already: success. Other bytes: KeyExists, and they stay.
        """
        ...

    def stage(self) -> Staging:
        """Return an empty staging."""
        ...

    def replace(self, key: str, data: bytes, expected: bytes) -> None:
        """Store ``data`` in the place of exactly ``expected``; raise KeyChanged when something else is there, KeyMissing when nothing."""
        ...

    def get(self, key: str) -> bytes:
        """Return what is stored; raise KeyMissing."""
        ...

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield what is stored in chunks of at most 1 MiB; raise KeyMissing before the first."""
        ...

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yield every key below ``prefix`` (empty: all) in byte order, each once; nothing for a prefix that holds nothing."""
        ...

    def delete(self, key: str, expected: bytes | None = None) -> None:
        """Remove the key; removing nothing is success. With ``expected``, raise KeyChanged when something else is there."""
        ...

    def clock(self) -> datetime:
        """Return the time of the store, in UTC."""
        ...
