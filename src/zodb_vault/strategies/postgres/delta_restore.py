"""How deltas get onto the dump they belong to.

The statements, the same as a script for ``psql``, and one transaction in which all of it is done.

They stand between the rows of the dump and its indexes, foreign keys and triggers: nothing fires meanwhile,
no order is prescribed, and what is created behind them proves that the rows fit together.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from ...errors import Damage, TargetRefused, VaultError
from ...model.chain import deltas_of, dump_of
from ...model.manifest import DatabaseEntry, Part, PgTransactions
from ...runtime.progress import Progress
from ..base import Sink
from ..sql.program import Program, drained
from ..sql.snapshot import PIECE
from .connection import translate_errors
from .delta_script import ScriptStep, Sql, layout_for, quoted_table, steps_of, target_of
from .tables import sum_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

COPY: Final = re.compile(rb"COPY .* FROM stdin;\Z")
ENTRY: Final = re.compile(rb"-- (TOC entry|Name:) ")
END_OF_ROWS: Final = b"\\."
LARGE_OBJECT: Final = re.compile(rb"SELECT pg_catalog\.(lo_create|lo_open|lowrite|lo_close|lo_unlink)\(.*;\Z")
# What psql understands and a server does not, what would end the transaction, and what only newer servers
# know.
LEFT_OUT: Final = re.compile(rb"\\(un)?restrict .*|BEGIN;|COMMIT;|SET transaction_timeout = 0;")


# all of it in one transaction


class Assembly:
    """Loads dump and deltas over one connection that commits nothing by itself."""

    def __init__(
        self,
        connection: Connection,
        command: Sequence[str],
        failure: Callable[[str], VaultError],
        sink: Sink,
        progress: Progress,
        heartbeat: Callable[[], None],
    ) -> None:
        self._connection, self._command, self._failure = connection, command, failure
        self._sink, self._progress, self._heartbeat = sink, progress, heartbeat

    def run(self, entry: DatabaseEntry, dump: PgTransactions, more: Sequence[str]) -> None:
        """Load everything; raise Damage, or TargetRefused."""
        with translate_errors(TargetRefused):
            if more:  # to drop what is there: what depends on tables goes first
                self._section("post-data", entry, more, drops_only=True)
            self._section("pre-data", entry, more)
            self._section("data", entry, [])
            for step in steps_of(
                layout_for(entry.backend, bool(entry.history)), dump, deltas_of(entry, self._sink)
            ):
                self._step(step)
            self._section("post-data", entry, [])

    def _step(self, step: ScriptStep) -> None:
        if isinstance(step, Sql):
            self._execute(step.text.encode())
            return
        content = _Whole(self._sink, step.file.parts, self._progress, self._heartbeat)
        if (
            rows := self._copy(f"COPY {target_of(step)} FROM STDIN (FORMAT {step.file.format})", content)
        ) != step.file.rows:
            raise Damage(f"{rows} rows of {step.file.table} were read, {step.file.rows} were stored")

    def _section(
        self, name: str, entry: DatabaseEntry, more: Sequence[str], *, drops_only: bool = False
    ) -> None:
        """Do what ``pg_restore`` writes of a section of the dump.

        What it drops stands before the first entry.
        """
        problem: list[BaseException] = []
        with Program(
            [*self._command, f"--section={name}", "--file=-", *more], {}, self._failure, fed=True
        ) as program:
            feeder = threading.Thread(
                target=self._feed, args=(program, entry, problem, name == "data"), name="vault-feed"
            )
            feeder.start()
            try:
                lines = program.lines()
                self._script(
                    takewhile(lambda line: not ENTRY.match(line), lines) if drops_only else lines, problem
                )
                drained(lines)
            except BaseException:
                program.kill()
                feeder.join()
                if problem:  # what came first is the cause
                    raise problem[0] from None
                raise
            feeder.join()
            if problem:
                raise problem[0]
            program.finish()

    def _feed(self, program: Program, entry: DatabaseEntry, problem: list[BaseException], told: bool) -> None:
        try:
            for part in dump_of(entry, self._sink):
                # whole and checked before a byte of it is handed over
                content = b"".join(self._sink.read([part]))
                if not program.feed(content):
                    break
                if told:
                    self._progress.advance(len(content))
                    self._heartbeat()
        except (VaultError, KeyboardInterrupt) as error:
            problem.append(error)
            program.kill()
        finally:
            program.close_input()

    def _script(self, lines: Iterator[bytes], problem: list[BaseException]) -> None:
        """Do what a script says; rows pass through, statements about large objects go some at a time."""
        statements = bytearray()
        for line in lines:
            if COPY.match(line):
                self._execute(bytes(statements))
                statements.clear()
                self._copy(line.decode(), _Rows(lines))
            elif not LEFT_OUT.fullmatch(line):
                statements += line + b"\n"
                if len(statements) > PIECE and LARGE_OBJECT.fullmatch(line):
                    self._execute(bytes(statements))
                    statements.clear()
            if problem:
                return
        self._execute(bytes(statements))

    def _execute(self, statements: bytes) -> None:
        if any(
            line and not line.startswith(b"--") for line in statements.split(b"\n")
        ):  # a query must not be empty
            with self._connection.cursor() as cursor:
                cursor.execute(statements)

    def _copy(self, statement: str, file: _Rows | _Whole) -> int:
        import psycopg2

        with self._connection.cursor() as cursor:
            try:
                cursor.copy_expert(statement, file, PIECE)
            except psycopg2.Error:
                if file.problem is not None:
                    raise file.problem from None
                raise
            return int(cursor.rowcount)


class _Rows:
    """The rows of a table in a script, as a file up to the line that ends them."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines, self._rest, self._ended = lines, bytearray(), False
        self.problem: BaseException | None = None

    def read(self, size: int) -> bytes:
        while not self._ended and len(self._rest) < size:
            line = next(self._lines, None)
            if line is None:
                self.problem = Damage("the dump ends in the middle of a table")
                raise self.problem
            self._ended = line == END_OF_ROWS
            self._rest += b"" if self._ended else line + b"\n"
        data = bytes(self._rest[:size])
        del self._rest[:size]
        return data


