"""The strategy for zodb-pgjsonb: a dump of one snapshot of its database, and the objects in S3 that the rows of the same snapshot name.

No storage of zodb-pgjsonb is ever opened here: it alters its tables whenever it is opened, and would wait for the dump with everybody behind it.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from typing import Final

from ...blobs.refs import BlobSet
from ...errors import UsageError
from ...model.capture import CaptureOptions
from ...model.chain import Documents, dump_of
from ...model.manifest import DatabaseEntry, PgDump, PgTransactions
from ...model.source import Database
from ...runtime.progress import Progress
from ..base import CheckReport, Destination, Sink, unsupported
from ..blobs.s3 import require_client
from ..postgres.archive import ArchiveReader, compare_tables
from ..postgres.blob_rows import BLOB_COLUMNS, blob_row
from ..postgres.connection import where
from ..postgres.delta_check import check_deltas
from ..sql.history import check_log
from ..sql.snapshot import advancing
from .capture import PgjsonbCapture, PgjsonbTransactionsCapture, open_rows


class Pgjsonb:
    """The strategy for zodb-pgjsonb; see ``Strategy``."""

    def require(self, database: Database) -> None:
        """Raise NothingToBackUp where another wrapper keeps the blobs, ConfigurationError where their bucket cannot be read."""
        if database.blob_mode not in ("database", "database+s3"):
            raise unsupported(database)
        if database.blob_mode == "database+s3":
            require_client(database)

    def exclusive(self, database: Database) -> AbstractContextManager[None]:
        """Refuse: a snapshot needs nobody to stop."""
        raise UsageError(
            f"--cold is about Data.fs: the dump of {database.name} shows one moment while the site runs",
            "leave it out",
        )

    def location(self, database: Database) -> str:
        """Return which database it is."""
        return where(database.option("dsn"))

    def survey(
        self, database: Database, documents: Documents, wishes: CaptureOptions, now: datetime
    ) -> PgjsonbCapture:
        """Log in and look."""
        if database.method == "transactions":
            return PgjsonbTransactionsCapture(open_rows, database, documents, wishes, now)
        return PgjsonbCapture(open_rows, database, documents, wishes, now)

    capture = survey

    def check(
        self,
        entry: DatabaseEntry,
        sink: Sink,
        refs: BlobSet,
        verdict: CheckReport,
        progress: Progress,
        workers: int,
    ) -> None:
        """Read the dump to its end; note what its rows name in S3, and look whether the blobs in it are as long as they say."""
        dump = entry.dump
        if not isinstance(dump, PgDump):
            return
        progress.begin("storage", dump.size)
        if isinstance(dump, PgTransactions):
            check_deltas(entry, sink, refs, verdict, progress)
            return
        made_by = int(dump.versions.get("pg_dump", "0").partition(".")[0] or 0)
        reader = ArchiveReader("blob_state", BLOB_COLUMNS, partial(blob_row, verdict), made_by)
        read = reader.run(advancing(sink.read(dump_of(entry, sink)), progress), refs, refs)
        with contextlib.closing(read.created):
            compare_tables(dump, read, verdict)
        check_log(entry, sink, verdict)

    def destination(self, database: Database, role: str | None) -> Destination:
        """Log in to where a dump is to be loaded."""
        from ..postgres.restore import PostgresDestination

        return PostgresDestination(database.option("dsn"), role)


STRATEGY: Final = Pgjsonb()
