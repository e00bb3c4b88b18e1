"""The strategy for a Data.fs with or without a blob directory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Final

from ...blobs.refs import BlobSet
from ...errors import InUse
from ...model.capture import CaptureOptions
from ...model.chain import Documents
from ...model.manifest import DatabaseEntry
from ...model.source import Database
from ...policy.scope import storage_location
from ...runtime.progress import Progress
from ..base import CheckReport, Destination, Sink, Strategy, not_restorable, unsupported
from ..blobs.s3 import require_client
from .capture import FileStorageCapture
from .check import DataFsCheck
from .lock import is_barred, storage_locks
from .survey import FileStorageSurvey


class FileStorage:
    """The strategy for a Data.fs with or without a blob directory; see ``strategies/base.py``."""

    def require(self, database: Database) -> None:
        """Raise NothingToBackUp where the blobs are somewhere else, ConfigurationError where their bucket cannot be read."""
        if database.blob_mode not in ("directory", "none", "s3"):
            raise unsupported(database)
        if database.blob_mode == "s3":
            require_client(database)

    def exclusive(self, database: Database) -> AbstractContextManager[None]:
        """Hold the locks of the storage."""
        return storage_locks(Path(database.data_fs or ""))

    def location(self, database: Database) -> str:
        """Return the path of Data.fs; of a mirror, where what it mirrors is."""
        return storage_location(database)

    def survey(
        self, database: Database, documents: Documents, wishes: CaptureOptions, now: datetime
    ) -> FileStorageSurvey:
        """Open Data.fs."""
        return FileStorageSurvey(database, documents, wishes, now)

    def capture(
        self, database: Database, documents: Documents, wishes: CaptureOptions, now: datetime
    ) -> FileStorageCapture:
        """Open Data.fs for a backup; raise InUse after an interrupted restore."""
        if is_barred(Path(database.data_fs or "")):
            raise InUse(
                f"a restore was interrupted, and {database.data_fs} may not fit the other databases",
                "run that restore again, or `restore --abort`",
            )
        return FileStorageCapture(database, documents, wishes, now)

    def check(
        self,
        entry: DatabaseEntry,
        sink: Sink,
        refs: BlobSet,
        verdict: CheckReport,
        progress: Progress,
        workers: int,
    ) -> None:
        """Parse every transaction and follow every back-pointer."""
        if entry.data_fs is not None:
            DataFsCheck(entry, entry.data_fs, sink, refs, verdict, progress).run(workers)

    def destination(self, database: Database, role: str | None) -> Destination:
        """Refuse: a Data.fs is no dump."""
        raise not_restorable(database)


STRATEGY: Final[Strategy] = FileStorage()
