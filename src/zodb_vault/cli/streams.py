"""The standard streams of the process when nobody is at their other end: a closed descriptor, a terminal that went away, a log on a full disk."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, Final, TextIO

STANDARD_OUTPUT: Final = 1
STANDARD_ERROR: Final = 2


class Named(io.FileIO):
    """Standard output: an error of it says what could not be written to."""

    def write(self, data: Any, /) -> int:
        """Write."""
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


class Unheard(io.FileIO):
    """Standard error: what cannot be said there is lost, and what is being done goes on."""

    def write(self, data: Any, /) -> int:
        """Write, or do as if; nothing is written where that would have to wait (a pipe without blocking)."""
        with contextlib.suppress(OSError):
            if written := super().write(data):
                return written
        return memoryview(data).nbytes


def prepare() -> None:
    """Make the streams fit for a command that changes files, before it opens any."""
    # a file of the site or the repository must not get the number of a stream, which libraries write to
    while (fd := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
        os.set_inheritable(fd, True)
    os.close(fd)
    if sys.stdout is not None:
        sys.stdout = _text(Named(STANDARD_OUTPUT, "w", closefd=False), sys.stdout, lines=sys.stdout.isatty())
    sys.stderr = _text(Unheard(STANDARD_ERROR, "w", closefd=False), sys.stderr, lines=True)


def _text(raw: io.FileIO, before: TextIO | None, *, lines: bool) -> TextIO:
    encoding = before.encoding if before is not None else "utf-8"
    # a character that the encoding of the terminal or of a log does not have is no reason to fail
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=lines
    )
