"""Make the index of a restored Data.fs while the file is written.

The index needs memory for each object of the database, so a separate process makes it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ....datafs.index import END
from ....datafs.records import INDEX_ENTRY
from ....runtime.child_process import child_environment, module_command


class IndexProcess:
    """A process that receives the entries of an index, and writes the index at the end.

    ``process`` is None when no index is made. FileStorage can work without an index. So it is no error when
    the index cannot be made, but ``notes`` tells it.
    """

    def __init__(self, process: subprocess.Popen[bytes] | None) -> None:
        self._process = process
        self.notes: list[str] = []

    def add(self, entries: bytes | bytearray) -> None:
        """Send entries in the order of their records; a process that has died is noticed at the end."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(entries)

    def complete(self, size: int) -> None:
        """Send the end of the entries, for a file of ``size`` bytes."""
        self.add(INDEX_ENTRY.pack(END, size))
        self._end_input()

    def kill(self) -> None:
        """End the process without an index."""
        if self._process is not None:
            self._process.kill()
            self._wait()

    def finish(self) -> bool:
        """Wait for the process and tell whether the index was written."""
        return self._process is not None and self._wait() == 0

    def _wait(self) -> int | None:
        assert self._process is not None
        self._end_input()
        self._process.wait()
        return self._process.returncode

    def _end_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()


@contextlib.contextmanager
def indexing(index: Path, *, wanted: bool) -> Iterator[IndexProcess]:
    """Give a process that writes an index, and wait for it at the end; an error kills it."""
    process = IndexProcess(_started(index) if wanted else None)
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    if not process.finish() and wanted:
        process.notes.append("the index could not be written; FileStorage writes it when the site starts")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(index)


def _started(index: Path) -> subprocess.Popen[bytes] | None:
    command, nothing = module_command("zodb_vault.datafs.index", str(index)), subprocess.DEVNULL
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, env=child_environment()
        )
    except OSError:  # for example, there is no memory for another process
        return None
