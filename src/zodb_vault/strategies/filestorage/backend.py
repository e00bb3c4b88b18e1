"""The backend of ``<filestorage>``: a Data.fs with or without a blob directory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...blobs.refs import BlobSet
from ...config.conversion import Conversion
from ...errors import InUse
from ...model.manifest import DatabaseEntry
from ...model.restore import DestinationOptions
from ...model.source import Database, Method
from ...model.units import readable_size
from ...policy.scope import OURS, Component, Scope, blobs_outside
from ...runtime.progress import Progress
from ..backend import Backend, SourceFinding
from ..base import CheckReport, Sink, SurveyContext
from ..destination import Destination
from .zope_conf import NAME, read_section

if TYPE_CHECKING:
    from ...config.sections import Section
    from ...config.storages import Surroundings
    from .survey import FileStorageSurvey

WHY: Final = (
    "a FileStorage keeps all its transactions in this file; the finished ones are read while the site runs"
)
NO_BLOBS: Final = (
    "blobs: no blob directory is configured; if the storage refers to blobs nevertheless, a backup is refused"
)
# ``create`` empties the file.
CONVERSION: Final = Conversion(
    packages={NAME: None}, read_only=True, dropped=frozenset({"create", "read-only"})
)


class FileStorage(Backend):
    """The backend of a Data.fs with or without a blob directory; see ``Backend``."""

    name = NAME
    blob_modes = ("directory", "none", "s3")

    def read_section(self, section: Section, around: Surroundings) -> Database:
        """Return the FileStorage of a section; its blob directory always holds all its blobs."""
        return read_section(section, around)

    def conversion(self, section_type: str) -> Conversion:
        """Return what another program needs to open the storage, for reading only."""
        return CONVERSION

    def scope(self, database: Database) -> Scope:
        """Return the file, then the blobs."""
        blobs = blobs_outside(
            database, "the blobs of a FileStorage are in this directory, and nowhere else"
        ) or Scope((), (NO_BLOBS,))
        return Scope((Component("storage", self.location(database), OURS, WHY),)).plus(blobs)

    def location(self, database: Database) -> str:
        """Return the path of Data.fs."""
        return database.data_fs or ""

    def method(self, database: Database, wanted: Method) -> Method:
        """Return the native method, which copies transactions anyway.

        The portable method is used only when it is asked for and a wrapper keeps the blobs in S3.
        """
        return "portable" if wanted == "portable" and "s3blobs" in database.wrappers else "native"

    def exclusive(self, database: Database) -> AbstractContextManager[None]:
        """Hold the locks of the storage."""
        from .lock import storage_locks

        return storage_locks(Path(database.data_fs or ""))

    def require_open(self, database: Database) -> None:
        """Raise InUse after an interrupted restore."""
        from .lock import is_barred

        if is_barred(Path(database.data_fs or "")):
            raise InUse(
                f"a restore was interrupted, and {database.data_fs} may not match the other databases",
                "run that restore again, or `restore --abort`",
            )

    def survey(self, database: Database, context: SurveyContext) -> FileStorageSurvey:
        """Open Data.fs."""
        from .survey import FileStorageSurvey

        return FileStorageSurvey(database, context)

    def inspect_source(self, database: Database) -> SourceFinding:
        """Open Data.fs, and look for an unfinished restore."""
        from .datafile import DataFile

        data_fs = Path(database.data_fs or "")
        DataFile(data_fs).close()
        size = readable_size(data_fs.stat().st_size)
        return _unfinished_restore(data_fs) or SourceFinding(True, f"{data_fs} can be read, {size}")

    def check(
        self,
        entry: DatabaseEntry,
        sink: Sink,
        refs: BlobSet,
        report: CheckReport,
        progress: Progress,
        workers: int,
    ) -> None:
        """Parse every transaction and follow every back-pointer."""
        from .check import DataFsCheck

        if entry.data_fs is not None:
            DataFsCheck(entry, entry.data_fs, sink, refs, report, progress).run(workers)

    def destination(self, database: Database, options: DestinationOptions) -> Destination:
        """Return the Data.fs of a site, with its blobs."""
        from .restore.destination import of_database

        return of_database(database, options)

    def directory(self, entry: DatabaseEntry, directory: Path, options: DestinationOptions) -> Destination:
        """Return a new Data.fs, with its blobs beside it."""
        from .restore.destination import in_directory

        return in_directory(entry, directory, options)


def _unfinished_restore(data_fs: Path) -> SourceFinding | None:
    from .restore import journal as journals

    journal = journals.read(journals.path_of(data_fs))
    if journal is None:
        return None
    return SourceFinding(
        False,
        f"a restore of {journal.backup} into {data_fs} was started and did not finish ({journal.phase})",
        f"finish it with `zodb-vault restore {journal.backup}`, or undo it with `zodb-vault restore --abort`",
    )


BACKEND: Final = FileStorage()
