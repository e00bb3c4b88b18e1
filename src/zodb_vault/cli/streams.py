"""Make the standard streams robust: a closed descriptor, a terminal that went away, a log on a full disk."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, Final, TextIO

STANDARD_OUTPUT: Final = 1
STANDARD_ERROR: Final = 2


class StandardOutput(io.FileIO):
    """Standard output whose errors name it: the message of the operating system does not."""

    def write(self, data: Any, /) -> int:
        """Write."""
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


class StandardError(io.FileIO):
    """Standard error that never fails: the command continues without a message that cannot be written."""

    def write(self, data: Any, /) -> int:
        """Write as much as possible, and report everything as written.

        A pipe in non-blocking mode that is full writes nothing; it is not waited for.
        """
        with contextlib.suppress(OSError):
            if written := super().write(data):
                return written
        return memoryview(data).nbytes


def prepare() -> None:
    """Make the streams safe for a command that changes files; call this before any file is opened."""
    # If a stream is closed, the next file that is opened gets its number. Libraries write to these numbers:
    # the file could be one of the site or of the repository.
    while (fd := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
        os.set_inheritable(fd, True)
    os.close(fd)
    if sys.stdout is not None:
        output = StandardOutput(STANDARD_OUTPUT, "w", closefd=False)
        sys.stdout = _text(output, sys.stdout, line_buffering=sys.stdout.isatty())
    sys.stderr = _text(StandardError(STANDARD_ERROR, "w", closefd=False), sys.stderr, line_buffering=True)


def _text(raw: io.FileIO, before: TextIO | None, *, line_buffering: bool) -> TextIO:
    """Return a text stream with the encoding of the previous one; characters outside it are escaped."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=line_buffering,
    )
