"""Faults in the system calls of an operation: kill the process or let a call fail, at any one of them.

An operation runs in a forked child, so that a kill is a real one. Its threads, its clock and its random names
are replaced by ones that give the same calls on every run. A killed process leaves what its calls so far have
changed: it is enough to kill it after each call that changes something and in the middle of each write.
Between two such calls the state does not change. What a crash of the operating system loses is another
matter: ``Volatile`` knows at any call what may not be on the disk yet.
"""

from __future__ import annotations

import concurrent.futures
import io
import itertools
import json
import os
import random
import re
import secrets
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from zodb_vault.datafs.index import write_index
from zodb_vault.runtime import clock, workers
from zodb_vault.strategies.blobs import directory_restore
from zodb_vault.strategies.filestorage.restore import index as indexing

Operation = Callable[[], object]
Moment = Literal["before", "middle", "after"]
NAMES = (
    "open",
    "write",
    "pwrite",
    "fsync",
    "link",
    "symlink",
    "rename",
    "replace",
    "unlink",
    "mkdir",
    "rmdir",
    "chmod",
    "fchmod",
    "chown",
    "fchown",
)
WRITES = ("write", "pwrite")
MOVES = ("link", "symlink", "rename", "replace")
ALLOCATING = ("open", "write", "pwrite", "link", "rename", "mkdir", "fsync")
RANDOM = re.compile(
    r"[0-9a-f]{16,64}|\d{8}T\d{6}Z-[0-9a-f]{6}|(?<=/)[0-9a-f]{2}(?=/|$)|#\d+ "
    r"\(deleted\)|(?<=/)0x[0-9a-f]+(?=/|$)"
)
FAILED, UNFINISHED = 98, 99
# One time for all children of a test process: it is part of ids, and so of the names of objects and folders.
START = datetime.now(UTC)


class Call(NamedTuple):
    """One call: its name, its path (without random parts), and whether another process can see its effect."""

    name: str
    path: str
    visible: bool


class Seam:
    """Stands between an operation and ``os``; ``act`` of a subclass decides about call number n, from 1."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._nameless: set[int] = set()
        self.real = {name: getattr(os, name) for name in NAMES}

    def install(self) -> None:
        """Take the place of the calls, for the rest of this process."""
        for name in NAMES:
            setattr(os, name, self._wrapped(name))

    def act(
        self,
        number: int,
        call: Call,
        real: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        """Do the call."""
        return real(*arguments, **options)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        real = self.real[name]

        def called(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & (
                os.O_CREAT | os.O_TRUNC | os.O_TMPFILE & ~os.O_DIRECTORY
            ):
                return real(*arguments, **options)
            call = self._described(name, arguments)
            self.calls.append(call)
            # what needs no disk in a test: the page cache outlives the process
            done = self.act(len(self.calls), call, _nothing if name == "fsync" else real, arguments, options)
            if name == "open" and not call.visible:
                self._nameless.add(done)
            elif name == "open":
                self._nameless.discard(done)
            return done

        return called

    def _described(self, name: str, arguments: tuple[Any, ...]) -> Call:
        target = arguments[-1] if name in MOVES else arguments[0]
        nameless = (
            target in self._nameless
            if isinstance(target, int)
            else name == "open" and arguments[1] & os.O_TMPFILE == os.O_TMPFILE
        )
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fsdecode(target)
        return Call(name, RANDOM.sub("*", path), name != "fsync" and not nameless)


def _nothing(*_arguments: object, **_options: object) -> None:
    pass


class Killer(Seam):
    """Kills this process at one call."""

    def __init__(self, number: int, moment: Moment) -> None:
        super().__init__()
        self._number, self._moment = number, moment

    def act(
        self,
        number: int,
        call: Call,
        real: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        if number != self._number:
            return real(*arguments, **options)
        try:
            if self._moment == "middle":
                fd, data, *rest = arguments
                real(fd, memoryview(data)[: len(data) // 2], *rest)
            elif self._moment == "after":
                real(*arguments, **options)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)


class Failing(Seam):
    """Lets a call fail with an error, and when that is to last also every later one that needs space."""

    def __init__(self, number: int, error: int, *, lasting: bool = False) -> None:
        super().__init__()
        self._number, self._error, self._lasting = number, error, lasting

    def act(
        self,
        number: int,
        call: Call,
        real: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        if number == self._number or (self._lasting and number > self._number and call.name in ALLOCATING):
            raise OSError(self._error, os.strerror(self._error), call.path)
        return real(*arguments, **options)


class Volatile(Seam):
    """Knows what a power failure could lose, and calls ``look`` before every call.

    That is the content of files, and the names in directories that were not synced.
    """

    def __init__(self, look: Callable[[Call, set[str], set[str]], None]) -> None:
        super().__init__()
        self._look = look
        self.files: set[str] = set()
        self.directories: set[str] = set()

    def act(
        self,
        number: int,
        call: Call,
        real: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        self._look(call, self.files, self.directories)
        target = arguments[-1] if call.name in MOVES else arguments[0]
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fsdecode(target)
        done = real(*arguments, **options)
        if call.name in WRITES:
            self.files.add(path)
        elif call.name == "fsync":
            self.files.discard(path)
            self.directories.discard(path)
        elif call.name in (*MOVES, "mkdir", "open") and call.visible:
            self.directories.add(os.path.dirname(path))
            self._moved(call, arguments, path)
        return done

    def _moved(self, call: Call, arguments: tuple[Any, ...], path: str) -> None:
        source = os.fsdecode(arguments[0])
        if source.startswith("/proc/self/fd/"):
            source = os.readlink(source)
        if call.name in MOVES and source in self.files:
            self.files.add(path)
        if call.name in ("rename", "replace"):
            self.files.discard(source)

    def synced(self, _path: Path) -> None:
        """Replace ``syncfs``."""
        self.files.clear()
        self.directories.clear()


class Inline(concurrent.futures.Executor):
    """A pool that does each job when it is given: the same order on every run."""

    def __init__(self, *_arguments: object, **_options: object) -> None:
        pass

    def submit(
        self, job: Callable[..., Any], /, *arguments: Any, **options: Any
    ) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(job(*arguments, **options))
        except Exception as error:  # noqa: BLE001  as a pool does
            future.set_exception(error)
        return future


class RecordedInput(io.BytesIO):
    """A standard input that can be read when it has been closed."""

    def close(self) -> None:
        """Keep everything."""


class IndexProcess:
    """Replaces ``subprocess``: writes the index in this process, much faster than another Python."""

    DEVNULL = PIPE = None

    class Popen:
        def __init__(self, command: list[str], **_options: object) -> None:
            self._index, self._killed = Path(command[-1]), False
            self.stdin, self.returncode = RecordedInput(), 0

        def kill(self) -> None:
            self._killed = True

        def wait(self) -> None:
            if self._killed:
                return
            scratch = self._index.with_name("index-in-the-making")
            self.stdin.seek(0)
            write_index(self.stdin, scratch)
            data = scratch.read_bytes()
            scratch.unlink()
            try:
                fd = os.open(self._index, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                try:
                    os.write(fd, data)
                    os.fsync(fd)
                finally:
                    os.close(fd)
            except OSError:
                self.returncode = 1


class Names:
    """Random names that are the same on every run: they decide which directories of the repository exist."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token_hex(self, count: int = 32) -> str:
        return self._random.randbytes(count).hex()


