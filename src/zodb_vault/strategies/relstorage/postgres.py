"""RelStorage in PostgreSQL: which of its large objects are blobs, and whether the dump has them all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Final

from ...blobs.refs import BlobSet
from ...errors import SourceError
from ...model.blob import MissingBlob
from ...model.manifest import PgDump
from ...model.source import REPLICA_DSN, REPLICA_LAG, Database
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Checkpointer, Sink
from ..postgres.dump import dump_snapshot
from ..postgres.snapshot import Postgres, large_object
from ..sql.snapshot import StoredDump, row_ref
from .tables import HISTORY, IN_POSTGRESQL

NAMED: Final = 20
# With more lost large objects than that, something else is wrong.
MOST_MISSING: Final = 10_000


class PostgresRows(Postgres):
    """The tables of RelStorage in a PostgreSQL database; see ``Rows``."""

    transactions = "transaction"
    blob_records = IN_POSTGRESQL
    revisions = HISTORY.revisions

    def __init__(self, database: Database) -> None:
        super().__init__(
            database.option("postgresql.dsn"),
            database.option(REPLICA_DSN),
            float(database.option(REPLICA_LAG, "0")),
        )

    def dump(
        self, sink: Sink, folder: str, workers: Workers, checkpointer: Checkpointer, progress: Progress
    ) -> StoredDump:
        """Dump, and compare the large objects of the dump with those that the rows of blobs name."""
        sequences = self.sequences()
        done = dump_snapshot(self, sink, f"{folder}/database.dump", workers, checkpointer, progress)
        with contextlib.closing(done.large_objects), contextlib.closing(BlobSet()) as named:
            named.add(
                large_object(int(chunk)) for (chunk,) in self.stream("SELECT DISTINCT chunk FROM blob_chunk")
            )
            named.mark_present(one.oid + one.tid for one in done.large_objects.all())
            missing = [int.from_bytes(one.oid) for one in islice(named.missing(), MOST_MISSING)]
            orphans = len(done.large_objects) - len(named) + len(missing)
            count = len(named)
        warnings = [f"pg_dump: {line}" for line in done.words.splitlines()[:NAMED]]
        if orphans > 0:
            warnings.append(
                f"{orphans} large objects belong to no blob; they are dumped too, `vacuumlo` removes "
                "them from the database"
            )
        return StoredDump(
            storage=partial(PgDump, large_objects=count, sequences=sequences),
            parts=done.parts,
            tables=done.tables,
            warnings=warnings,
            missing=list(self._lost(missing)),
        )

    def large_objects_named(self) -> tuple[int, list[MissingBlob]]:
        """Return how many large objects are blobs, and the blobs whose large object is lost."""
        if not self.has_table("blob_chunk"):
            return 0, []
        statement = (
            "SELECT DISTINCT chunk FROM blob_chunk WHERE chunk NOT IN (SELECT oid FROM "
            "pg_largeobject_metadata) LIMIT %s"
        )
        lost = [int(number) for (number,) in self.query(statement, MOST_MISSING)]
        return int(self.query("SELECT count(DISTINCT chunk) FROM blob_chunk")[0][0]), list(self._lost(lost))

    def _lost(self, missing: list[int]) -> Iterator[MissingBlob]:
        """Yield the blobs whose large objects the database has lost.

        Raise SourceError for one that is there and not in the dump.
        """
        for oid in missing:
            if self.query("SELECT 1 FROM pg_largeobject_metadata WHERE oid = %s", oid):
                raise SourceError(
                    f"the dump lacks the large object {oid}, which blob_chunk refers to",
                    "run the command again",
                )
            for zoid, tid in self.query("SELECT zoid, tid FROM blob_chunk WHERE chunk = %s", oid):
                yield MissingBlob(row_ref(zoid, tid), f"large object {oid}", oid)
