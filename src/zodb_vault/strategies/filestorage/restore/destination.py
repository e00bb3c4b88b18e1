"""A Data.fs with its blobs as the destination of a restore: a database of the site, or a new directory."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from ....errors import UsageError, VaultError
from ....model.manifest import DatabaseEntry
from ....model.restore import DatabaseCut, DestinationOptions, SpaceNeed, UnfinishedRestore
from ....model.source import Database
from ....runtime.ownership import make_directories_like_parent
from ...destination import (
    Destination,
    PlannedRestore,
    PreflightFinding,
    RestoreSource,
    UndoneRestore,
    require_met,
)
from ..lock import storage_locks
from ..zeo import require_stopped
from . import journal as journals
from .abort import DataFsUndo, discard, discarded_paths
from .journal import Journal
from .paths import DataFsPaths, paths_for, paths_of_database
from .plan import DataFsJob, plan_data_fs, space_needs
from .preflight import blob_target, content_findings, place_findings
from .resume import Identity, left_in_directory, require_same
from .state import last_and_lost


class DataFsDestination(Destination):
    """A Data.fs of the site, or in a new directory when ``database`` is None; see ``Destination``."""

    resumes = True

    def __init__(
        self, paths: DataFsPaths, options: DestinationOptions, database: Database | None = None
    ) -> None:
        self.paths, self._options, self._database = paths, options, database

    @property
    def where(self) -> str:
        """Return the path of the Data.fs."""
        return str(self.paths.data_fs)

    @property
    def writes(self) -> list[Path]:
        """Return the Data.fs and its blob directory."""
        blob_dir = [self.paths.blob_dir.resolve()] if self.paths.blob_dir else []
        return [self.paths.data_fs, *blob_dir]

    def unfinished(self) -> UnfinishedRestore | None:
        """Return the restore of the journal, None when there is no journal."""
        journal = journals.read(journals.path_of(self.paths.data_fs))
        return journals.unfinished(journal) if journal else None

    def finished(self, restore: str) -> UnfinishedRestore | None:
        """Return the restore of a record, None when there is no record."""
        record = journals.read_record(self.paths.data_fs, restore)
        return journals.unfinished(record) if record else None

    def preflight(self, source: RestoreSource | None) -> Iterator[PreflightFinding]:
        """Yield whether there is a place for everything, and whether it can be written and kept."""
        if source is not None:
            yield from content_findings(source.entry, self.paths, self._database, self._options)
        layout = source.entry.layout if source else None
        try:
            blobs = blob_target(self.paths, self._database, self._options, layout)
        except VaultError as error:
            yield PreflightFinding("the blob directory has a known layout", error)
            blobs = None
        in_place = self._database is not None
        yield from place_findings(self.paths, blobs, self._options, source, in_place=in_place)

    def present_size(self) -> int:
        """Return the size of the Data.fs."""
        return self.paths.data_fs.stat().st_size if self.paths.data_fs.exists() else 0

    def space(self, storage: int, blobs: int) -> list[SpaceNeed]:
        """Return the space for the new file beside the old one, and for a new blob directory."""
        return space_needs(self.paths, storage, blobs)

    def inspect(
        self, source: RestoreSource, unfinished: Collection[UnfinishedRestore]
    ) -> PlannedRestore | None:
        """Inspect the file in place or the directory, and plan the restore.

        If the same restore was interrupted here, the plan continues it.
        """
        require_met(content_findings(source.entry, self.paths, self._database, self._options))
        blobs = blob_target(self.paths, self._database, self._options, source.entry.layout)
        wanted = Identity(
            source.backup,
            source.cut.end,
            source.cut.last_tid,
            self._options.only,
            blobs.where if blobs else None,
        )
        journal = self._journal(wanted, unfinished)
        if journal is not None:
            require_same(self.paths, journal, wanted)
        elif self._database is None and unfinished and is_restored(self.paths.data_fs, source.cut):
            return None
        job = DataFsJob(self.paths, blobs, self._options, self._database, source, journal)
        return plan_data_fs(job)

    def require_stopped(self) -> None:
        """Raise InUse while the ZEO server of the database answers."""
        if self._database is not None:
            require_stopped([self._database])

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the locks of the storage, even if it is barred."""
        make_directories_like_parent(self.paths.data_fs.parent)
        with storage_locks(self.paths.configured, barred=True):
            yield

    def undo(self, restores: Collection[str]) -> UndoneRestore | None:
        """Return the undo that puts the replaced file back, None when there is nothing to undo."""
        journal = self._journal_or_record(restores)
        return DataFsUndo(self.paths, journal) if journal else None

    def kept(self) -> list[str]:
        """Return the ids of the restores that have a record."""
        return list(journals.records(self.paths.data_fs))

    def kept_paths(self, restore: str) -> list[str]:
        """Return the replaced file, blobs and leftovers that a restore kept."""
        return [str(path) for path in discarded_paths(self.paths, restore)]

    def discard_kept(self, restore: str) -> list[str]:
        """Remove the replaced file, blobs and leftovers that a restore kept, and its record."""
        return discard(self.paths, restore)

    def _journal(self, wanted: Identity, unfinished: Collection[UnfinishedRestore]) -> Journal | None:
        """Return the journal of an interrupted restore, or its record if only this database is done."""
        journal = self._journal_or_record(
            () if self._database is None else sorted({one.restore for one in unfinished})
        )
        if journal is None and self._database is None:
            return left_in_directory(self.paths, wanted)
        return journal

    def _journal_or_record(self, restores: Collection[str]) -> Journal | None:
        """Return the journal, or else the record of one of these restores."""
        journal = journals.read(journals.path_of(self.paths.data_fs))
        if journal is not None:
            return journal
        records = (journals.read_record(self.paths.data_fs, restore) for restore in restores)
        return next((one for one in records if one is not None), None)


def of_database(database: Database, options: DestinationOptions) -> DataFsDestination:
    """Return a database of the site as a destination.

    Raise UsageError when it is not a Data.fs on this machine.
    """
    if database.backend != "filestorage" or database.data_fs is None:
        raise UsageError(
            f"this version cannot restore into {database.backend}",
            "restore into a directory with --output DIR",
        )
    return DataFsDestination(paths_of_database(database), options, database)


def in_directory(entry: DatabaseEntry, directory: Path, options: DestinationOptions) -> DataFsDestination:
    """Return a directory as a destination: ``Data.fs``, and ``blobs`` beside it if there are any."""
    blob_dir = directory / "blobs" if entry.blobs and options.only != "storage" else None
    return DataFsDestination(paths_for(directory / "Data.fs", blob_dir), options)


def is_restored(data_fs: Path, cut: DatabaseCut) -> bool:
    """Tell whether a Data.fs in a directory is unchanged since its restore, which was not interrupted."""
    if not data_fs.exists() or journals.records(data_fs) or data_fs.stat().st_size != cut.end:
        return False
    return last_and_lost(data_fs, cut) == (cut.last_tid, 0)
