"""What signals do to a run: the first one stops it cleanly, the second one aborts it at once.

The first signal raises KeyboardInterrupt in the main thread, once: the clean-up that follows is not
interrupted again. Other threads notice it through ``runtime.shutdown``. The second signal has to work even if
the main thread hangs in a system call or in a library, so a thread of its own waits for it and ends the
process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Final

from ..errors import ExitCode
from ..runtime import shutdown

HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Wrappers such as timeout(1), and systemd with SendSIGHUP, send two signals at once. A signal that follows
# the first one this soon belongs to it, and does not abort.
SAME_SIGNAL_SECONDS: Final = 0.5
STOPPING: Final = (
    "\r\nzodb-vault: stopping; the next run uses what is already stored (a second Ctrl-C aborts at once)\r\n"
)
SHOW_CURSOR: Final = "\x1b[?25h\r\n"


def install_handlers() -> None:
    """Handle SIGINT, SIGTERM and SIGHUP from now on, except those that the caller ignores (nohup)."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    # A new thread inherits the mask of blocked signals. Blocked in the listening thread, a signal is always
    # delivered to the main thread, whose system calls it has to interrupt.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    threading.Thread(target=_listen, args=(read_end,), name="signals", daemon=True).start()
    # Python runs its handlers only when the main thread gets back to the interpreter. The number of the
    # signal is written to this pipe at once, by the C handler, so that the listening thread sees it in any
    # case.
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in HANDLED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """Ignore the signals from now on: the work is done, and the exit code must not change any more."""
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)


def _interrupt(_number: int, _frame: object) -> None:
    """Interrupt the main thread, only once, so that its clean-up is not interrupted."""
    global _interrupted
    if not _interrupted:
        _interrupted = True
        shutdown.request()
        raise KeyboardInterrupt


_interrupted = False


def _listen(read_end: int) -> None:
    """Wait for signals: the first one requests a clean stop, a later one ends the process."""
    first = None
    while number := os.read(read_end, 1):
        if number[0] not in HANDLED:
            continue
        if first is None:
            first = time.monotonic()
            shutdown.request()
            _print(STOPPING)
        elif time.monotonic() - first > SAME_SIGNAL_SECONDS:
            _print(SHOW_CURSOR)
            os._exit(ExitCode.INTERRUPTED)


def _print(text: str) -> None:
    """Print on the terminal without the buffer of sys.stderr, whose lock the main thread may hold."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), text.encode())
