"""Limit the bytes per second to and from a repository, with a token bucket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final, Protocol

from ..runtime import shutdown
from .base import LeavesTemporaries, ListedKey, RecordsTimes, SharesWithGroup, Staging, Store

# The burst after an idle period, in seconds of the rate. A longer burst would fill a slow network connection
# for as long.
BURST_SECONDS: Final = 0.1
SMALLEST_PIECE: Final = 16 << 10


class Readable(Protocol):
    """A body that is read while it is sent, and again from the beginning when a request is repeated."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes."""
        ...

    def seek(self, pos: int, /) -> int:
        """Go to a position."""
        ...

    def close(self) -> None:
        """Close the body."""
        ...


class TokenBucket:
    """A token bucket: tokens arrive at ``rate`` per second, one token is one byte.

    A caller may take more tokens than there are. Later callers wait for this debt, too. The bucket reads no
    clock: every call gets the time.
    """

    def __init__(self, rate: int, now: float) -> None:
        self._rate, self._most = rate, rate * BURST_SECONDS
        self._tokens, self._at = 0.0, now

    def take(self, count: int, now: float) -> float:
        """Take tokens and return how many seconds to wait for them.

        A clock that goes backwards adds no tokens.
        """
        self._tokens = min(self._most, self._tokens + max(0.0, now - self._at) * self._rate) - count
        self._at = max(self._at, now)
        return max(0.0, -self._tokens / self._rate)


class RateLimit:
    """Limits the bytes per second of all threads together."""

    def __init__(
        self,
        rate: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = shutdown.sleep,
    ) -> None:
        self._bucket, self._clock, self._sleep = TokenBucket(rate, clock()), clock, sleep
        self._lock = threading.Lock()
        self.piece_size = max(SMALLEST_PIECE, int(rate * BURST_SECONDS))

    def take(self, count: int) -> None:
        """Wait until this many bytes may be transferred.

        During a shutdown, raise KeyboardInterrupt in a worker thread, and do not wait in the main thread.
        """
        with self._lock:
            seconds = self._bucket.take(count, self._clock())
        if seconds and not shutdown.requested():
            self._sleep(seconds)
        shutdown.check()

    def throttled(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the chunks unchanged, at the limited rate."""
        for chunk in chunks:
            for start in range(0, len(chunk), self.piece_size):
                self.take(min(self.piece_size, len(chunk) - start))
            yield chunk


class RateLimited:
    """The body of a request or an answer, read at the limited rate."""

    def __init__(self, body: Readable, rate_limit: RateLimit) -> None:
        self._body, self._rate_limit = body, rate_limit

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        data = self._body.read(
            min(size, self._rate_limit.piece_size) if size > 0 else self._rate_limit.piece_size
        )
        self._rate_limit.take(len(data))
        return data

    def seek(self, pos: int) -> int:
        """Go to a position."""
        return self._body.seek(pos)

    def close(self) -> None:
        """Close the body."""
        self._body.close()


class _RateLimitedStaging:
    def __init__(self, staging: Staging, rate_limit: RateLimit) -> None:
        self._staging, self._rate_limit = staging, rate_limit

    def write(self, data: bytes) -> None:
        for piece in self._rate_limit.throttled([data]):
            self._staging.write(piece)

    def store(self, key: str) -> None:
        self._staging.store(key)

    def discard(self) -> None:
        self._staging.discard()


class RateLimitedStore:
    """A store that writes directly, with a rate limit; see the contract."""

    def __init__(self, store: Store, rate_limit: RateLimit) -> None:
        self._store, self._rate_limit = store, rate_limit

    @property
    def location(self) -> str:
        """Return the location of the store."""
        return self._store.location

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """Store under a new key."""
        return self._store.put(key, self._rate_limit.throttled(chunks))

    def stage(self) -> Staging:
        """Return an empty staging."""
        return _RateLimitedStaging(self._store.stage(), self._rate_limit)

    def replace(self, key: str, data: bytes, expected: bytes) -> None:
        """Replace exactly ``expected``."""
        self._rate_limit.take(len(data))
        self._store.replace(key, data, expected)

    def get(self, key: str) -> bytes:
        """Return the stored bytes."""
        data = self._store.get(key)
        self._rate_limit.take(len(data))
        return data

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the stored bytes in chunks."""
        yield from self._rate_limit.throttled(self._store.stream(key))

    def list(self, prefix: str) -> Iterator[ListedKey]:
        """Yield the keys below a prefix."""
        return self._store.list(prefix)

    def stored_at(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Yield the keys below a prefix with their times, nothing if the store records none."""
        return self._store.stored_at(prefix) if isinstance(self._store, RecordsTimes) else iter(())

    def delete(self, key: str, expected: bytes | None = None) -> None:
        """Remove a key."""
        self._store.delete(key, expected)

    def clock(self) -> datetime:
        """Return the time of the store."""
        return self._store.clock()


class RateLimitedTemporariesStore(RateLimitedStore):
    """A store with a rate limit whose killed writes leave temporary files."""

    def __init__(self, store: Store, rate_limit: RateLimit) -> None:
        super().__init__(store, rate_limit)
        assert isinstance(store, LeavesTemporaries)
        self._temporaries: LeavesTemporaries = store

    def temporaries(self) -> Iterator[ListedKey]:
        """Yield the temporary files of killed writes."""
        return self._temporaries.temporaries()

    def remove_temporary(self, name: str) -> None:
        """Remove a temporary file."""
        self._temporaries.remove_temporary(name)

    def share_with_group(self) -> None:
        """Share a directory with its group."""
        assert isinstance(self._temporaries, SharesWithGroup)  # it is a local directory
        self._temporaries.share_with_group()


def rate_limited(store: Store, rate_limit: RateLimit) -> Store:
    """Return a store with a rate limit."""
    return (
        RateLimitedTemporariesStore(store, rate_limit)
        if isinstance(store, LeavesTemporaries)
        else RateLimitedStore(store, rate_limit)
    )
