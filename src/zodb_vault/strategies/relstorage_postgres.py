"""RelStorage in PostgreSQL: which of its large objects are blobs, and whether the dump has them all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Final

import msgspec

from ..blobs.refs import BlobSet
from ..errors import SourceError
from ..model.blob import BlobRef, MissingRows
from ..model.chain import dump_of
from ..model.manifest import DatabaseEntry, PgDump
from ..model.source import REPLICA_DSN, REPLICA_LAG, Database
from .base import Keeper, Progress, Sink, Verdict, Workers
from .pgarchive import ArchiveReader, Read
from .postgres import Postgres, large_object
from .relstorage import BLOB_RECORDS, Dumped
from .revisions import relstorage

NAMED: Final = 20
LOST: Final = "large object "
# With more than so many lost, something else is wrong.
MOST_LACKING: Final = 10_000


class PostgresRows(Postgres):
    """The tables of RelStorage in a PostgreSQL database; see ``Rows``."""

    transactions = "transaction"
    blob_records = BLOB_RECORDS.format(position=f"position('\\x{b'ZODB.blob'.hex()}'::bytea in state)")
    revisions = relstorage(blob_records)

    def __init__(self, database: Database) -> None:
        super().__init__(database.option("postgresql.dsn"), database.option(REPLICA_DSN), float(database.option(REPLICA_LAG, "0")))

    def dump(self, sink: Sink, folder: str, workers: Workers, keeper: Keeper, progress: Progress) -> Dumped:
        """Dump, and compare the large objects of the dump with those that the rows of blobs name."""
        sequences = self.sequences()
        done = self.dump_into(sink, f"{folder}/database.dump", workers, keeper, progress)
        with contextlib.closing(done.large_objects), contextlib.closing(BlobSet()) as named:
            named.add(large_object(int(chunk)) for (chunk,) in self.stream("SELECT DISTINCT chunk FROM blob_chunk"))
            named.have(one.oid + one.tid for one in done.large_objects.everything())
            lacking = [int.from_bytes(one.oid) for one in islice(named.lacking(), MOST_LACKING)]
            orphans = len(done.large_objects) - len(named) + len(lacking)
            count = len(named)
        warnings = [f"pg_dump: {line}" for line in done.words.splitlines()[:NAMED]]
        if orphans > 0:
            warnings.append(f"{orphans} large objects belong to no blob; they are dumped too, `vacuumlo` removes them from the database")
        return Dumped(
            storage=partial(PgDump, large_objects=count, sequences=sequences), parts=done.parts, tables=done.tables, warnings=warnings,
            missing=list(self._lost(lacking)),
        )  # fmt: skip

    def large_objects_named(self) -> tuple[int, list[tuple[BlobRef, str]]]:
        """Return how many large objects the rows of blobs name, and the blobs whose large objects the database has lost."""
        if not self.has_table("blob_chunk"):
            return 0, []
        lacking = "SELECT DISTINCT chunk FROM blob_chunk WHERE chunk NOT IN (SELECT oid FROM pg_largeobject_metadata) LIMIT %s"
        lost = [int(number) for (number,) in self.ask(lacking, MOST_LACKING)]
        return int(self.ask("SELECT count(DISTINCT chunk) FROM blob_chunk")[0][0]), list(self._lost(lost))

    def _lost(self, lacking: list[int]) -> Iterator[tuple[BlobRef, str]]:
        """Yield the blobs whose large objects the database has lost; raise SourceError for one that is there and not in the dump."""
        for oid in lacking:
            if self.ask("SELECT 1 FROM pg_largeobject_metadata WHERE oid = %s", oid):
                raise SourceError(f"the dump lacks the large object {oid}, which blob_chunk refers to", "run the command again")
            for zoid, tid in self.ask("SELECT zoid, tid FROM blob_chunk WHERE chunk = %s", oid):
                yield BlobRef(int(zoid).to_bytes(8), int(tid).to_bytes(8), True), f"{LOST}{oid}"


def check_dump(entry: DatabaseEntry, sink: Sink, refs: BlobSet, verdict: Verdict, progress: Progress) -> None:
    """Read a dump to its end and compare it with what its snapshot held; raise Damage when it cannot be read."""
    dump = entry.dump
    assert isinstance(dump, PgDump)
    made_by = int(dump.versions.get("pg_dump", "0").partition(".")[0] or 0)
    with contextlib.closing(BlobSet()) as named:
        reader = ArchiveReader("blob_chunk", ["chunk"], lambda fields: large_object(int(fields[0])), made_by)
        read = reader.run(advancing(sink.read(dump_of(entry, sink)), progress), named, refs)
        with contextlib.closing(read.created):
            lost = known_as_lost(entry, sink)
            named.have(one.oid + one.tid for one in read.created.everything())
            for one in named.lacking():
                if int.from_bytes(one.oid) not in lost:
                    verdict.damage("blob", f"the dump lacks the large object {int.from_bytes(one.oid)}, which blob_chunk refers to")
        verdict.count("large objects", len(named))
    if entry.blob_mode not in ("directory", "s3"):
        refs.have(one.oid + one.tid for one in list(refs.everything()))  # in the dump itself
    compare_tables(dump, read, verdict)
    verdict.count("bytes of large objects", read.size)


def compare_tables(dump: PgDump, read: Read, verdict: Verdict) -> None:
    """Compare the rows of a dump with those of the snapshot that it was made of."""
    for table in sorted(dump.tables.keys() | read.tables.keys()):
        rows, wanted = read.tables.get(table), dump.tables.get(table)
        verdict.count("rows", rows or 0)
        if rows != wanted:
            verdict.damage("table", f"{table} has {rows} rows in the dump, {wanted} in the snapshot that it was made of")


def known_as_lost(entry: DatabaseEntry, sink: Sink) -> set[int]:
    """Return the large objects that the database itself had lost."""
    listed = entry.blobs.missing.list if entry.blobs else None
    rows = msgspec.json.decode(sink.document(listed), type=MissingRows).rows if listed else []
    return {int(place.rpartition(" ")[2]) for _oid, _tid, place in rows if place.startswith(LOST)}


def advancing(chunks: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    """Yield chunks, and tell how far it is."""
    for chunk in chunks:
        progress.advance(len(chunk))
        yield chunk
