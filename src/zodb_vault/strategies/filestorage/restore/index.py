"""The index of a restored Data.fs, made in a process of its own while the file is: it needs memory for every object of the database."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from ....datafs.index import END
from ....datafs.records import INDEX_ENTRY
from ....runtime.child_process import child_environment, module_command


class Indexing:
    """Tells a process the entries of an index and waits for it in the end; an error between kills it.

    An index is a convenience: without memory or right to make it, ``notes`` says that there is none.
    """

    def __init__(self, index: Path, *, wanted: bool) -> None:
        self._index, self._wanted = index, wanted
        self._process: subprocess.Popen[bytes] | None = None
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        command, nothing = module_command("zodb_vault.datafs.index", str(self._index)), subprocess.DEVNULL
        with contextlib.suppress(OSError):
            if self._wanted:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, env=child_environment()
                )
        return self

    def add(self, entries: bytes | bytearray) -> None:
        """Tell entries in the order of their records; that the process has died shows in the end."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(entries)

    def complete(self, size: int) -> None:
        """Tell that these were all entries, of a file of ``size`` bytes."""
        self.add(INDEX_ENTRY.pack(END, size))
        self._end_input()

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            if kind is not None:
                self._process.kill()
            self._end_input()
            self._process.wait()
        if kind is None and self._wanted and (self._process is None or self._process.returncode):
            self.notes.append("the index could not be written, FileStorage will write it when it starts")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._index)

    def _end_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
