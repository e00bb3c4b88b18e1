"""A pool of threads that returns results in the order of the jobs."""

from __future__ import annotations

import contextlib
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

R = TypeVar("R")


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals that end the process while a thread starts.

    A signal at that point could leave a thread that waits forever, and the process with it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Workers:
    """A pool of threads that returns results in the order of the jobs.

    Threads are enough, because hashing, compressing and reading release the interpreter lock. ``tick`` is
    called about once a second while the main thread waits for a result.
    """

    def __init__(self, count: int, tick: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="vault")
        self._tick, self.count = tick, count

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def in_order(self, jobs: Iterable[Callable[[], R]]) -> Iterator[R]:
        """Yield the results of the jobs in their order.

        At most one job more than the number of threads is started ahead.
        """
        pending: deque[Future[R]] = deque()
        try:
            for job in jobs:
                with signals_blocked():
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
