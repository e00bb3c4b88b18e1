"""The backend of ``<zeoclient>`` and ``<clientstorage>``: only the portable method can back it up."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ...blobs.refs import BlobSet
from ...config.conversion import Conversion
from ...errors import UnsupportedRepository
from ...model.manifest import DatabaseEntry
from ...model.requirements import Package, Requirements
from ...model.source import Database, masked
from ...policy.scope import Elsewhere, Scope, blobs_outside
from ...runtime.progress import Progress
from ..backend import Backend, unsupported
from ..base import CheckReport, Sink, Survey, SurveyContext
from .zope_conf import NAME, read_section

if TYPE_CHECKING:
    from ...config.sections import Section
    from ...config.storages import Surroundings

WRAPPED_SERVER: Final = (
    "with --zope-conf and a file for zodb-vault alone, in which this <s3blobstorage> contains the "
    "<filestorage> of the server's zeo.conf"
)
SERVER: Final = "with --zeo-conf and the server's zeo.conf, or with --data-fs and --blob-dir"
PACKAGES: Final = {"zeoclient": None, "clientstorage": "ZEO", "ssl": "ZEO"}
DROPPED: Final = {
    "zeoclient": frozenset({"client", "read-only", "read-only-fallback", "var"}),
    "clientstorage": frozenset({"cache-path", "read-only", "read-only-fallback"}),
}


class ZeoClient(Backend):
    """The backend of a ZEO client; see ``Backend``."""

    name = NAME

    def read_section(self, section: Section, around: Surroundings) -> Database:
        """Return the database of a section; its blobs are on the server unless ``shared-blob-dir`` is on."""
        return read_section(section, around)

    def conversion(self, section_type: str) -> Conversion:
        """Return what another program needs; without the persistent cache, which a running client locks."""
        return Conversion(
            packages=PACKAGES,
            read_only=True,
            dropped=DROPPED[section_type],
            not_copied=frozenset({"wait"} if section_type == "zeoclient" else ()),
        )

    def scope(self, database: Database) -> Scope:
        """Return where the storage is, and which blobs are on this machine."""
        servers = " or ".join(_servers(database)) or "the server"
        blobs = "only blobs are" if database.blob_mode in ("directory", "s3") else "no data are"
        there = WRAPPED_SERVER if database.blob_mode == "s3" else SERVER
        elsewhere = Elsewhere(
            f"{blobs} on this machine: it is a client of the ZEO server {servers}, which keeps the storage",
            f"Run zodb-vault on that server, {there}. Or copy the database through the connection, with "
            "--method portable",
        )
        left = tuple(f"{path}: the persistent cache of this client" for path in persistent_caches(database))
        return Scope((), left, elsewhere).plus(_blobs(database))

    def location(self, database: Database) -> str:
        """Return the name of the storage and the addresses of the server."""
        storage = masked(database.options).get("storage", "1")
        return f"storage {storage} of the ZEO server {' or '.join(_servers(database))}"

    def survey(self, database: Database, context: SurveyContext) -> Survey:
        """Raise NothingToBackUp: the storage is on the server."""
        raise unsupported(database)

    def check(
        self,
        entry: DatabaseEntry,
        sink: Sink,
        refs: BlobSet,
        report: CheckReport,
        progress: Progress,
        workers: int,
    ) -> None:
        """Raise UnsupportedRepository: no backup contains the storage of a client."""
        raise UnsupportedRepository(f"the backup holds no storage of the ZEO client {entry.name}")

    def requirements(self, database: Database) -> Requirements:
        """Return ZEO."""
        return Requirements((Package("ZEO", ("ZEO",), "5.2", "zeo"),))


def is_client(database: Database) -> bool:
    """Tell whether a database is a client's view of a ZEO server."""
    return database.backend == NAME


def persistent_caches(database: Database) -> list[str]:
    """Return the path of the persistent cache, if the client has one, with the name that ZEO gives it.

    ``client`` may be an absolute path, and then ``var`` does not count. The path is relative when only the
    client's process knows the directory.
    """
    options = masked(database.options)
    if client := options.get("client"):
        # as open_cache of ZEO/ClientStorage.py does it
        return [os.path.join(options.get("var", ""), f"{client}-{options.get('storage', '1')}.zec")]  # noqa: PTH118
    return [path for path in [options.get("cache-path")] if path]


def _servers(database: Database) -> Iterable[str]:
    return [line for line in masked(database.options).get("server", "").split("\n") if line]


def _blobs(database: Database) -> Scope:
    outside = blobs_outside(
        database, "shared-blob-dir is on: the blobs are in this directory, and nowhere else"
    )
    if outside is not None:
        return outside
    if database.blob_dir is None:
        return Scope((), ("blobs: this client has no blob-dir",))
    return Scope(
        (),
        (
            f"{database.blob_dir}: shared-blob-dir is off, so this directory is a cache; the blobs are on "
            "the server",
        ),
    )


BACKEND: Final = ZeoClient()
