"""The contract of a store. Each sentence of it is a test in ``tests/contracts/test_store_contract.py``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol, runtime_checkable

KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*\Z")


class ListedKey(NamedTuple):
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
        """Forget everything written.

        A staging that is neither stored nor discarded leaves nothing behind either.
        """
        ...


@runtime_checkable
class LeavesTemporaries(Protocol):
    """A store in which a write that was killed leaves something behind that is no key."""

    def temporaries(self) -> Iterator[ListedKey]:
        """Yield what killed writes have left, and what is being written at this moment."""
        ...

    def remove_temporary(self, name: str) -> None:
        """Remove one of these; removing nothing is success."""
        ...


class Store(Protocol):
    """Keys are relative paths with ``/``; a prefix is a directory and ends with ``/``.

    Anything else is a ValueError.

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
        """Store ``data`` in the place of exactly ``expected``.

        Raise KeyChanged when something else is there, KeyMissing when nothing.
        """
        ...

    def get(self, key: str) -> bytes:
        """Return what is stored; raise KeyMissing."""
        ...

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield what is stored in chunks of at most 1 MiB; raise KeyMissing before the first."""
        ...

    def list(self, prefix: str) -> Iterator[ListedKey]:
        """Yield every key below ``prefix`` (empty: all) in byte order, each once.

        Nothing for a prefix that holds nothing.
        """
        ...

    def delete(self, key: str, expected: bytes | None = None) -> None:
        """Remove the key; removing nothing is success.

        With ``expected``, raise KeyChanged when something else is there.
        """
        ...

    def clock(self) -> datetime:
        """Return the time of the store, in UTC."""
        ...


@runtime_checkable
class ProbesCapabilities(Protocol):
    """A store over a service that may lack what others have.

    It is found out once, recorded in the repository, and relied on.
    """

    def probe(self) -> dict[str, str | bool]:
        """Find out by trying what the service can do; where it was found, too, as a repository may be moved.

        Raise StoreError.
        """
        ...

    def use_probed(self, found: Mapping[str, str | bool]) -> None:
        """Believe what an earlier probe found, if it was of this very place."""
        ...

    def limitations(self) -> list[str]:
        """Return what this store cannot promise, a sentence each.

        Empty when it keeps the contract without reserve.
        """
        ...


@runtime_checkable
class SupportsObjectLock(Protocol):
    """A store that can lock objects: nobody can change or remove them before a given time."""

    @property
    def lock_duration(self) -> timedelta | None:
        """Return how long objects stay locked after a backup that needs them; None without object lock."""
        ...

    def extend_lock(self, key: str, until: datetime) -> None:
        """Let what is stored under a key be kept until a moment; what is kept longer stays so.

        Raise KeyMissing.
        """
        ...


def limitations_of(store: Store) -> list[str]:
    """Return what a store cannot promise."""
    return store.limitations() if isinstance(store, ProbesCapabilities) else []


def require_key(key: str) -> None:
    """Raise ValueError for what is not a key."""
    if not KEY.match(key):
        raise ValueError(f"{key!r} is not a key")


def require_prefix(prefix: str) -> None:
    """Raise ValueError for what is neither a directory that ends with a slash nor empty."""
    if prefix and not (prefix.endswith("/") and KEY.match(prefix[:-1])):
        raise ValueError(f"{prefix!r} is not a prefix, which ends with /")
