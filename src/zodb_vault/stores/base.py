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
        """Append bytes. A store keeps them out of memory if it can."""
        ...

    def store(self, key: str) -> None:
        """Store everything written under a new key, as ``put`` does."""
        ...

    def discard(self) -> None:
        """Drop everything written.

        A staging that is neither stored nor discarded leaves nothing in the store either.
        """
        ...


@runtime_checkable
class LeavesTemporaries(Protocol):
    """A store in which a killed write leaves a temporary file, which is no key."""

    def temporaries(self) -> Iterator[ListedKey]:
        """Yield the temporary files of killed writes, and those of writes in progress."""
        ...

    def remove_temporary(self, name: str) -> None:
        """Remove a temporary file. It is no error when the file does not exist."""
        ...


class Store(Protocol):
    """A flat map from keys to bytes.

    A key is a relative path with ``/``. A prefix names a directory and ends with ``/``. Anything else raises
    ValueError.

    Every write is durable when the call returns, and the next call of any process sees it. Stored content
    appears completely or not at all. Failures of the medium raise StoreError.
    """

    @property
    def location(self) -> str:
        """Return the location that a user configures for this store, without secrets."""
        ...

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """Store the joined chunks under a new key and return their length.

        It succeeds when the key already has the same bytes. Raise KeyExists when it has other bytes; they
        stay unchanged.
        """
        ...

    def stage(self) -> Staging:
        """Return an empty staging."""
        ...

    def replace(self, key: str, data: bytes, expected: bytes) -> None:
        """Replace the stored bytes, which have to be ``expected``, with ``data``.

        Raise KeyChanged when other bytes are stored, KeyMissing when the key does not exist.
        """
        ...

    def get(self, key: str) -> bytes:
        """Return the stored bytes; raise KeyMissing."""
        ...

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the stored bytes in chunks of at most 1 MiB; raise KeyMissing before the first."""
        ...

    def list(self, prefix: str) -> Iterator[ListedKey]:
        """Yield every key below ``prefix`` once, in byte order.

        An empty prefix lists all keys. A prefix without keys yields nothing.
        """
        ...

    def delete(self, key: str, expected: bytes | None = None) -> None:
        """Remove the key. It is no error when the key does not exist.

        With ``expected``, raise KeyChanged when other bytes are stored.
        """
        ...

    def clock(self) -> datetime:
        """Return the present time in UTC, by the clock of the store."""
        ...


@runtime_checkable
class RecordsTimes(Protocol):
    """A store whose medium records when something was stored.

    The times are only shown and never decide anything: a copy of the files of a repository has new ones.
    """

    def stored_at(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Yield each key below ``prefix`` with the time in UTC when it was stored."""
        ...


@runtime_checkable
class ProbesCapabilities(Protocol):
    """A store over a service whose capabilities differ between providers.

    They are probed once, recorded in the repository, and used by later runs.
    """

    def probe(self) -> dict[str, str | bool]:
        """Try what the service can do, and return the result with the location and the endpoint.

        The location is recorded because a repository may be moved. Raise StoreError.
        """
        ...

    def use_probed(self, found: Mapping[str, str | bool]) -> None:
        """Use the result of an earlier probe if it was made at this location and endpoint."""
        ...

    def limitations(self) -> list[str]:
        """Return what this store cannot guarantee, one sentence each.

        The list is empty when the store keeps the whole contract.
        """
        ...


@runtime_checkable
class SharesWithGroup(Protocol):
    """A store on a file system, where a group of users can be allowed to read."""

    def share_with_group(self) -> None:
        """Let the group of the directory read everything that is stored from now on; raise StoreError."""
        ...


@runtime_checkable
class SupportsObjectLock(Protocol):
    """A store that can lock objects: no user can change or remove them before the lock expires."""

    @property
    def lock_duration(self) -> timedelta | None:
        """Return how long objects stay locked after a backup that needs them; None without object lock."""
        ...

    def extend_lock(self, key: str, until: datetime) -> None:
        """Lock an object at least until a time. A longer lock stays unchanged.

        Raise KeyMissing.
        """
        ...


def limitations_of(store: Store) -> list[str]:
    """Return what a store cannot guarantee, one sentence each."""
    return store.limitations() if isinstance(store, ProbesCapabilities) else []


def require_key(key: str) -> None:
    """Raise ValueError if a text is not a valid key."""
    if not KEY.match(key):
        raise ValueError(f"{key!r} is not a key")


def require_prefix(prefix: str) -> None:
    """Raise ValueError unless a prefix is empty or a directory that ends with a slash."""
    if prefix and not (prefix.endswith("/") and KEY.match(prefix[:-1])):
        raise ValueError(f"{prefix!r} is not a prefix: a prefix ends with /")
