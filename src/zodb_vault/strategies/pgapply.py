"""How overlays get onto the dump they belong to: the statements, the same as a script for ``psql``, and one transaction in which all of it is done.

They stand between the rows of the dump and its indexes, foreign keys and triggers: nothing fires meanwhile, no order is prescribed, and what is
created behind them proves that the rows fit together.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import Damage, TargetRefused, UnsupportedRepository, VaultError
from ..model.chain import dump_of, overlays_of
from ..model.manifest import DatabaseEntry, Overlay, Part, PgTransactions, RowFile
from .base import Progress, Sink
from .pgchanges import BITS, SET_COLUMNS
from .pgtables import Keyed, Layout, layout_of, sum_of
from .postgres import PIECE, quoted, translated
from .programs import Program, drained

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

COPY: Final = re.compile(rb"COPY .* FROM stdin;\Z")
ENTRY: Final = re.compile(rb"-- (TOC entry|Name:) ")
END_OF_ROWS: Final = b"\\."
LARGE_OBJECT: Final = re.compile(rb"SELECT pg_catalog\.(lo_create|lo_open|lowrite|lo_close|lo_unlink)\(.*;\Z")
# What psql understands and a server does not, what would end the transaction, and what only newer servers know.
LEFT_OUT: Final = re.compile(rb"\\(un)?restrict .*|BEGIN;|COMMIT;|SET transaction_timeout = 0;")
CONTENT: Final = "vault_large_objects"
CHUNKS: Final = "vault_chunks"
FORMER: Final = "vault_former"


class Sql(NamedTuple):
    """A statement."""

    text: str


class Load(NamedTuple):
    """A file of rows that goes into a table; ``table`` is a name as it stands in SQL."""

    table: str
    columns: Sequence[str]
    file: RowFile


Step = Sql | Load


def steps_of(layout: Layout, dump: PgTransactions, overlays: Iterable[Overlay]) -> Iterator[Step]:
    """Yield what is to be done, behind the rows of the dump and before its indexes."""
    schema = next(iter(dump.keys)).partition(".")[0]
    yield Sql(f"SET client_encoding = {_text(dump.encoding)}")
    yield from _added(overlays, [f"{schema}.{one.name}" for one in layout.keyed if one.kind == "history"])
    for file in dump.whole:
        yield Sql(f"TRUNCATE ONLY {_full(file.table)}")
        yield Load(_full(file.table), file.columns, file)
    for table in dump.derived:
        yield Sql(f"TRUNCATE ONLY {_full(table)}")
    chunks = _full(f"{schema}.blob_chunk") if dump.large_objects or dump.base.large_objects else None
    if chunks:
        yield Sql(f"CREATE TEMPORARY TABLE {CHUNKS} AS SELECT DISTINCT chunk FROM ONLY {chunks}")
    for one in layout.keyed:
        files = [file for file in dump.live if file.table == f"{schema}.{one.name}"]
        yield from _only_current(one, files, dump) if one.kind == "set" else _only_left(one, files)
    if chunks:
        gone = f"oid IN (SELECT chunk FROM {CHUNKS} EXCEPT SELECT chunk FROM ONLY {chunks})"
        yield Sql(f"SELECT count(lo_unlink(oid)) FROM pg_largeobject_metadata WHERE {gone}")
    for name, value in dump.sequences.items():
        yield Sql(f"SELECT setval({_text(_full(name))}, {value})")


def _added(overlays: Iterable[Overlay], history: Sequence[str]) -> Iterator[Step]:
    """Yield what brings all rows that were ever added, and the content of large objects; a number can have been used again.

    What an overlay has of ``history`` may be there already.
    """
    for table in history:
        yield Sql(f"CREATE TEMPORARY TABLE {FORMER} AS SELECT * FROM ONLY {_full(table)} LIMIT 0")
    yield Sql(f"CREATE TEMPORARY TABLE {CONTENT} (chunk oid, place bigint, data bytea)")
    for overlay in overlays:
        for file in overlay.rows:
            if file.table in history:
                yield from _former(file)
            else:
                yield Load(_full(file.table), file.columns, file)
        if overlay.large_objects is not None:
            yield Load(CONTENT, overlay.large_objects.columns, overlay.large_objects)
            yield Sql(f"SELECT count(lo_unlink(oid)) FROM pg_largeobject_metadata WHERE oid IN (SELECT chunk FROM {CONTENT})")
            yield Sql(f"SELECT count(lo_create(chunk)) FROM (SELECT DISTINCT chunk FROM {CONTENT}) one")
            yield Sql(f"SELECT lo_put(chunk, place, data) FROM {CONTENT}")
            yield Sql(f"TRUNCATE {CONTENT}")


def _former(file: RowFile) -> Iterator[Step]:
    columns, table = ", ".join(map(quoted, file.columns)), _full(file.table)
    there = f"SELECT FROM ONLY {table} o WHERE (o.zoid, o.tid) = (f.zoid, f.tid)"
    yield Load(FORMER, file.columns, file)
    yield Sql(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {FORMER} f WHERE NOT EXISTS ({there})")
    yield Sql(f"TRUNCATE {FORMER}")


def _only_current(one: Keyed, files: list[RowFile], dump: PgTransactions) -> Iterator[Step]:
    """Yield what leaves the newest row of each object that is left."""
    table, live = _full(next(key for key in dump.keys if key.endswith(f".{one.name}"))), f"vault_live_{one.name}"
    since = int(dump.base.last_tid, 16) if dump.base.last_tid else -1
    newest = f"SELECT zoid, max(tid) AS tid FROM ONLY {table} WHERE tid > {since} GROUP BY zoid"
    yield Sql(f"DELETE FROM ONLY {table} o USING ({newest}) n WHERE o.zoid = n.zoid AND o.tid < n.tid")
    yield Sql(f"CREATE TEMPORARY TABLE {live} (base bigint, bits bit({BITS}))")
    for file in files:
        yield Load(live, SET_COLUMNS, file)
    there = f"SELECT FROM {live} l WHERE l.base = o.zoid >> 10 AND get_bit(l.bits, (o.zoid & {BITS - 1})::integer) = 1"
    yield Sql(f"DELETE FROM ONLY {table} o WHERE NOT EXISTS ({there})")


def _only_left(one: Keyed, files: list[RowFile]) -> Iterator[Step]:
    """Yield what leaves those revisions that packs have left, as packs have left them."""
    for file in files:
        table, left = _full(file.table), f"vault_left_{one.name}"
        same = " AND ".join(f"l.{column} = o.{column}" for column in one.key)
        yield Sql(f"CREATE TEMPORARY TABLE {left} AS SELECT {', '.join(file.columns)} FROM ONLY {table} LIMIT 0")
        yield Load(left, file.columns, file)
        until = int(file.until, 16) if file.until else -1
        yield Sql(f"DELETE FROM ONLY {table} o WHERE tid <= {until} AND NOT EXISTS (SELECT FROM {left} l WHERE {same})")
        if one.changed:
            assigned = ", ".join(f"{column} = l.{column}" for column in one.changed)
            differs = " OR ".join(f"l.{column} IS DISTINCT FROM o.{column}" for column in one.changed)
            yield Sql(f"UPDATE ONLY {table} o SET {assigned} FROM {left} l WHERE {same} AND ({differs})")


def _full(table: str) -> str:
    schema, _dot, name = table.partition(".")
    return f"{quoted(schema)}.{quoted(name)}"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def script_of(backend: str, history: bool, dump: PgTransactions, overlays: Iterable[Overlay]) -> bytes:
    """Return the statements as a script for ``psql``, which is run where the files are."""
    lines = ["\\set ON_ERROR_STOP on", "SET search_path = '';", "\\o /dev/null"]
    for step in steps_of(layout_for(backend, history), dump, overlays):
        if isinstance(step, Sql):
            lines.append(f"{step.text};")
        else:
            name = step.file.parts[0].to.rpartition("/")[2]
            lines.append(f"\\copy {_target(step)} FROM {_text(name)} WITH (FORMAT {step.file.format})")
    return "\n".join([*lines, ""]).encode()


def layout_for(backend: str, history: bool) -> Layout:
    """Return what the tables of a storage are; raise UnsupportedRepository."""
    layout = layout_of(backend, history)
    if layout is None:
        raise UnsupportedRepository(f"this version does not know the tables of {backend} that overlays are for", "install a newer zodb-vault")
    return layout


def _target(step: Load) -> str:
    return f"{step.table} ({', '.join(map(quoted, step.columns))})"


# all of it in one transaction


class Assembly:
    """Loads dump and overlays over one connection that commits nothing by itself."""

    def __init__(
        self, connection: Connection, command: Sequence[str], failure: Callable[[str], VaultError], sink: Sink, progress: Progress,
        beat: Callable[[], None],
    ) -> None:  # fmt: skip
        self._connection, self._command, self._failure = connection, command, failure
        self._sink, self._progress, self._beat = sink, progress, beat

    def run(self, entry: DatabaseEntry, dump: PgTransactions, more: Sequence[str]) -> None:
        """Load everything; raise Damage, or TargetRefused."""
        with translated(TargetRefused):
            if more:  # to drop what is there: what depends on tables goes first
                self._section("post-data", entry, more, drops_only=True)
            self._section("pre-data", entry, more)
            self._section("data", entry, [])
            for step in steps_of(layout_for(entry.backend, bool(entry.history)), dump, overlays_of(entry, self._sink)):
                self._step(step)
            self._section("post-data", entry, [])

    def _step(self, step: Step) -> None:
        if isinstance(step, Sql):
            self._execute(step.text.encode())
            return
        content = _Whole(self._sink, step.file.parts, self._progress, self._beat)
        if (rows := self._copy(f"COPY {_target(step)} FROM STDIN (FORMAT {step.file.format})", content)) != step.file.rows:
            raise Damage(f"{rows} rows of {step.file.table} were read, {step.file.rows} were stored")

    def _section(self, name: str, entry: DatabaseEntry, more: Sequence[str], *, drops_only: bool = False) -> None:
        """Do what ``pg_restore`` writes of a section of the dump; what it drops stands before the first entry."""
        problem: list[BaseException] = []
        with Program([*self._command, f"--section={name}", "--file=-", *more], {}, self._failure, fed=True) as program:
            feeder = threading.Thread(target=self._feed, args=(program, entry, problem, name == "data"), name="vault-feed")
            feeder.start()
            try:
                lines = program.lines()
                self._script(takewhile(lambda line: not ENTRY.match(line), lines) if drops_only else lines, problem)
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
                    self._beat()
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
        if any(line and not line.startswith(b"--") for line in statements.split(b"\n")):  # a query must not be empty
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

    def __init__(self, sink: Sink, parts: Iterable[Part], progress: Progress, beat: Callable[[], None]) -> None:
        self._sink, self._parts = sink, iter(parts)
        self._progress, self._beat = progress, beat
        self._rest = memoryview(b"")
        self.problem: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            while not self._rest and (part := next(self._parts, None)) is not None:
                self._rest = memoryview(b"".join(self._sink.read([part])))
                self._progress.advance(len(self._rest))
                self._beat()
        except BaseException as error:
            self.problem = error
            raise
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data


def require_keys(connection: Connection, entry: DatabaseEntry, dump: PgTransactions) -> None:
    """Raise Damage unless the keys of the restored tables add up to what the snapshot had, and the large objects that they name are there."""
    schema = next(iter(dump.keys)).partition(".")[0]
    with translated(TargetRefused), connection.cursor() as cursor:
        for one in layout_for(entry.backend, bool(entry.history)).keyed:
            table, wanted = f"{schema}.{one.name}", dump.keys[f"{schema}.{one.name}"]
            for column in one.sums:
                cursor.execute(f"SELECT {sum_of(column)} FROM ONLY {_full(table)}")
                if (found := str(cursor.fetchall()[0][0])) != wanted[column]:
                    raise Damage(f"the column {column} of the restored table {table} adds up to {found}, in the snapshot that was {wanted[column]}")
        if dump.large_objects:
            there = "SELECT oid FROM pg_largeobject_metadata"
            cursor.execute(f"SELECT count(DISTINCT chunk) FROM ONLY {_full(f'{schema}.blob_chunk')} WHERE chunk NOT IN ({there})")
            lost, known = cursor.fetchall()[0][0], entry.blobs.missing.count if entry.blobs else 0
            if lost > known:
                raise Damage(f"{lost} large objects that blob_chunk refers to are not there after the restore")
