"""The RelStorage strategy: a dump of one snapshot of its database, and the blobs that the rows of the same snapshot ask for.

No RelStorage is ever opened here: it checks its schema when it is opened, and would wait for the dump with everybody behind it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from typing import Final

from ...blobs.refs import BlobSet
from ...errors import NothingToBackUp, UsageError
from ...model.capture import CaptureOptions
from ...model.chain import Documents
from ...model.manifest import DatabaseEntry
from ...model.source import Database
from ...runtime.progress import Progress
from ..base import CheckReport, Sink, unsupported
from ..blobs.s3 import require_client
from ..registry import CHECKS, LOCATIONS, ROWS
from ..sql.capture import SqlCapture
from ..sql.history import check_log

# the databases that RelStorage works with


class RelStorage:
    """The strategy for RelStorage; see ``Strategy``."""

    def require(self, database: Database) -> None:
        """Raise NothingToBackUp for Oracle and for blobs somewhere else, ConfigurationError where their bucket cannot be read."""
        if database.adapter not in ROWS:
            raise NothingToBackUp(
                f"RelStorage on {database.adapter} has no dump that could be restored: the database {database.name}",
                "copy it into a FileStorage with the configuration of `zodb-vault convert config --export`, and back that up",
            )
        if database.blob_mode not in ("database", "directory", "none", "s3"):
            raise unsupported(database)
        if database.blob_mode == "s3":
            require_client(database)

    def exclusive(self, database: Database) -> AbstractContextManager[None]:
        """Refuse: a snapshot needs nobody to stop."""
        raise UsageError(
            f"--cold is about Data.fs: the dump of {database.name} shows one moment while the site runs",
            "leave it out",
        )

    def location(self, database: Database) -> str:
        """Return which database it is."""
        return LOCATIONS[database.adapter or ""](database)

    def survey(
        self, database: Database, documents: Documents, wishes: CaptureOptions, now: datetime
    ) -> SqlCapture:
        """Log in and look."""
        if database.method == "transactions":
            from ..incremental import TransactionsCapture

            return TransactionsCapture(database, documents, wishes, now)
        return SqlCapture(database, documents, wishes, now)

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
        """Read the dump as its own tool does."""
        dump = entry.dump
        if dump is not None:
            progress.begin("storage", dump.size)
            CHECKS[type(dump).__struct_config__.tag](entry, sink, refs, verdict, progress)  # type: ignore[index]
            check_log(entry, sink, verdict)


STRATEGY: Final = RelStorage()
