"""A storage of any kind, opened by ZODB's own configuration to be read to its end.

Transactions, records, blobs.

Whatever a storage or its driver raises becomes a SourceError here, without secrets.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...errors import ConfigurationError, SourceError, VaultError
from ...model.requirements import WRAPPERS, ZODB, Package
from ...model.source import Database, Secret
from ..backend import Backend

# What ``iterator`` of a FileStorage says, also through ZEO, while a transaction is just being written after
# its end (the first is its mistake).
TORN: Final = ("_scan_foreward", "Can't find last transaction in large file")
PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
LONGEST: Final = 300


class Header(NamedTuple):
    """What a transaction says of itself; ``extension`` as the storage gives it, pickled or not."""

    tid: bytes
    status: str
    user: bytes
    description: bytes
    extension: dict[str, Any] | bytes


class Record(NamedTuple):
    """One revision; ``data`` None: its creation was undone.

    ``same_as``: the transaction that has the same data, perhaps.
    """

    oid: bytes
    tid: bytes
    data: bytes | None
    same_as: bytes | None


class Source:
    """One open storage; ``history`` None when it is not known whether it keeps any."""

    def __init__(self, database: Database, backend: Backend, configuration: str, cache: Path) -> None:
        packages = _packages(database, backend)
        require_packages(database, packages)
        self.place, self.history = backend.shown_location(database), database.history
        self.exact_size = backend.exact_size
        self._cache = cache.resolve()
        self._hidden = set(_hidden(database))
        # What a package logs is in the errors that it raises; without a handler it would be printed, secrets
        # included.
        for package in packages:
            if not logging.getLogger(package.module).handlers:
                logging.getLogger(package.module).addHandler(logging.NullHandler())
        cache.mkdir(mode=0o700, exist_ok=True)
        with self.translate_errors(), _temporary_files_in(cache):
            self._storage = self._opened(database, configuration)

    def _opened(self, database: Database, configuration: str) -> Any:
        import ZConfig
        from ZODB.config import storageFromString

        try:
            return storageFromString(configuration)
        except (ImportError, ZConfig.ConfigurationError) as error:
            raise ConfigurationError(
                [
                    f"the storage of the database {database.name} cannot be opened as it is configured: "
                    f"{self._message_of(error)}"
                ],
                "check its section; the packages that it needs have to be installed where zodb-vault runs",
            ) from None

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(SourceError), self.translate_errors():
            self._storage.close()

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise errors of a storage as SourceError."""
        try:
            yield
        except VaultError:
            raise
        except Exception as error:  # noqa: BLE001  every storage and every driver has errors of its own
            raise SourceError(
                f"{self.place} cannot be read: {self._message_of(error)}",
                "check that the server runs and can be reached from here; then run again",
            ) from None

    def _message_of(self, error: Exception) -> str:
        """Return what an error says, its kind alone where a word of it could be one of a secret."""
        name, text = type(error).__name__, next(iter(str(error).splitlines()), "")[:LONGEST]
        return name if not text or self._hidden & set(_words(str(error))) else f"{name}: {text}"

    def size(self) -> int:
        """Return how many bytes the storage says that it has."""
        with self.translate_errors():
            return int(self._storage.getSize())

    def last_tid(self) -> bytes:
        """Return the TID of the last transaction, zeros when there is none."""
        with self.translate_errors():
            return bytes(self._storage.lastTransaction())

    def transactions(self, start: bytes | None = None) -> Iterator[tuple[Header, Iterator[Record]]]:
        """Yield the transactions from ``start`` on, each with its records, which have to be read before the next one."""
        with self.translate_errors():
            found = self._iterator(start)
            if self.history is not False and hasattr(self._storage, "sync"):
                # RelStorage looks blobs up with a connection of its own, which must not see less
                self._storage.sync()
        with contextlib.closing(found) if hasattr(found, "close") else contextlib.nullcontext():
            while True:
                with self.translate_errors():
                    transaction = next(found, None)
                if transaction is None:
                    return
                yield _header(transaction), self._records(transaction)

    def _iterator(self, start: bytes | None) -> Any:
        for pause in PAUSES:
            try:
                return iter(self._storage.iterator(start))
            except Exception as error:  # noqa: BLE001  of a server it comes in another class
                if not any(text in str(error) for text in TORN):
                    raise
                time.sleep(pause)
        return iter(self._storage.iterator(start))

    def _records(self, transaction: Any) -> Iterator[Record]:
        with self.translate_errors():
            found = iter(transaction)
        while True:
            with self.translate_errors():
                record = next(found, None)
            if record is None:
                return
            yield Record(record.oid, record.tid, record.data, record.data_txn)

    def has(self, oid: bytes, tid: bytes) -> bool:
        """Tell whether the storage has this revision now."""
        for header, records in self.transactions(tid):
            return header.tid == tid and any(record.oid == oid for record in records)
        return False

    def current_tid(self, oid: bytes) -> bytes | None:
        """Return the TID of the current revision of an object, None when there is no such object."""
        from ZODB.POSException import POSKeyError
        from ZODB.utils import load_current

        with self.translate_errors():
            try:
                return bytes(load_current(self._storage, oid)[1])
            except POSKeyError:
                return None

    def blob(self, oid: bytes, tid: bytes) -> Path | None:
        """Return the file of a blob, None when the storage does not have it."""
        from ZODB.POSException import POSKeyError

        with self.translate_errors():
            try:
                return Path(self._storage.loadBlob(oid, tid))
            except POSKeyError:
                return None

    def is_ours(self, path: Path) -> bool:
        """Tell whether a file is only in the cache, so that it may be moved away."""
        return path.resolve().is_relative_to(self._cache)


@contextlib.contextmanager
def _temporary_files_in(directory: Path) -> Iterator[None]:
    """Have a storage keep its temporary files, whole blobs among them, where there is room, and where they are removed."""
    before, tempfile.tempdir = tempfile.tempdir, str(directory)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _packages(database: Database, backend: Backend) -> list[Package]:
    """Return the packages that open a storage."""
    wrapped = [WRAPPERS["s3blobs"]] if "s3blobs" in database.wrappers else []
    return [ZODB, *backend.requirements(database).packages, *wrapped]


def require_packages(database: Database, packages: Iterable[Package]) -> None:
    """Raise ConfigurationError when a package that opens a database is not installed."""
    for package in packages:
        if importlib.util.find_spec(package.module) is None:
            what = f"zodb-vault[{package.extra}]" if package.extra else package.distributions[0]
            raise ConfigurationError(
                [
                    f"the database {database.name} is on {database.backend}, which needs the package "
                    f"{package.module}: it is not installed"
                ],
                f"pip install '{what}', into the environment that zodb-vault runs in",
            )


def _header(transaction: Any) -> Header:
    # what was pickled by the site stays as it is, where the storage passes it on
    raw = getattr(transaction, "extension_bytes", None)
    extension = raw if isinstance(raw, bytes) else transaction.extension
    return Header(
        transaction.tid,
        transaction.status,
        _bytes(transaction.user),
        _bytes(transaction.description),
        extension or b"",
    )


def _bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _hidden(database: Database) -> Iterable[str]:
    """Yield the words that must not be shown."""
    for value in database.options.values():
        if isinstance(value, Secret):
            yield from set(_words(value.reveal())) - set(_words(value.shown))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\s'\"=:;,@/]+", text)
