"""What a strategy needs from a repository and from its user, and what it knows of earlier backups."""

from __future__ import annotations

import contextlib
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime
from typing import Protocol, TypeVar

import msgspec

from ..model.manifest import DatabaseEntry, Meta, Part, Stored

R = TypeVar("R")


class Content(Protocol):
    """A stream of content that becomes objects."""

    def write(self, data: bytes) -> None:
        """Append."""
        ...

    def close(self) -> list[Part]:
        """Make everything durable and return the parts in order."""
        ...


class Sink(Protocol):
    """Where a capture puts what it copies; several threads may use it at once."""

    def content(self, to: str, *, far: bool = False) -> Content:
        """Return a writer; ``far`` content repeats itself at a distance."""
        ...

    def put_document(self, data: bytes) -> Meta:
        """Store a document."""
        ...

    def document(self, name: str) -> bytes:
        """Return a document of an earlier backup; raise Damage."""
        ...

    def read(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Yield content; raise Damage."""
        ...


class Progress(Protocol):
    """Who is told how far a long operation is."""

    def begin(self, what: str, total: int | None) -> None:
        """Begin a phase of ``total`` bytes (None: not known)."""
        ...

    def advance(self, count: int) -> None:
        """Tell that this many bytes more are done; any thread may call it."""
        ...

    def note(self, text: str) -> None:
        """Tell something that is worth a line."""
        ...


class Keeper(Protocol):
    """Who remembers what an unfinished run has stored."""

    def due(self, size: int) -> bool:
        """Tell whether it is time to take note; ``size`` bytes have been stored since the last call."""
        ...

    def keep(self, stored: Stored) -> None:
        """Take note durably."""
        ...

    def beat(self) -> None:
        """Tell that the run is alive; called at least every few seconds."""
        ...


class Earlier(msgspec.Struct, frozen=True, kw_only=True):
    """One database of an earlier complete backup that may be continued; ``captured`` is the clock of that run."""

    id: str
    captured: datetime
    entry: DatabaseEntry


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold back what ends the process while a thread starts: interrupted there, it would wait for ever, and the process for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Workers:
    """A few threads that keep the order of their results; hashing, compressing and reading release the interpreter lock."""

    def __init__(self, count: int, tick: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="vault")
        self._tick, self.count = tick, count

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def in_order(self, jobs: Iterable[Callable[[], R]]) -> Iterator[R]:
        """Yield the results of the jobs in their order, with at most one job more under way than there are threads."""
        pending: deque[Future[R]] = deque()
        try:
            for job in jobs:
                with signals_held():
                    pending.append(self._pool.submit(job))
                if len(pending) > self.count:
                    yield self._result(pending.popleft())
            while pending:
                yield self._result(pending.popleft())
        finally:
            for future in pending:
                future.cancel()
            wait(pending)

    def _result(self, future: Future[R]) -> R:
        while not future.done():
            wait([future], timeout=1.0)
            self._tick()
        return future.result()
