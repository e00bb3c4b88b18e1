"""Whether this process has been told to end: what takes long in a thread asks, and gives up what it is doing.

A signal raises KeyboardInterrupt in the main thread only, which then waits for the others. They raise it
themselves at the next piece of content, pause or attempt, so that nobody waits for a whole blob, for a
limited line or for a server that does not answer.
"""

from __future__ import annotations

import threading
import time
from typing import Final

# Set for the rest of the process; a test puts an event of its own here.
REQUESTED: Final = threading.Event()


def request() -> None:
    """Tell every thread to end."""
    REQUESTED.set()


def requested() -> bool:
    """Tell whether the process is to end."""
    return REQUESTED.is_set()


def check() -> None:
    """Raise KeyboardInterrupt in a thread that is to end.

    The main one is putting things in order then, and goes on.
    """
    if REQUESTED.is_set() and threading.current_thread() is not threading.main_thread():
        raise KeyboardInterrupt


def sleep(seconds: float) -> None:
    """Sleep; a thread that is to end wakes up and raises KeyboardInterrupt."""
    if threading.current_thread() is threading.main_thread():
        time.sleep(seconds)
    else:
        REQUESTED.wait(seconds)
    check()
