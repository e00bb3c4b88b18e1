"""Load a dump with its deltas: all of it in one transaction, over one connection.

``pg_restore`` writes the dump as scripts, section by section. The rows of the deltas are loaded after those
of the dump, and before its indexes, foreign keys and triggers are made. So no trigger runs, the order of the
rows does not matter, and making the keys proves that the rows fit together.
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
from .delta_script import ScriptStep, Sql, any_table, steps_of, target_of
from .tables import CHUNK, StorageTables, sum_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

COPY: Final = re.compile(rb"COPY .* FROM stdin;\Z")
ENTRY: Final = re.compile(rb"-- (TOC entry|Name:) ")
END_OF_ROWS: Final = b"\\."
LARGE_OBJECT: Final = re.compile(rb"SELECT pg_catalog\.(lo_create|lo_open|lowrite|lo_close|lo_unlink)\(.*;\Z")
# Left out of the scripts: what only psql understands, what would end the transaction, and a setting that
# older servers do not have.
LEFT_OUT: Final = re.compile(rb"\\(un)?restrict .*|BEGIN;|COMMIT;|SET transaction_timeout = 0;")


class DeltaRestore:
    """Loads a dump and its deltas over one connection. The caller commits."""

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

    def run(
        self, entry: DatabaseEntry, tables: StorageTables, dump: PgTransactions, more: Sequence[str]
    ) -> None:
        """Load everything; ``more`` are options of pg_restore. Raise Damage, or TargetRefused."""
        with translate_errors(TargetRefused):
            if more:  # first drop what depends on the tables that are there
                self._section("post-data", entry, more, drops_only=True)
            self._section("pre-data", entry, more)
            self._section("data", entry, [])
            for step in steps_of(tables, dump, deltas_of(entry, self._sink)):
                self._step(step)
            self._section("post-data", entry, [])

    def _step(self, step: ScriptStep) -> None:
        if isinstance(step, Sql):
            self._execute(step.text.encode())
            return
        content = PartsFile(self._sink, step.file.parts, self._progress, self._heartbeat)
        rows = self._copy(f"COPY {target_of(step)} FROM STDIN (FORMAT {step.file.format})", content)
        if rows != step.file.rows:
            raise Damage(f"{rows} rows of {step.file.table} were read, {step.file.rows} were stored")

    def _section(
        self, name: str, entry: DatabaseEntry, more: Sequence[str], *, drops_only: bool = False
    ) -> None:
        """Execute what ``pg_restore`` writes for a section of the dump.

        ``drops_only``: only the statements before the first entry, which drop what is there.
        """
        command = [*self._command, f"--section={name}", "--file=-", *more]
        with Program(command, {}, self._failure, fed=True) as program:
            feeder = DumpFeeder(program, entry, self._sink, self._report if name == "data" else None)
            feeder.start()
            try:
                lines = program.lines()
                drops = takewhile(lambda line: not ENTRY.match(line), lines)
                self._script(drops if drops_only else lines, feeder)
                drained(lines)
            except BaseException:
                program.kill()
                feeder.join()
                if feeder.error is not None:  # the feeder failed first: that is the cause
                    raise feeder.error from None
                raise
            feeder.join()
            if feeder.error is not None:
                raise feeder.error
            program.finish()

    def _report(self, size: int) -> None:
        self._progress.advance(size)
        self._heartbeat()

    def _script(self, lines: Iterator[bytes], feeder: DumpFeeder) -> None:
        """Execute a script: rows are streamed, statements about large objects are executed in groups."""
        statements = bytearray()
        for line in lines:
            if COPY.match(line):
                self._execute(bytes(statements))
                statements.clear()
                self._copy(line.decode(), CopyRows(lines))
            elif not LEFT_OUT.fullmatch(line):
                statements += line + b"\n"
                if len(statements) > PIECE and LARGE_OBJECT.fullmatch(line):
                    self._execute(bytes(statements))
                    statements.clear()
            if feeder.error is not None:
                return
        self._execute(bytes(statements))

    def _execute(self, statements: bytes) -> None:
        # psycopg2 refuses a query that has nothing but comments
        if any(line and not line.startswith(b"--") for line in statements.split(b"\n")):
            with self._connection.cursor() as cursor:
                cursor.execute(statements)

    def _copy(self, statement: str, file: CopyRows | PartsFile) -> int:
        import psycopg2

        with self._connection.cursor() as cursor:
            try:
                cursor.copy_expert(statement, file, PIECE)
            except psycopg2.Error:
                if file.problem is not None:
                    raise file.problem from None
                raise
            return int(cursor.rowcount)


class DumpFeeder(threading.Thread):
    """Feeds a dump to a program; ``error`` is what stopped it.

    ``report`` is called with the length of each part.
    """

    def __init__(
        self, program: Program, entry: DatabaseEntry, sink: Sink, report: Callable[[int], None] | None
    ) -> None:
        super().__init__(name="vault-feed")
        self._program, self._entry, self._sink, self._report = program, entry, sink, report
        self.error: BaseException | None = None

    def run(self) -> None:
        """Feed all parts."""
        try:
            for part in dump_of(self._entry, self._sink):
                # read and checked as a whole before its first byte is handed over
                content = b"".join(self._sink.read([part]))
                if not self._program.feed(content):
                    break
                if self._report is not None:
                    self._report(len(content))
        except (VaultError, KeyboardInterrupt) as error:
            self.error = error
            self._program.kill()
        finally:
            self._program.close_input()


class CopyRows:
    """The rows of a table in a script, as a file for psycopg2; ``problem`` is the error that it raised."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines, self._rest, self._ended = lines, bytearray(), False
        self.problem: BaseException | None = None

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
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


class PartsFile:
    """The content of parts as a file for psycopg2; each part is checked before its first byte is handed over.

    ``problem`` is the error that it raised: psycopg2 reports another one.
    """

    def __init__(
        self, sink: Sink, parts: Iterable[Part], progress: Progress, heartbeat: Callable[[], None]
    ) -> None:
        self._sink, self._parts = sink, iter(parts)
        self._progress, self._heartbeat = progress, heartbeat
        self._rest = memoryview(b"")
        self.problem: BaseException | None = None

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
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


def require_keys(
    connection: Connection, entry: DatabaseEntry, tables: StorageTables, dump: PgTransactions
) -> None:
    """Raise Damage unless the restored tables have the keys and the large objects of the snapshot.

    The keys are compared by their sums.
    """
    anyone = any_table(dump)
    with translate_errors(TargetRefused), connection.cursor() as cursor:
        for one in tables.keyed:
            table = anyone.beside(one.name)
            wanted = dump.keys[str(table)]
            for column in one.sums:
                cursor.execute(f"SELECT {sum_of(column)} FROM ONLY {table.quoted}")
                if (found := str(cursor.fetchall()[0][0])) != wanted[column]:
                    raise Damage(
                        f"the column {column} of the restored table {table} adds up to {found}, "
                        f"in the snapshot that was {wanted[column]}"
                    )
        if tables.chunks is not None and dump.large_objects:
            chunks = f"SELECT count(DISTINCT {CHUNK}) FROM ONLY {anyone.beside(tables.chunks).quoted}"
            cursor.execute(f"{chunks} WHERE {CHUNK} NOT IN (SELECT oid FROM pg_largeobject_metadata)")
            lost, known = cursor.fetchall()[0][0], entry.blobs.missing.count if entry.blobs else 0
            if lost > known:
                raise Damage(f"{lost} large objects in {tables.chunks} do not exist after the restore")
