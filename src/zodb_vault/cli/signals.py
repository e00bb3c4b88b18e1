"""What ends a run: the first signal stops it cleanly, another one aborts it, whatever the main thread is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Final

from ..runtime import shutdown

INTERRUPTED: Final = 130
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Wrappers such as timeout(1), and systemd with SendSIGHUP, send two for one: what follows this soon is the same one.
SAME_SECONDS: Final = 0.5
STOPPING: Final = (
    "\r\nzodb-vault: stopping, what is stored is kept for the next run; once more aborts at once\r\n"
)
SHOW_CURSOR: Final = "\x1b[?25h\r\n"


def take_over() -> None:
    """Let SIGINT, SIGTERM and SIGHUP end the run from now on, but those that the caller ignores (nohup)."""
    heard, told = os.pipe()
    os.set_blocking(told, False)
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, ENDING
    )  # the thread keeps them blocked: they are for the main one, whose calls have to end
    threading.Thread(target=_listen, args=(heard,), name="signals", daemon=True).start()
    # the number is written the moment a signal comes; a handler in Python has to wait for the call that the main thread is in
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_go() -> None:
    """Let no signal change any more how the run ends."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)


def _interrupt(_number: int, _frame: object) -> None:
    """Interrupt the main thread once: what puts things in order afterwards is not interrupted."""
    global _interrupted
    if not _interrupted:
        _interrupted = True
        shutdown.request()
        raise KeyboardInterrupt


_interrupted = False


def _listen(heard: int) -> None:
    first = None
    while number := os.read(heard, 1):
        if number[0] not in ENDING:
            continue
        if first is None:
            first = time.monotonic()
            shutdown.request()
            _say(STOPPING)
        elif time.monotonic() - first > SAME_SECONDS:
            _say(SHOW_CURSOR)
            os._exit(INTERRUPTED)


def _say(text: str) -> None:
    """Say it on a terminal, past the buffers, which the main thread may hold."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), text.encode())