class _Whole:
    """The content of parts as a file; each is checked before a byte of it is handed over."""

    def __init__(
        self, sink: Sink, parts: Iterable[Part], progress: Progress, heartbeat: Callable[[], None]
    ) -> None:
        self._sink, self._parts = sink, iter(parts)
        self._progress, self._heartbeat = progress, heartbeat
        self._rest = memoryview(b"")
        self.problem: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            while not self._rest and (part := next(self._parts, None)) is not None:
                self._rest = memoryview(b"".join(self._sink.read([part])))
                self._progress.advance(len(self._rest))
                self._heartbeat()
        except BaseException as error:
            self.problem = error
            raise
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data


def require_keys(connection: Connection, entry: DatabaseEntry, dump: PgTransactions) -> None:
    """Raise Damage unless the keys of the restored tables add up to what the snapshot had, and the large objects that they name are there."""
    schema = next(iter(dump.keys)).partition(".")[0]
    with translate_errors(TargetRefused), connection.cursor() as cursor:
        for one in layout_for(entry.backend, bool(entry.history)).keyed:
            table, wanted = f"{schema}.{one.name}", dump.keys[f"{schema}.{one.name}"]
            for column in one.sums:
                cursor.execute(f"SELECT {sum_of(column)} FROM ONLY {quoted_table(table)}")
                if (found := str(cursor.fetchall()[0][0])) != wanted[column]:
                    raise Damage(
                        f"the column {column} of the restored table {table} adds up to {found}, in the "
                        f"snapshot that was {wanted[column]}"
                    )
        if dump.large_objects:
            there = "SELECT oid FROM pg_largeobject_metadata"
            cursor.execute(
                f"SELECT count(DISTINCT chunk) FROM ONLY {quoted_table(f'{schema}.blob_chunk')} WHERE "
                f"chunk NOT IN ({there})"
            )
            lost, known = cursor.fetchall()[0][0], entry.blobs.missing.count if entry.blobs else 0
            if lost > known:
                raise Damage(
                    f"{lost} large objects that blob_chunk refers to are not there after the restore"
                )
