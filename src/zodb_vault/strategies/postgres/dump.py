"""Dump the snapshot of a connection with ``pg_dump``, and read the table of contents of the archive."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec

from ...blobs.refs import BlobSet
from ...errors import SourceError, VaultError
from ...model.blob import BlobRef
from ...model.manifest import Part
from ...runtime.progress import Progress
from ...runtime.workers import Workers, signals_blocked
from ..base import Checkpointer, Sink
from ..sql.program import Program
from ..sql.snapshot import PART_RAW, store_part
from .connection import WORDS, secrets_of, shown_dsn
from .snapshot import FETCH, LARGE_OBJECT, LOCK_TIMEOUT_MS, Postgres, large_object
from .versions import major_of_program, major_of_server, pg_dump_for, pg_restore_for


def pg_dump_of(server: Postgres) -> str:
    """Return a pg_dump that is not older than the server; raise ConfigurationError."""
    return pg_dump_for(major_of_server(server.version))


def definitions(server: Postgres) -> Iterator[bytes]:
    """Yield the lines of a script that defines everything in the snapshot, without its content."""
    command = [
        pg_dump_of(server),
        "--schema-only",
        "--no-owner",
        "--no-acl",
        "--no-password",
        f"--snapshot={server.snapshot_name}",
        f"--lock-wait-timeout={LOCK_TIMEOUT_MS}",
        f"--dbname={shown_dsn(server.dsn)}",
    ]
    with Program(command, secrets_of(server.dsn), _failed) as program:
        yield from program.lines()
        program.finish()


def dump_snapshot(
    server: Postgres, sink: Sink, to: str, workers: Workers, checkpointer: Checkpointer, progress: Progress
) -> Dumped:
    """Dump the snapshot of a connection into objects, while that connection counts the rows of its tables.

    Raise SourceError when ``pg_dump`` fails, or when ``pg_restore`` cannot read the table of contents.
    """
    program = pg_dump_of(server)
    command = [
        program,
        "--format=custom",
        "--compress=0",
        "--large-objects" if major_of_program(program) >= 16 else "--blobs",
        "--no-password",
        f"--snapshot={server.snapshot_name}",
        f"--lock-wait-timeout={LOCK_TIMEOUT_MS}",
        f"--dbname={shown_dsn(server.dsn)}",
    ]
    dumping = Program(command, secrets_of(server.dsn), _failed, tick=checkpointer.heartbeat)
    with _aside(server.tables) as tables, dumping, Contents(major_of_program(program)) as contents:
        parts = [
            part
            for stored in workers.in_order(_jobs(dumping, contents, sink, to, progress))
            for part in stored
        ]
        dumping.finish()
        contents.finish()
        return Dumped(
            parts=parts, tables=tables(), large_objects=contents.large_objects, words=dumping.words()
        )


class Dumped(msgspec.Struct):
    """A dump that is stored.

    ``tables`` are the numbers of rows in its snapshot. ``large_objects`` are those that it has. ``words`` is
    what pg_dump wrote to standard error: warnings.
    """

    parts: list[Part]
    tables: dict[str, int]
    large_objects: BlobSet
    words: str


class Contents:
    """Read the table of contents of an archive with ``pg_restore``, while the archive is made.

    An archive whose table of contents cannot be read is no backup. The definitions in it name the large
    objects: one in each entry, since PostgreSQL 17 many.
    """

    def __init__(self, made_by: int) -> None:
        self.large_objects = BlobSet()
        self._wants_more = True
        command = [pg_restore_for(made_by), "--section=pre-data", "--file=-"]
        self._program = Program(command, {}, _failed, fed=True)
        self._reader = threading.Thread(target=self._read, name="vault-contents")

    def __enter__(self) -> Contents:
        with signals_blocked():
            self._reader.start()
        return self

    def __exit__(self, *arguments: Any) -> None:
        self._program.__exit__(*arguments)
        self._reader.join()

    def feed(self, block: memoryview) -> None:
        """Take the next block of the archive."""
        self._wants_more = self._wants_more and self._program.feed(block)

    def finish(self) -> None:
        """Wait for the end; raise SourceError when the table of contents cannot be read."""
        self._program.close_input()
        self._reader.join()
        self._program.finish()

    def _read(self) -> None:
        found: list[BlobRef] = []
        with contextlib.suppress(
            ValueError, OSError
        ):  # the other end is closed when something else has failed
            for line in self._program.lines():
                found += [large_object(int(oid)) for oid in LARGE_OBJECT.findall(line)]
                if len(found) >= FETCH:
                    self.large_objects.add(found)
                    found = []
        self.large_objects.add(found)


def _jobs(
    dumping: Program, contents: Contents, sink: Sink, to: str, progress: Progress
) -> Iterator[Callable[[], list[Part]]]:
    for block in dumping.blocks(PART_RAW):
        contents.feed(block)
        progress.advance(len(block))
        yield lambda block=block: store_part(sink, to, block)  # type: ignore[misc]


@contextlib.contextmanager
def _aside(work: Callable[[], dict[str, int]]) -> Iterator[Callable[[], dict[str, int]]]:
    """Do some work in a thread of its own; give a function that waits for its result."""
    with ThreadPoolExecutor(1, thread_name_prefix="vault-count") as pool:
        with signals_blocked():
            future: Future[dict[str, int]] = pool.submit(work)
        yield future.result


def _failed(text: str) -> VaultError:
    hint = next((hint for word, hint in WORDS.items() if word in text), "")
    return SourceError(text, hint)
