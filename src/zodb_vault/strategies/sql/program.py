"""Run a program of a database server.

Its output is streamed, its errors and its exit status are never lost, and no secret is in its arguments.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import select
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from ...errors import ConfigurationError, VaultError

ERRORS_SHOWN: Final = 2000
PIPE_SIZE: Final = 1 << 20
F_SETPIPE_SZ: Final = 1031
# Debian has one wrapper for the programs of all versions; the programs themselves are elsewhere.
WRAPPER: Final = "pg_wrapper"
ELSEWHERE: Final = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
VERSION: Final = re.compile(r"(\d+)(?:\.(\d+))?(?:\.\d+)*")


class Program:
    """One run of a program. Leaving the context kills it if it still runs."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        failure: Callable[[str], VaultError],
        *,
        fed: bool = False,
        tick: Callable[[], None] | None = None,
    ) -> None:
        self.name, self._failure, self._tick = Path(command[0]).name, failure, tick
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self._secrets = [
            value for key, value in environment.items() if "PASS" in key or "PWD" in key if value
        ]
        stdin = subprocess.PIPE if fed else subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                env={**os.environ, **environment},
            )
        except OSError as error:
            self._errors.close()
            raise failure(f"{command[0]} cannot be started: {error.strerror}") from None
        for stream in (self._process.stdin, self._process.stdout):
            _widen(stream)

    @property
    def pid(self) -> int:
        """Return the process id of the program."""
        return self._process.pid

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def blocks(self, size: int, begun: Callable[[], None] = lambda: None) -> Iterator[memoryview]:
        """Yield the output in blocks of ``size`` bytes, the last one shorter; each has memory of its own.

        ``begun`` is called at the first byte.
        """
        assert self._process.stdout is not None
        output = self._process.stdout
        while True:
            # mapped, not from the heap, which would keep what is freed
            block, filled = memoryview(mmap.mmap(-1, size)), 0
            while filled < size and (count := self._read(output, block[filled:])):
                filled += count
                begun()
            if filled:
                yield block[:filled]
            if filled < size:
                return

    def lines(self) -> Iterator[bytes]:
        """Yield the output line by line."""
        assert self._process.stdout is not None
        rest = bytearray()
        while chunk := self._process.stdout.read(1 << 16):
            first, *whole = chunk.split(b"\n")
            rest += first
            if whole:
                yield bytes(rest)
                yield from whole[:-1]
                rest = bytearray(whole[-1])
        if rest:
            yield bytes(rest)

    def chunks(self) -> Iterator[bytes]:
        """Yield the output as it comes."""
        assert self._process.stdout is not None
        while chunk := self._process.stdout.read(1 << 20):
            yield chunk

    def feed(self, data: bytes | memoryview) -> bool:
        """Write to its input; False when it does not want more."""
        assert self._process.stdin is not None
        view = memoryview(data)
        try:
            while len(view):
                view = view[self._process.stdin.write(view) or 0 :]
        except (BrokenPipeError, ValueError):
            return False
        return True

    def close_input(self) -> None:
        """Close its standard input."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def kill(self) -> None:
        """Kill it; a reader of its output then gets to the end."""
        self._process.kill()

    def finish(self) -> None:
        """Wait for its end; raise the failure, with the end of its standard error, unless it succeeded."""
        status = self._process.wait()
        if status:
            ended = f"was ended by signal {-status}" if status < 0 else f"failed with exit status {status}"
            words = self.words()
            raise self._failure(f"{self.name} {ended}{': ' if words else ''}{words}")

    def words(self) -> str:
        """Return the end of what it wrote to standard error, without the secrets that it was given."""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - ERRORS_SHOWN))
        text = self._errors.read().decode("utf-8", "replace").strip()
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _read(self, output: IO[bytes], into: memoryview) -> int:
        while self._tick is not None and not select.select([output], [], [], 1.0)[0]:
            self._tick()
        return output.readinto(into) or 0  # type: ignore[attr-defined]


def _widen(stream: IO[bytes] | None) -> None:
    """Give a pipe a larger buffer, where the system allows that."""
    import fcntl

    if stream is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(stream.fileno(), F_SETPIPE_SZ, PIPE_SIZE)


def program_of(names: Sequence[str], package: str, at_least: int = 0, newer: str = "the server") -> str:
    """Return the path of a program that has one of the names, with the lowest fitting major version.

    A version fits when it is not lower than ``at_least``, the version of ``newer``. Raise ConfigurationError
    when none does.
    """
    found = {path: version for path in _installed(names) if (version := version_of(path)) is not None}
    fitting = [path for path, version in found.items() if version[0] >= at_least]
    if fitting:
        return min(fitting, key=lambda path: found[path][0])
    if not found:
        raise ConfigurationError(
            [f"{' or '.join(names)} is not installed"],
            f"install it, on Debian with: apt-get install {package}",
        )
    newest = max(found.values())
    raise ConfigurationError(
        [f"{names[0]} {newest[0]} is older than {newer}, which has version {at_least}"],
        f"install the programs of version {at_least}, on Debian with: apt-get install {package}-{at_least}",
    )


def _installed(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        path = shutil.which(name)
        if path is not None and not os.path.realpath(path).endswith(WRAPPER):
            yield path
        for pattern in ELSEWHERE:
            yield from map(str, sorted(Path("/").glob(f"{pattern[1:]}/{name}")))


@cache
def version_of(path: str) -> tuple[int, int] | None:
    """Return major and minor version of a program, None when it does not say."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        if match := VERSION.search(done.stdout):
            return int(match[1]), int(match[2] or 0)
    return None


def drained(lines: Iterable[object]) -> None:
    """Read to the end, and drop everything."""
    for _line in lines:
        pass
