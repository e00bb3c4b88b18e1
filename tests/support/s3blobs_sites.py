"""Sites with zodb-s3blobs: their zope.conf, commits through it, and the contents of bucket and storage."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import independent_reader
import pytest
import ZODB.config
from pgjsonb_sites import Place
from relstorage_sites import OpenRelSite, content, on
from relstorage_vault import RelVault, pg_restore
from services.postgres import Cluster
from ZODB.blob import is_blob_record
from ZODB.POSException import POSKeyError

IMPORTS = "%import zodb_s3blobs\n%import relstorage\n"
CONF = "<zodb_db main>\nmount-point /\n{}</zodb_db>\n"
WRAPPER = (
    "<s3blobstorage>\nbucket-name {}\n{}\ncache-dir {}\ns3-addressing-style path\n{}{}</s3blobstorage>\n"
)
RELSTORAGE = "<relstorage>\nkeep-history {}\n{}{}\n</relstorage>\n"
SHARED = "blob-dir {}\nshared-blob-dir true\n"
SQLITE = "<sqlite3>\ndata-dir {}\n</sqlite3>"
FILESTORAGE = "<filestorage>\npath {}/Data.fs\n</filestorage>\n"
CACHES = itertools.count()


class WrappedSite(NamedTuple):
    """A site whose blobs are objects of ``place``; ``base`` is the wrapped section, ``key`` encrypts."""

    base: str
    directory: Path
    place: Place
    key: str = ""

    @property
    def section(self) -> str:
        """Return the wrapper, with an empty cache: what the bucket has lost cannot be found there."""
        cache = self.directory / f"cache-{next(CACHES)}"
        key = f"s3-sse-customer-key {self.key}\n" if self.key else ""
        return WRAPPER.format(self.place.bucket, self.place.keys, cache, key, self.base)

    @property
    def conf(self) -> str:
        """Return its zope.conf."""
        return IMPORTS + CONF.format(self.section)

    def write_conf(self, path: Path) -> Path:
        """Write the zope.conf."""
        path.write_text(self.conf)
        return path

    @contextlib.contextmanager
    def opened(self) -> Iterator[OpenRelSite]:
        """Open it for writing."""
        site = OpenRelSite(ZODB.config.storageFromString(IMPORTS + self.section))
        try:
            yield site
        finally:
            site.close()

    def undo(self) -> None:
        """Undo the last transaction."""
        with self.opened() as opened:
            opened.manager.begin()
            opened.db.undo(opened.db.undoLog(0, 1)[0]["id"], opened.manager.get())
            opened.manager.commit()

    def transactions(self) -> list[independent_reader.Transaction]:
        """Return what the wrapped storage has, each blob with the digest of its object in the bucket."""
        objects = self.place.objects()

        def blob(record: Any) -> str:
            data = objects.get(key_of(record))
            return independent_reader.MISSING if data is None else hashlib.sha256(data).hexdigest()

        with contextlib.closing(ZODB.config.storageFromString(IMPORTS + self.base)) as storage:
            return _read(storage, blob)

    def state(self) -> dict[str, str]:
        """Return the text or the digest of every key under the root, read through the wrapper."""
        with self.opened() as opened:
            return {key: content(value) for key, value in opened.root.items()}


def _read(storage: Any, blob: Callable[[Any], str]) -> list[independent_reader.Transaction]:
    def digest(record: Any) -> str | None:
        return blob(record) if record.data is not None and is_blob_record(record.data) else None

    found = independent_reader.transactions_of(storage.iterator(), digest)
    return [one._replace(records=sorted(one.records)) for one in found]


def read_without(section: str) -> list[independent_reader.Transaction]:
    """Return what a storage with a directory of blobs has."""
    with contextlib.closing(ZODB.config.storageFromString(IMPORTS + section)) as storage:

        def blob(record: Any) -> str:
            try:
                return independent_reader.sha256(Path(storage.loadBlob(record.oid, record.tid)))
            except POSKeyError:
                return independent_reader.MISSING

        return _read(storage, blob)


def key_of(record: Any) -> str:
    """Return the key of a blob below the prefix, as zodb-s3blobs makes it."""
    return f"blobs/{int.from_bytes(record.oid):x}/{int.from_bytes(record.tid):x}.blob"


class WrappedVault(RelVault):
    """A site in the wrapper with its repository: ``base`` is what is in the wrapper."""

    site: WrappedSite

    def __init__(
        self,
        directory: Path,
        capsys: pytest.CaptureFixture[str],
        base: str,
        place: Place,
        postgres: Cluster | None,
        *,
        history: bool = True,
        key: str = "",
    ) -> None:
        self.base, self.postgres, self.history, self.key = base, postgres, history, key
        super().__init__(
            directory, capsys, WrappedSite(self._section(directory / "site"), directory, place, key)
        )

    @property
    def place(self) -> Place:
        """Return the bucket."""
        return self.site.place

    def _section(self, directory: Path) -> str:
        directory.mkdir()
        if self.base == "filestorage":
            return FILESTORAGE.format(directory)
        adapter = on(self.postgres.database()) if self.postgres else SQLITE.format(directory)
        return RELSTORAGE.format(str(self.history).lower(), "", adapter)

    def copy(self, directory: Path, place: Place) -> WrappedSite:
        """Describe a site like this one, in another place and empty; its zope.conf is there too."""
        directory.mkdir()
        site = WrappedSite(self._section(directory / "site"), directory, place, self.key)
        site.write_conf(directory / "zope.conf")
        return site

    def restored(self, *arguments: object) -> Path:
        """Restore into a new directory and return that."""
        output = self.directory / f"restored-{next(CACHES)}"
        self.done("restore", *arguments, "--output", output, "--yes")
        return output

    def reads(self, output: Path) -> list[independent_reader.Transaction]:
        """Return what a directory holds, as a storage without the wrapper reads it."""
        blobs = output / "blobs"
        if self.base == "filestorage":
            return read_without(FILESTORAGE.format(output).replace("</", f"blob-dir {blobs}\n</"))
        return read_without(
            RELSTORAGE.format(str(self.history).lower(), SHARED.format(blobs), self._adapter_of(output))
        )

    def _adapter_of(self, output: Path) -> str:
        if self.postgres is None:
            return SQLITE.format(output)
        login = self.postgres.database()
        pg_restore(output / "database.dump", login)
        return on(login)
