"""Let worker threads end quickly when the process shuts down.

A signal raises KeyboardInterrupt only in the main thread, which then waits for the other threads. Long work
in a thread therefore checks for a shutdown at each piece of content, pause and attempt, and raises
KeyboardInterrupt itself. So the user does not wait for a whole blob, for a rate limit or for a server that
does not answer.
"""

from __future__ import annotations

import threading
import time
from typing import Final

# Once set, it stays set for the rest of the process; a test replaces the event.
REQUESTED: Final = threading.Event()


def request() -> None:
    """Request that all worker threads end."""
    REQUESTED.set()


def requested() -> bool:
    """Return whether a shutdown was requested."""
    return REQUESTED.is_set()


def check() -> None:
    """Raise KeyboardInterrupt in a worker thread during a shutdown.

    The main thread cleans up during a shutdown, so it continues.
    """
    if REQUESTED.is_set() and threading.current_thread() is not threading.main_thread():
        raise KeyboardInterrupt


def sleep(seconds: float) -> None:
    """Sleep; a worker thread wakes up at a shutdown and raises KeyboardInterrupt."""
    if threading.current_thread() is threading.main_thread():
        time.sleep(seconds)
    else:
        REQUESTED.wait(seconds)
    check()
