"""How fast content passes: at most so many bytes a second on average, whatever number of threads move them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

SLICE: Final = 0.2
_ending: list[bool] = []


def end_soon() -> None:
    """Let threads that move content stop at their next piece, and nobody wait any more; a signal handler may call it."""
    _ending.append(True)


class Pace:
    """Told of every piece, it waits until that piece had its time; without a rate it never does."""

    def __init__(
        self, rate: int | None = None, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._rate, self._now, self._sleep = rate, now, sleep
        self._lock = threading.Lock()
        self._free = 0.0

    def passed(self, size: int) -> None:
        """Wait until this many bytes more are within the rate; raise KeyboardInterrupt in a thread when the process is to end."""
        if _ending and threading.current_thread() is not threading.main_thread():
            raise KeyboardInterrupt
        if not self._rate:
            return
        with self._lock:
            now = self._now()
            self._free = max(self._free, now) + size / self._rate
            wait = self._free - now
        while wait > 0 and not _ending:
            self._sleep(min(wait, SLICE))
            wait -= SLICE
