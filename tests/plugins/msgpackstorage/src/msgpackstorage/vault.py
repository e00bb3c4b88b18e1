"""The backend: what zodb-vault asks of ``<msgpackstorage>``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zodb_vault.blobs.refs import BlobSet
from zodb_vault.config.sections import Section
from zodb_vault.config.storages import Surroundings
from zodb_vault.model.manifest import DatabaseEntry
from zodb_vault.model.requirements import Package, Requirements
from zodb_vault.model.restore import DestinationOptions
from zodb_vault.model.source import Database
from zodb_vault.runtime.progress import Progress
from zodb_vault.strategies.backend import Backend, Revision, Scratch, SourceFinding
from zodb_vault.strategies.base import CheckReport, Sink, Survey, SurveyContext
from zodb_vault.strategies.destination import Destination

NAME = "msgpackstorage"
CONFIGURATION = """
%import msgpackstorage
<msgpackstorage>
  path {path}
</msgpackstorage>
"""


class MsgpackStorageBackend(Backend):
    """The backend of a directory with a file for each transaction. The storage has no blobs."""

    name = NAME

    # what a configuration says

    def read_section(self, section: Section, around: Surroundings) -> Database:
        """Return the database of a section ``<msgpackstorage>``."""
        section.required("path")
        return Database(
            name=around.name,
            backend=NAME,
            mount_point=around.mount_point,
            blob_mode="none",
            history=True,
            options=around.all_options(section),
        )

    # create

    def location(self, database: Database) -> str:
        """Return the directory."""
        return database.option("path")

    def survey(self, database: Database, context: SurveyContext) -> Survey:
        """Compare the directory with the previous backup."""
        from .capture import MsgpackSurvey

        return MsgpackSurvey(database, context)

    # verify

    def check(
        self,
        entry: DatabaseEntry,
        sink: Sink,
        refs: BlobSet,
        report: CheckReport,
        progress: Progress,
        workers: int,
    ) -> None:
        """Read every transaction of a backup."""
        from .check import check_transactions

        check_transactions(entry, sink, report, progress)

    @contextlib.contextmanager
    def scratch(
        self, entry: DatabaseEntry, directory: Path, server: str | None, note: Callable[[str], None]
    ) -> Iterator[Scratch]:
        """Give an empty directory, and the configuration of the storage in it."""
        path = str(directory / "transactions")
        database = Database(name=entry.name, backend=NAME, blob_mode="none", options={"path": path})
        yield Scratch(database, CONFIGURATION.format(path=path))

    def objects(self, storage: Any, settings: dict[str, str]) -> Iterator[Revision]:
        """Yield every object; needed because the storage has no ``record_iternext``."""
        yield from storage.current_records()

    # restore

    def destination(self, database: Database, options: DestinationOptions) -> Destination:
        """Return the directory of a site as a destination."""
        from .restore import MsgpackDestination

        return MsgpackDestination(database, options)

    # doctor

    def requirements(self, database: Database) -> Requirements:
        """Return the package: ZODB opens the storage with it, and so do backups."""
        package = Package("msgpackstorage", ("msgpackstorage",), "1.0")
        return Requirements(packages=(package,), drivers=(package,))

    def inspect_source(self, database: Database) -> SourceFinding:
        """Look whether the directory is there."""
        path = Path(database.option("path"))
        if path.is_dir():
            return SourceFinding(True, f"{path} can be read")
        return SourceFinding(False, f"{path} is not a directory", "check the path in zope.conf")


BACKEND = MsgpackStorageBackend()
