"""How fast bytes pass to and from a repository: a token bucket, and a store that keeps to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final, Protocol

from ..runtime import shutdown
from .base import LeavesTemporaries, ListedKey, Staging, Store

# What may pass at once after a silence, as a share of a second: longer, and a limited line is full for as
# long.
BURST_SECONDS: Final = 0.1
SMALLEST_PIECE: Final = 16 << 10


class Readable(Protocol):
    """What content is read from, once more when it is to be sent again."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes."""
        ...

    def seek(self, pos: int, /) -> int:
        """Go to a position."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class TokenBucket:
    """Tokens that flow in at a rate, one a byte.

    Who takes more than there are owes them, and those who come later owe that, too. Reads no clock.
    """

    def __init__(self, rate: int, now: float) -> None:
        self._rate, self._most = rate, rate * BURST_SECONDS
        self._tokens, self._at = 0.0, now

    def take(self, count: int, now: float) -> float:
        """Take tokens and return how many seconds to wait until they are there.

        A clock that goes backwards brings none.
        """
        self._tokens = min(self._most, self._tokens + max(0.0, now - self._at) * self._rate) - count
        self._at = max(self._at, now)
        return max(0.0, -self._tokens / self._rate)


class RateLimit:
    """Keeps all threads together to a number of bytes a second."""

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
        """Wait until this many bytes may pass.

        KeyboardInterrupt in a thread that is to end, and no wait in the main one then.
        """
        with self._lock:
            seconds = self._bucket.take(count, self._clock())
        if seconds and not shutdown.requested():
            self._sleep(seconds)
        shutdown.check()

    def throttled(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield content as fast as it may pass, in the chunks that it comes in."""
        for chunk in chunks:
            for start in range(0, len(chunk), self.piece_size):
                self.take(min(self.piece_size, len(chunk) - start))
            yield chunk


class RateLimited:
    """A body on its way that is read as fast as it may pass."""

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
    """A store that transfers what is written when it is written, at a pace; see the contract."""

    def __init__(self, store: Store, rate_limit: RateLimit) -> None:
        self._store, self._rate_limit = store, rate_limit

    @property
    def location(self) -> str:
        """Return where the store is."""
        return self._store.location

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """Store under a new key."""
        return self._store.put(key, self._rate_limit.throttled(chunks))

    def stage(self) -> Staging:
        """Return an empty staging."""
        return _RateLimitedStaging(self._store.stage(), self._rate_limit)

    def replace(self, key: str, data: bytes, expected: bytes) -> None:
        """Exchange exactly ``expected``."""
        self._rate_limit.take(len(data))
        self._store.replace(key, data, expected)

    def get(self, key: str) -> bytes:
        """Return what is stored."""
        data = self._store.get(key)
        self._rate_limit.take(len(data))
        return data

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield what is stored."""
        yield from self._rate_limit.throttled(self._store.stream(key))

    def list(self, prefix: str) -> Iterator[ListedKey]:
        """Yield the keys below a prefix."""
        return self._store.list(prefix)

    def delete(self, key: str, expected: bytes | None = None) -> None:
        """Remove a key."""
        self._store.delete(key, expected)

    def clock(self) -> datetime:
        """Return the time of the store."""
        return self._store.clock()


class RateLimitedTemporariesStore(RateLimitedStore):
    """The same of a store whose killed writes leave something behind."""

    def __init__(self, store: Store, rate_limit: RateLimit) -> None:
        super().__init__(store, rate_limit)
        assert isinstance(store, LeavesTemporaries)
        self._littering: LeavesTemporaries = store

    def temporaries(self) -> Iterator[ListedKey]:
        """Yield what killed writes have left."""
        return self._littering.temporaries()

    def remove_temporary(self, name: str) -> None:
        """Remove one of these."""
        self._littering.remove_temporary(name)


def rate_limited(store: Store, rate_limit: RateLimit) -> Store:
    """Return a store that keeps to a pace."""
    return (
        RateLimitedTemporariesStore(store, rate_limit)
        if isinstance(store, LeavesTemporaries)
        else RateLimitedStore(store, rate_limit)
    )
