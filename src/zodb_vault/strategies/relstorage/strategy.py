"""The RelStorage strategy: a dump of one snapshot of its database, and the blobs that the rows of the same snapshot reference.

No RelStorage is ever opened here: it checks its schema when it is opened, and would wait for the dump with every other session behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from ..base import CheckReport, Destination, Sink, not_restorable, unsupported
from ..blobs.s3 import require_client
from ..sql.capture import SqlCapture
from ..sql.history import check_log
from .adapters import ADAPTERS, Adapter


class RelStorage:
    """The strategy for RelStorage on any of its ``adapters``; see ``Strategy``."""

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        self._adapters = adapters

    def require(self, database: Database) -> None:
        """Raise NothingToBackUp for Oracle and for blobs somewhere else, ConfigurationError where their bucket cannot be read."""
        if database.adapter not in self._adapters:
            raise NothingToBackUp(
                f"RelStorage on {database.adapter} has no dump that could be restored: the database {database.name}",
                "copy it into a FileStorage with the configuration of `zodb-vault convert config --export`, and back that up",
            )
        if database.blob_mode not in ("database", "directory", "none", "s3"):
            raise unsupported(database)
        if database.blob_mode == "s3":
            require_client(database)

    def exclusive(self, database: Database) -> AbstractContextManager[None]:
        """Refuse: a snapshot needs no storage to be closed."""
        raise UsageError(
            f"--cold is about Data.fs: the dump of {database.name} shows one moment while the site runs",
            "leave it out",
        )

    def location(self, database: Database) -> str:
        """Return which database it is."""
        return self._adapter(database).location(database)

    def survey(
        self, database: Database, documents: Documents, wishes: CaptureOptions, now: datetime
    ) -> SqlCapture:
        """Log in and look."""
        open_rows = self._adapter(database).open_rows
        if database.method == "transactions":
            from ..postgres.incremental import TransactionsCapture

            return TransactionsCapture(open_rows, database, documents, wishes, now)
        return SqlCapture(open_rows, database, documents, wishes, now)

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
        if entry.dump is None:
            return
        kind = str(type(entry.dump).__struct_config__.tag)
        check = next(one.checks[kind] for one in self._adapters.values() if kind in one.checks)
        progress.begin("storage", entry.dump.size)
        check(entry, sink, refs, verdict, progress)
        check_log(entry, sink, verdict)

    def destination(self, database: Database, role: str | None) -> Destination:
        """Log in to where a dump is to be loaded."""
        adapter = self._adapters.get(database.adapter or "")
        if adapter is None:
            raise not_restorable(database)
        return adapter.destination(database, role)

    def _adapter(self, database: Database) -> Adapter:
        return self._adapters[database.adapter or ""]


STRATEGY: Final = RelStorage(ADAPTERS)