def tame(patch: pytest.MonkeyPatch) -> None:
    """Make restores and creates of this process quick: no threads, no processes, no waiting for a disk."""
    patch.setattr(workers, "ThreadPoolExecutor", Inline)
    patch.setattr(indexing, "subprocess", IndexProcess)
    patch.setattr(directory_restore, "sync_file_system", lambda _path: None)
    patch.setattr(os, "fsync", lambda _fd: None)


def _determined() -> None:
    names, ticks = Names(1), itertools.count()
    secrets.token_hex = names.token_hex  # type: ignore[assignment]
    clock.now = lambda: START + timedelta(milliseconds=next(ticks))


def fork(operation: Operation, output: Path | None = None) -> int:
    """Run an operation in a child and return its wait status; a number that it returns is the exit status."""
    with warnings.catch_warnings():
        # the thread of the test runner is no part of what the child does
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = UNFINISHED
    try:
        fd = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        done = operation()
        status = done if isinstance(done, int) else 0
    except BaseException:  # noqa: BLE001  the child ends here, whatever it is
        traceback.print_exc()
        status = FAILED
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(status)


def through(seam: Seam, operation: Operation, then: Operation = _nothing, output: Path | None = None) -> int:
    """Run an operation in a child behind a seam."""

    def run() -> object:
        _determined()
        seam.install()
        try:
            return operation()
        finally:
            for name, real in seam.real.items():
                setattr(os, name, real)
            then()

    return fork(run, output)


def calls_of(operation: Operation, scratch: Path) -> list[Call]:
    """Run an operation to its end in a child and return its calls."""
    seam, report = Seam(), scratch / "calls.json"
    log = scratch / "calls.log"
    status = through(seam, operation, lambda: report.write_text(json.dumps(seam.calls)), log)
    assert os.waitstatus_to_exitcode(status) == 0, log.read_text()
    calls = [Call(*call) for call in json.loads(report.read_text())]
    report.unlink()
    log.unlink()
    return calls


class Point(NamedTuple):
    """Where a process is killed."""

    number: int
    moment: Moment
    call: Call

    def __str__(self) -> str:
        return f"{self.moment} call {self.number}, {self.call.name} {self.call.path}"


def points(calls: list[Call]) -> Iterator[Point]:
    """Yield every call whose state differs from that of the call before."""
    if calls:
        yield Point(1, "before", calls[0])
    for number, call in enumerate(calls, 1):
        if call.visible and call.name in WRITES:
            yield Point(number, "middle", call)
        if call.visible:
            yield Point(number, "after", call)


def some(calls: list[Call], names: tuple[str, ...]) -> list[int]:
    """Return the numbers of the first and the last call of each kind."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for number, call in enumerate(calls, 1):
        if call.name in names:
            kinds.setdefault((call.name, call.path), []).append(number)
    return sorted({chosen for numbers in kinds.values() for chosen in (numbers[0], numbers[-1])})


def each(calls: list[Call], names: tuple[str, ...]) -> list[int]:
    """Return the numbers of all such calls."""
    return [number for number, call in enumerate(calls, 1) if call.name in names]


def telling(points: list[Point]) -> list[Point]:
    """Return the points around names that change, and of the rest the first and the last of each kind."""
    kinds: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        kinds.setdefault((point.moment, point.call.name, point.call.path), []).append(point)
    ends = {point for same in kinds.values() for point in (same[0], same[-1])}
    return sorted(ends.union(named(points)))


def named(points: list[Point]) -> list[Point]:
    """Return the points after the change of a name, except those of blobs."""
    return [point for point in points if point.call.name in MOVES and not point.call.path.endswith(".blob")]


def kill(operation: Operation, point: Point) -> None:
    """Run an operation in a child that is killed at a point."""
    status = through(Killer(point.number, point.moment), operation)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"ran past {point}"
