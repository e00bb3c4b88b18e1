"""Everything that zodb-vault needs of one kind of storage: the base class of all backends."""

from __future__ import annotations

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
    """What a database says about where its blobs are.

    When it did not answer (``answered``), ``warnings`` say why.
    """

    answered: bool
    warnings: list[str]


class SourceFinding(NamedTuple):
    """What was found when a storage was looked at, whether it is in order, and what to do when it is not."""

    ok: bool
    message: str
    hint: str | None = None


class Scratch(NamedTuple):
    """An empty database to restore into, and the ``configuration`` of the storage that opens it afterwards.

    ``cache`` is where that storage looks for blobs before it reads from a bucket, ``objects`` how many objects it
    should find, None when that is not known. ``settings`` is handed to ``Backend.objects`` and
    ``Backend.former_blobs``.
    """

    database: Database
    configuration: str
    cache: Path | None = None
    objects: int | None = None
    settings: dict[str, str] = {}


class Backend:
    """One kind of storage.

    A new kind is a subclass, registered by an entry point: see docs/how-to/write-a-backend.rst.

    The methods are in the order of the commands that need them. ``read_section``, ``location``, ``survey``
    and ``check`` have to be there; every other one has a default that fits a storage without blobs of its
    own. Whatever is heavy is imported in the methods, since every command that reads a zope.conf imports this
    object.
    """

    name: ClassVar[str]
    """What manifests, ``plan`` and ``list`` call it."""
    blob_modes: ClassVar[tuple[BlobMode, ...]] = ("none",)
    """Where blobs may be for a backup by its own method."""
    exact_size: ClassVar[bool] = True
    """Whether ``getSize`` of the storage counts nothing but its records."""

    # what a configuration says

    def read_section(self, section: Section, around: Surroundings) -> Database | Skipped:
        """Return the database that a section of zope.conf describes.

        Raise ``section.error(...)`` for what is wrong with it.
        """
        raise NotImplementedError

    def config_warnings(self, database: Database) -> list[str]:
        """Return what a configuration leaves open, as warnings; wrappers around the section count."""
        return []

    def conversion(self, section_type: str) -> Conversion:
        """Return what another program needs that opens such a section to copy the storage."""
        return Conversion()

    def export_warnings(self, database: Database) -> list[str]:
        """Return what zodb-convert is known to do wrong with such a storage."""
        return []

    # plan

    def scope(self, database: Database) -> Scope:
        """Return what a backup consists of; opens nothing."""
        storage = Component("storage", self.shown_location(database), OURS, "all transactions are kept there")
        blobs = blobs_outside(database, "the blobs are in this directory, and nowhere else")
        return Scope((storage,)).plus(blobs or Scope((), ("blobs: no blob directory is configured",)))

    def shown_location(self, database: Database) -> str:
        """Return where the storage is, as messages show it, without secrets."""
        return self.location(database)

    def method(self, database: Database, wanted: Method) -> Method:
        """Return the method that a backup is made by when the user chose ``wanted``."""
        return wanted

    def require(self, database: Database, method: Method) -> None:
        """Raise NothingToBackUp for a database that cannot be backed up by a method as it is configured, ConfigurationError; opens nothing."""
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
        """Return where the storage is, without secrets; it tells one source from another."""
        raise NotImplementedError

    def exclusive(self, database: Database) -> AbstractContextManager[None]:
        """Hold the storage while a cold backup is made.

        Raise InUse, or UsageError where nothing can be held.
        """
        raise UsageError(
            f"--cold is about Data.fs: the backup of {database.name} shows one point in time while the "
            "site runs",
            "leave it out",
        )

    def require_open(self, database: Database) -> None:
        """Raise InUse while an interrupted restore keeps the database closed to backups."""

    def survey(self, database: Database, context: SurveyContext) -> Survey:
        """Open a database and choose what of earlier backups can be used again; raise SourceError."""
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
        """Check that a stored storage is whole, and note the blobs in packs that it references in ``refs``.

        Raise Damage.
        """
        raise NotImplementedError

    # restore

    def destination(self, database: Database, options: DestinationOptions) -> Destination:
        """Return a database of a site as a destination of restores; opens nothing.

        Raise UsageError when it cannot be one.
        """
        raise not_restorable(database)

    def directory(
        self, entry: DatabaseEntry, directory: Path, options: DestinationOptions
    ) -> Destination | None:
        """Return a new directory as the destination of an entry.

        None: the files of its dump are written there as they are.
        """
        return None

    # verify --level restore

    def scratch(
        self, entry: DatabaseEntry, directory: Path, server: str | None, note: Callable[[str], None]
    ) -> AbstractContextManager[Scratch]:
        """Give an empty database in a directory, or in the database server of a DSN, that is gone afterwards.

        Raise ConfigurationError.

        What cannot be removed is said through ``note``.
        """
        raise ConfigurationError(
            [f"the level restore needs a scratch database for {entry.name}, and {self.name} offers none"],
            "use the level records, or restore into a database of yours",
        )

    def objects(self, storage: Any, settings: dict[str, str]) -> Iterator[Revision]:
        """Yield OID, TID and record of every object of a restored storage, None for one whose creation was undone."""
        after = None
        while True:
            oid, tid, record, after = storage.record_iternext(after)
            yield oid, tid, record
            if after is None:
                return

    def former_blobs(self, storage: Any, settings: dict[str, str]) -> Iterator[tuple[bytes, bytes]]:
        """Yield OID and TID of blobs that no current revision has, where the storage can open them."""
        return iter(())

    # doctor

    def requirements(self, database: Database) -> Requirements:
        """Return the packages and programs that a database needs."""
        return Requirements()

    def inspect_source(self, database: Database) -> SourceFinding | None:
        """Look whether the storage can be read; None where ``second_opinion`` finds that out.

        Raise VaultError, OSError.
        """
        return None

    def second_opinion(self, database: Database) -> Opinion | None:
        """Ask a database where its blobs are; None when it cannot be queried.

        Raise ConfigurationError when following the configuration would leave out blobs.
        """
        return None


def unsupported(database: Database) -> NothingToBackUp:
    """Return the error for a database whose blobs its backend cannot back up."""
    wrapped = " with blobs in S3" if "s3" in database.blob_mode else ""
    return NothingToBackUp(
        f"this version cannot back up {database.backend}{wrapped} yet: the database {database.name}",
        "`zodb-vault plan` says what a backup of it consists of; `--method portable` copies it through "
        "ZODB where that gives its blobs",
    )


def without_transactions(database: Database) -> NothingToBackUp:
    """Return the error for a database that the method ``transactions`` cannot copy."""
    kind = f"{database.backend} ({database.adapter})" if database.adapter else database.backend
    return NothingToBackUp(
        f"--method transactions is for databases in PostgreSQL, and {database.name} is {kind}",
        "leave it out: the native method dumps the database, and copies only the blob files that are new",
    )


def not_restorable(database: Database) -> UsageError:
    """Return the error for a database that no backup can be loaded into."""
    return UsageError(
        f"the database {database.name} is on {database.adapter or database.backend}, no dump can be "
        "loaded there",
        "restore with --output DIR",
    )
