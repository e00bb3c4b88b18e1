"""Check a stored archive of ``pg_dump`` without a server.

``pg_restore`` makes a script of it, which is read to its end; its rows and large objects are counted.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import msgspec

from ...blobs.refs import BlobSet
from ...datafs.records import BLOB_RECORD_LIMIT, is_blob
from ...errors import Damage, VaultError
from ...model.blob import BlobRef
from ...model.chain import dump_of
from ...model.manifest import DatabaseEntry, PgDump
from ...runtime.progress import Progress
from ..base import CheckReport, Sink
from ..blobs.missing import missing_rows
from ..sql.program import Program
from ..sql.snapshot import advancing
from .snapshot import FETCH, LARGE_OBJECT, large_object
from .tables import CHUNK, BlobRows, StorageTables
from .versions import made_by, pg_restore_for


def check_dump(
    entry: DatabaseEntry,
    tables: StorageTables,
    sink: Sink,
    refs: BlobSet,
    report: CheckReport,
    progress: Progress,
) -> None:
    """Read a dump to its end and compare it with what its snapshot held.

    Add the blobs that it references outside of the database to ``refs``. Raise Damage when it cannot be read.
    """
    dump = entry.dump
    assert isinstance(dump, PgDump)
    content = advancing(sink.read(dump_of(entry, sink)), progress)
    if tables.chunks is not None:
        _check_with_chunks(entry, dump, tables.chunks, content, sink, refs, report)
        return
    reader = reader_of_blob_rows(tables.blob_rows, report, made_by(dump.versions))
    read = reader.run(content, refs, refs)
    with contextlib.closing(read.created):
        compare_tables(dump, read, report)


def _check_with_chunks(
    entry: DatabaseEntry,
    dump: PgDump,
    table: str,
    content: Iterable[bytes],
    sink: Sink,
    refs: BlobSet,
    report: CheckReport,
) -> None:
    """Check a dump whose blobs are large objects: each one that a row of the table names has to be in it."""
    with contextlib.closing(BlobSet()) as named:
        reader = ArchiveReader(
            table, (CHUNK,), lambda fields: large_object(int(fields[0])), made_by(dump.versions)
        )
        read = reader.run(content, named, refs)
        with contextlib.closing(read.created):
            lost = known_as_lost(entry, sink)
            named.mark_present(one.oid + one.tid for one in read.created.all())
            for one in named.missing():
                if int.from_bytes(one.oid) not in lost:
                    report.damage(
                        "blob",
                        f"the dump lacks the large object {int.from_bytes(one.oid)}, which {table} refers to",
                    )
        report.count("large objects", len(named))
    if entry.blob_mode not in ("directory", "s3"):
        refs.mark_present(one.oid + one.tid for one in list(refs.all()))  # in the dump itself
    compare_tables(dump, read, report)
    report.count("bytes of large objects", read.size)


def compare_tables(dump: PgDump, read: Read, report: CheckReport) -> None:
    """Compare the numbers of rows in a dump with those in the snapshot that it was made of."""
    for table in sorted(dump.tables.keys() | read.tables.keys()):
        rows, wanted = read.tables.get(table), dump.tables.get(table)
        report.count("rows", rows or 0)
        if rows != wanted:
            report.damage(
                "table", f"{table} has {rows} rows in the dump, {wanted} in the snapshot that it was made of"
            )


RowRead = Callable[[str, list[str], bytes], None]


def reader_of_blob_rows(
    rows: BlobRows | None, report: CheckReport, made_by: int, row: RowRead | None = None
) -> ArchiveReader:
    """Return a reader that notes the blobs outside of the database that rows name, none without such rows."""
    if rows is None:
        return ArchiveReader("", (), lambda _fields: None, made_by, row)
    return ArchiveReader(rows.table, rows.columns, partial(rows.read, report), made_by, row)


def known_as_lost(entry: DatabaseEntry, sink: Sink) -> set[int]:
    """Return the large objects that the database itself had lost."""
    return {row.large_object for row in missing_rows(entry, sink) if row.large_object is not None}


COPY: Final = re.compile(rb"COPY (\S+) \(([^)]*)\) FROM stdin;\Z")
OPEN: Final = re.compile(rb"SELECT pg_catalog\.lo_open\('(\d+)', \d+\);")
WRITE: Final = b"SELECT pg_catalog.lowrite(0, '\\x"
END: Final = b"\\."
# The longest row with the record of a blob: its state in hexadecimal, and some numbers.
BLOB_ROW: Final = 2 * BLOB_RECORD_LIMIT + 200
NAME: Final = b"ZODB.blob".hex().encode()


class Read(msgspec.Struct):
    """What an archive has: rows of each table, large objects that are created and filled, and their bytes."""

    tables: dict[str, int]
    created: BlobSet
    filled: int
    size: int


class ArchiveReader:
    """Reads the script that ``pg_restore`` makes of an archive.

    ``name_of`` gets the ``columns`` of each row of ``table``, and returns what the row names. ``row`` gets
    table, columns and text of every row.
    """

    def __init__(
        self,
        table: str,
        columns: Sequence[str],
        name_of: Callable[[list[bytes]], BlobRef | None],
        made_by: int,
        row: RowRead | None = None,
    ) -> None:
        self._table, self._columns, self._name_of, self._row = table, columns, name_of, row
        command = [pg_restore_for(made_by), "--file=-"]
        self._program = Program(
            command, {}, lambda text: Damage(f"the dump cannot be read: {text}"), fed=True
        )
        self.read = Read({}, BlobSet(), 0, 0)
        self._indexes: list[int] = []

    def run(self, chunks: Iterable[bytes], named: BlobSet, refs: BlobSet) -> Read:
        """Return what is in the archive; raise Damage.

        Add what the rows of the table name to ``named``, and the blobs that records reference to ``refs``.
        """
        problem: list[BaseException] = []
        feeder = threading.Thread(target=self._feed, args=(chunks, problem), name="vault-feed")
        with self._program as program:
            feeder.start()
            try:
                self._consume(program, named, refs)
            finally:
                if problem:
                    program.kill()
                feeder.join()
            if problem:
                raise problem[0]
            program.finish()
        return self.read

    def _feed(self, chunks: Iterable[bytes], problem: list[BaseException]) -> None:
        try:
            for chunk in chunks:
                if not self._program.feed(chunk):
                    break
        except (VaultError, KeyboardInterrupt) as error:
            problem.append(error)
        finally:
            self._program.close_input()

    def _consume(self, program: Program, named: BlobSet, refs: BlobSet) -> None:
        table, rows, found, columns = "", 0, list[BlobRef](), list[str]()
        for line in program.lines():
            if table:
                if line == END:
                    self.read.tables[table], table, rows = rows, "", 0
                    continue
                rows += 1
                if self._row is not None:
                    self._row(table, columns, line)
                if len(line) < BLOB_ROW and NAME in line and "state" in columns:
                    refs.add(blob_of(line, columns))
                if self._indexes:
                    found += self._named(line)
                    if len(found) >= FETCH:
                        named.add(found)
                        found = []
            elif match := COPY.match(line):
                table = match[1].decode("utf-8", "replace").replace('"', "")
                columns = [column.strip() for column in match[2].decode().split(",")]
                ours = table.endswith(f".{self._table}") and set(self._columns) <= set(columns)
                self._indexes = [columns.index(column) for column in self._columns] if ours else []
            else:
                self._large_objects(line)
        named.add(found)

    def _named(self, line: bytes) -> list[BlobRef]:
        fields = line.split(b"\t")
        name = self._name_of([fields[index] for index in self._indexes])
        return [name] if name is not None else []

    def _large_objects(self, line: bytes) -> None:
        if line.startswith(WRITE):
            self.read.size += (len(line) - len(WRITE) - len(b"');")) // 2
        elif OPEN.match(line):
            self.read.filled += 1
        elif found := LARGE_OBJECT.findall(line):
            self.read.created.add(large_object(int(oid)) for oid in found)


def blob_of(line: bytes, columns: list[str]) -> list[BlobRef]:
    """Return the blob of a row of ``object_state``, if its record is that of a blob."""
    if len(line) >= BLOB_ROW or NAME not in line:
        return []
    values = dict(zip(columns, line.split(b"\t"), strict=False))
    state = values.get("state", b"")
    if not state.startswith(b"\\\\x") or not is_blob(bytes.fromhex(state[3:].decode("ascii"))):
        return []
    return [BlobRef(int(values["zoid"]).to_bytes(8), int(values["tid"]).to_bytes(8), True)]
