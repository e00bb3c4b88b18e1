"""The base class of all backends: everything that zodb-vault asks of one kind of storage."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ..blobs.refs import BlobSet
from ..config.conversion import Conversion
from ..errors import ConfigurationError, NothingToBackUp, UsageError
from ..model.manifest import DatabaseEntry
from ..model.requirements import Requirements
from ..model.restore import DestinationOptions
from ..model.source import BlobMode, Database, Method, Skipped
from ..policy.scope import OURS, Component, Scope, blobs_outside
from ..runtime.progress import Progress
from .base import CheckReport, Sink, Survey, SurveyContext
from .destination import Destination

if TYPE_CHECKING:
    from ..config.sections import Section
    from ..config.storages import Surroundings

Revision = tuple[bytes, bytes, bytes | None]


class Opinion(NamedTuple):
    """What a database tells about the place of its blobs.

    ``answered`` is False when the database could not be queried; ``warnings`` then tell the reason.
    """

    answered: bool
    warnings: list[str]


class SourceFinding(NamedTuple):
    """The result when doctor inspects a storage: whether it is ``ok``, and otherwise what to do."""

    ok: bool
    message: str
    hint: str | None = None


class Scratch(NamedTuple):
    """An empty database to restore into, and the ``configuration`` of the storage that opens it afterwards.

    ``cache`` is the directory where that storage looks for blobs before it reads a bucket. ``objects`` is the
    number of objects that it should find, None when it is not known. ``settings`` is an argument of
    ``Backend.objects`` and ``Backend.former_blobs``.
    """

    database: Database
    configuration: str
    cache: Path | None = None
    objects: int | None = None
    settings: dict[str, str] = {}


class Backend:
    """One kind of storage.

    A new kind is a subclass, registered by an entry point: see docs/how-to/write-a-backend.rst.

    The methods are in the order of the commands that need them. A subclass must have ``read_section``,
    ``location``, ``survey`` and ``check``. Every other method has a default, for a storage without its own
    blobs. Import large modules inside the methods: every command that reads a zope.conf imports this class.
    """

    name: ClassVar[str]
    """Its name in manifests, ``plan`` and ``list``."""
    blob_modes: ClassVar[tuple[BlobMode, ...]] = ("none",)
    """The blob modes that its own method can back up."""
    exact_size: ClassVar[bool] = True
    """Whether ``getSize`` of the storage counts only its records."""

    # what a configuration says

    def read_section(self, section: Section, around: Surroundings) -> Database | Skipped:
        """Return the database that a section of zope.conf describes.

        Raise ``section.error(...)`` for a mistake in it.
        """
        raise NotImplementedError

    def config_warnings(self, database: Database) -> list[str]:
        """Return warnings about what a configuration, including its wrappers, does not tell."""
        return []

    def conversion(self, section_type: str) -> Conversion:
        """Return what another program needs to open such a section and copy the storage."""
        return Conversion()

    def export_warnings(self, database: Database) -> list[str]:
        """Return the known mistakes of zodb-convert with such a storage, as warnings."""
        return []

    # plan

    def scope(self, database: Database) -> Scope:
        """Return what a backup contains; open nothing."""
        storage = Component("storage", self.shown_location(database), OURS, "all transactions are kept there")
        blobs = blobs_outside(database, "the blobs are in this directory, and nowhere else")
        return Scope((storage,)).plus(blobs or Scope((), ("blobs: no blob directory is configured",)))

    def shown_location(self, database: Database) -> str:
        """Return the place of the storage for messages, without secrets."""
        return self.location(database)

    def method(self, database: Database, wanted: Method) -> Method:
        """Return the method of a backup when the user asks for ``wanted``."""
        return wanted

    def require(self, database: Database, method: Method) -> None:
        """Raise NothingToBackUp when a method cannot back up a database with its configuration; open nothing.

        Raise ConfigurationError when a package is missing.
        """
        if method == "portable":
            return
        if database.blob_mode not in self.blob_modes:
            raise unsupported(database)
        if "s3" in database.blob_mode:
            from .blobs.s3 import require_client

            require_client(database)
        if method == "transactions":
            raise without_transactions(database)

    # create

    def location(self, database: Database) -> str:
        """Return the place of the storage, without secrets; it identifies the source."""
        raise NotImplementedError

    def exclusive(self, database: Database) -> AbstractContextManager[None]:
        """Lock the storage while a cold backup is made.

        Raise InUse, or UsageError when the storage cannot be locked.
        """
        raise UsageError(
            f"--cold is only for Data.fs: a backup of {database.name} is consistent while the site runs",
            "leave out --cold",
        )

    def require_open(self, database: Database) -> None:
        """Raise InUse when the state of the database must not be backed up, after an interrupted restore."""

    def survey(self, database: Database, context: SurveyContext) -> Survey:
        """Open a database, and choose the parts of earlier backups that are used again; raise SourceError."""
        raise NotImplementedError

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
        """Check that a stored storage is complete, and add the blobs in packs that it references to ``refs``.

        Raise Damage.
        """
        raise NotImplementedError

    # restore

    def destination(self, database: Database, options: DestinationOptions) -> Destination:
        """Return a database of a site as the destination of a restore; open nothing.

        Raise UsageError when nothing can be restored into it.
        """
        raise not_restorable(database)

    def directory(
        self, entry: DatabaseEntry, directory: Path, options: DestinationOptions
    ) -> Destination | None:
        """Return a new directory as the destination of an entry.

        None when only the files of the dump can be written there.
        """
        return None

    # verify --level restore

    def scratch(
        self, entry: DatabaseEntry, directory: Path, server: str | None, note: Callable[[str], None]
    ) -> AbstractContextManager[Scratch]:
        """Give an empty database, in a directory or in the database server with the DSN ``server``.

        It is removed at the end; ``note`` is called with what cannot be removed. Raise ConfigurationError.
        """
        raise ConfigurationError(
            [
                f"the level restore needs a scratch database for {entry.name}, which the backend {self.name} "
                "cannot make"
            ],
            "use the level records, or restore into your own database",
        )

    def objects(self, storage: Any, settings: dict[str, str]) -> Iterator[Revision]:
        """Yield OID, TID and record of every object of a restored storage.

        The record is None when the creation of the object was undone.
        """
        after = None
        while True:
            oid, tid, record, after = storage.record_iternext(after)
            yield oid, tid, record
            if after is None:
                return

    def former_blobs(self, storage: Any, settings: dict[str, str]) -> Iterator[tuple[bytes, bytes]]:
        """Yield OID and TID of blobs of earlier revisions that the storage can open."""
        return iter(())

    # doctor

    def requirements(self, database: Database) -> Requirements:
        """Return the packages and programs that a database needs."""
        return Requirements()

    def missing_for_proof(self, database: Database) -> list[str] | None:
        """Return what this machine lacks for a proof by a restore, each with how to get it.

        None where such a proof needs nothing that a backup does not need.
        """
        packages = self.requirements(database).packages
        if not packages:
            return None
        return [
            f"the package {one.distributions[0]} ({one.how_to_install})"
            for one in packages
            if importlib.util.find_spec(one.module) is None
        ]

    def inspect_source(self, database: Database) -> SourceFinding | None:
        """Find out whether the storage can be read; return None when ``second_opinion`` does that.

        Raise VaultError, OSError.
        """
        return None

    def second_opinion(self, database: Database) -> Opinion | None:
        """Query a database where its blobs are; return None when this kind of database cannot tell it.

        Raise ConfigurationError when a backup with this configuration would leave out blobs.
        """
        return None


def unsupported(database: Database) -> NothingToBackUp:
    """Return the error for a database whose blobs its backend cannot back up."""
    wrapped = " with blobs in S3" if "s3" in database.blob_mode else ""
    return NothingToBackUp(
        f"this version cannot back up {database.backend}{wrapped}: the database {database.name}",
        "`zodb-vault plan` shows what a backup of it contains; `--method portable` may be able to copy it "
        "through ZODB",
    )


def without_transactions(database: Database) -> NothingToBackUp:
    """Return the error for a database that the method ``transactions`` cannot copy."""
    kind = f"{database.backend} ({database.adapter})" if database.adapter else database.backend
    return NothingToBackUp(
        f"--method transactions is only for databases in PostgreSQL, and {database.name} is on {kind}",
        "leave it out: the native method dumps the database, and copies only new blob files",
    )


def not_restorable(database: Database) -> UsageError:
    """Return the error for a database that no backup can be loaded into."""
    return UsageError(
        f"the database {database.name} is on {database.adapter or database.backend}: no backup can be loaded "
        "there",
        "restore with --output DIR",
    )
