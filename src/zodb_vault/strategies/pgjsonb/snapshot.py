"""The tables of zodb-pgjsonb in one snapshot of PostgreSQL, and a dump of it."""

from __future__ import annotations

from functools import partial
from typing import Final

from ...model.manifest import PgDump
from ...model.source import Database
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Checkpointer, Sink
from ..postgres.dump import dump_snapshot
from ..postgres.snapshot import Postgres
from ..sql.snapshot import StoredDump
from .tables import REVISIONS

# Warnings of pg_dump are kept up to this number.
NAMED: Final = 20


class PgjsonbRows(Postgres):
    """The tables of zodb-pgjsonb; see ``Rows``."""

    transactions = "transaction_log"
    blob_records = REVISIONS.blob_records
    revisions = REVISIONS

    def dump(
        self, sink: Sink, folder: str, workers: Workers, checkpointer: Checkpointer, progress: Progress
    ) -> StoredDump:
        """Dump; there are no large objects."""
        sequences = self.sequences()
        done = dump_snapshot(self, sink, f"{folder}/database.dump", workers, checkpointer, progress)
        done.large_objects.close()
        warnings = [f"pg_dump: {line}" for line in done.words.splitlines()[:NAMED]]
        return StoredDump(
            storage=partial(PgDump, sequences=sequences),
            parts=done.parts,
            tables=done.tables,
            warnings=warnings,
        )


def open_rows(database: Database) -> PgjsonbRows:
    """Log in."""
    return PgjsonbRows(database.option("dsn"))
