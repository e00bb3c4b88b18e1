"""Check without a server that a base dump and its deltas give what the snapshot had.

All rows are read once, from the newest delta back to the base dump. So the first row of an object that comes
is the one that a restore leaves. The keys of the rows that are left are added up, and compared with the sums
that the snapshot had. Every large object that they name has to be in the base or in a delta.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator

from ...blobs.refs import BlobSet
from ...datafs.records import BLOB_RECORD_LIMIT, is_blob
from ...errors import Damage
from ...model.blob import BlobRef
from ...model.chain import deltas_of, dump_of
from ...model.manifest import DatabaseEntry, PgTransactions, RowFile
from ...runtime.progress import Progress
from ..base import CheckReport, Sink
from ..sql.snapshot import advancing
from .archive import blob_of, known_as_lost, reader_of_blob_rows
from .copy_out import HEADER
from .delta_script import any_table
from .snapshot import large_object
from .tables import OBJECTS, StorageTables
from .tally import Field, Tally, number_of, tally_of
from .versions import made_by


def check_deltas(
    entry: DatabaseEntry,
    tables: StorageTables,
    sink: Sink,
    refs: BlobSet,
    report: CheckReport,
    progress: Progress,
) -> None:
    """Read base and deltas to their ends, and compare the result with what the snapshot had.

    Add the blobs that it references outside of the database to ``refs``. Raise Damage when something cannot
    be read.
    """
    dump = entry.dump
    assert isinstance(dump, PgTransactions)
    with contextlib.ExitStack() as stack:
        check = _Check(
            entry,
            dump,
            tables,
            sink,
            report,
            progress,
            lambda: stack.enter_context(contextlib.closing(BlobSet())),
        )
        check.keys_left()
        check.deltas()
        check.base()
        check.whole()
        check.compare()
        refs.add(check.referenced())
        # records name all blobs, those in the database too; rows of blobs name only those outside of it
        if tables.blob_rows is None and entry.blob_mode not in ("directory", "s3"):
            refs.mark_present(one.oid + one.tid for one in list(refs.all()))


class _Check:
    """One check: its methods are called in the order in which they are written here.

    ``named`` are the large objects that rows name, ``there`` those that base or deltas have. ``blobs`` are
    the blobs outside of the database that rows reference, rows that are not left included.
    """

    def __init__(
        self,
        entry: DatabaseEntry,
        dump: PgTransactions,
        tables: StorageTables,
        sink: Sink,
        report: CheckReport,
        progress: Progress,
        new: Callable[[], BlobSet],
    ) -> None:
        self.entry, self.dump, self.sink, self.report, self.progress = entry, dump, sink, report, progress
        self.storage = tables
        anyone = any_table(dump)
        self.named, self.there, self.blobs = new(), new(), new()
        self.tallies: dict[str, Tally] = {}
        for one in tables.keyed:
            self.tallies[str(anyone.beside(one.name))] = tally_of(one, self.named, new)
        # the table whose rows reference blobs outside of the database
        referencing = tables.blob_rows.table if tables.blob_rows is not None else OBJECTS
        self.referencing = str(anyone.beside(referencing))

    def keys_left(self) -> None:
        """Read the keys of the rows that are left."""
        for file in self.dump.live:
            self.tallies[file.table].left(file, self._rows(file))

    def deltas(self) -> None:
        """Read the rows of the deltas, the newest delta first."""
        for delta in reversed(deltas_of(self.entry, self.sink)):
            for file in delta.rows:
                tally, indexes = (
                    self.tallies[file.table],
                    {column: index for index, column in enumerate(file.columns)},
                )
                references_blob = self._references_blob(file.table, indexes)
                for fields in self._rows(file):
                    values = {column: number_of(fields[indexes[column]]) for column in tally.columns}
                    if tally.add(values, newer=True) and references_blob(fields):
                        self.blobs.add([BlobRef(values["zoid"].to_bytes(8), values["tid"].to_bytes(8), True)])
            if delta.large_objects is not None:
                self.there.add(
                    large_object(number_of(fields[0])) for fields in self._rows(delta.large_objects)
                )
            self.report.count("deltas")

    def _references_blob(self, table: str, indexes: dict[str, int]) -> Callable[[list[Field]], bool]:
        """Return a function that tells whether a row references a blob outside of the database."""
        if table != self.referencing:
            return lambda _fields: False
        if self.storage.blob_rows is None:
            return lambda fields: is_record(fields[indexes["state"]])
        key = indexes[self.storage.blob_rows.key]
        return lambda fields: fields[key] is not None

    def base(self) -> None:
        """Read the dump, and compare the rows of each of its tables with its own snapshot."""
        base = self.dump.base
        made = made_by(base.versions)
        chunks = advancing(self.sink.read(dump_of(self.entry, self.sink)), self.progress)
        reader = reader_of_blob_rows(self.storage.blob_rows, self.report, made, self._of_base)
        with contextlib.closing(BlobSet()) as unused:  # ``_of_base`` notes the records that are left
            read = reader.run(chunks, self.blobs, unused)
        with contextlib.closing(read.created):
            self.there.add(read.created.all())
        for table in sorted(base.tables.keys() | read.tables.keys()):
            if read.tables.get(table) != base.tables.get(table):
                why = (
                    f"{table} has {read.tables.get(table)} rows in the base, {base.tables.get(table)} in "
                    "the snapshot that it was made of"
                )
                self.report.damage("table", why)
        self.report.count("bytes of large objects", read.size)

    def _of_base(self, table: str, columns: list[str], line: bytes) -> None:
        tally = self.tallies.get(table)
        if tally is not None:
            indexes = tally.indexes(columns)
            fields = line.split(b"\t", max(indexes.values()) + 1)
            values = {column: _number_of_text(fields[index]) for column, index in indexes.items()}
            if (
                tally.add(values, newer=False)
                and table == self.referencing
                and self.storage.blob_rows is None
            ):
                self.blobs.add(blob_of(line, columns))

    def whole(self) -> None:
        """Read the tables that are stored whole, and the script."""
        for file in self.dump.whole:
            if (lines := sum(chunk.count(b"\n") for chunk in self._content(file))) != file.rows:
                self.report.damage("table", f"{file.table} has {lines} rows, {file.rows} were stored")
        for _chunk in self.sink.read(self.dump.script):
            pass

    def compare(self) -> None:
        """Compare what a restore would give with what the snapshot had."""
        for table, tally in self.tallies.items():
            wanted = {
                column: int(value)
                for column, value in self.dump.keys[table].items()
                if column in ("rows", *tally.one.sums)
            }
            for column, value in tally.result().items():
                if value != wanted[column]:
                    what = "has" if column == "rows" else f"has a column {column} that adds up to"
                    self.report.damage(
                        "table",
                        f"{table} {what} {value} after all deltas, {wanted[column]} in its snapshot",
                    )
        lost = known_as_lost(self.entry, self.sink)
        self.named.mark_present(one.oid + one.tid for one in self.there.all())
        for one in self.named.missing():
            if int.from_bytes(one.oid) not in lost:
                self.report.damage(
                    "blob",
                    f"neither base nor deltas have the large object {int.from_bytes(one.oid)}, which "
                    f"{self.storage.chunks} refers to",
                )
        self.report.count("large objects", len(self.named))
        self.report.count("rows", sum(self.dump.tables.values()))

    def referenced(self) -> Iterator[BlobRef]:
        """Yield the blobs that the rows reference that are left."""
        referencing = self.tallies[self.referencing]
        return (blob for blob in self.blobs.all() if referencing.is_left(blob))

    def _rows(self, file: RowFile) -> Iterator[list[Field]]:
        count = 0
        for fields in rows_of(self._content(file), file.table):
            count += 1
            yield fields
        if count != file.rows:
            self.report.damage("table", f"{count} rows of {file.table} are there, {file.rows} were stored")

    def _content(self, file: RowFile) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for chunk in advancing(self.sink.read(file.parts), self.progress):
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != file.sha256:
            self.report.damage("table", f"the rows of {file.table} are not those that were stored")


def rows_of(chunks: Iterable[bytes], table: str) -> Iterator[list[Field]]:
    """Yield the fields of each row of a binary COPY; raise Damage for another format and an early end."""
    reader = _Reader(iter(chunks), table)
    if reader.take(len(HEADER)) != HEADER:
        raise Damage(f"the rows of {table} do not begin as rows do")
    while (count := struct.unpack(">h", reader.take(2))[0]) >= 0:
        fields: list[Field] = []
        for _ in range(count):
            length = struct.unpack(">i", reader.take(4))[0]
            fields.append(reader.take(length) if length >= 0 else None)
        yield fields


class _Reader:
    def __init__(self, chunks: Iterator[bytes], table: str) -> None:
        self._chunks, self._table = chunks, table
        self._buffer, self._position = b"", 0

    def take(self, length: int) -> bytes:
        """Return the next bytes."""
        while len(self._buffer) - self._position < length:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise Damage(f"the rows of {self._table} end too early")
            self._buffer, self._position = self._buffer[self._position :] + chunk, 0
        self._position += length
        return self._buffer[self._position - length : self._position]


def is_record(state: Field) -> bool:
    """Tell whether a record is that of a blob."""
    return state is not None and 0 < len(state) <= BLOB_RECORD_LIMIT and bool(is_blob(state))


def _number_of_text(field: bytes) -> int:
    return int(field == b"t") if field in (b"t", b"f") else int(field)
