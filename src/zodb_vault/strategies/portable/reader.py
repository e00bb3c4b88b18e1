"""Read any storage that ZODB can open from its configuration: transactions, records and blobs.

All errors of a storage or its driver become a SourceError without secrets.
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
from ...model.requirements import ZODB, Package, opening_packages
from ...model.source import Database, Secret
from ..backend import Backend

# Texts in the errors of ``FileStorage.iterator``, also through ZEO, while another process writes a
# transaction at the end of the file. The first one is a name that ZODB misspells: an AttributeError.
TORN: Final = ("_scan_foreward", "Can't find last transaction in large file")
# Seconds to wait before each new try.
PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
# The number of characters that are shown of an error.
LONGEST: Final = 300


class Header(NamedTuple):
    """The header of a transaction; ``extension`` is as the storage gives it, pickled or not."""

    tid: bytes
    status: str
    user: bytes
    description: bytes
    extension: dict[str, Any] | bytes


class Record(NamedTuple):
    """One revision of an object; ``data`` is None when its creation was undone.

    ``same_as`` is the TID of an earlier transaction with the same data, None when there is none.
    """

    oid: bytes
    tid: bytes
    data: bytes | None
    same_as: bytes | None


class Source:
    """One open storage; ``history`` is None when it is not known whether the storage keeps history."""

    def __init__(self, database: Database, backend: Backend, configuration: str, cache: Path) -> None:
        packages = _packages(database, backend)
        require_packages(database, packages)
        self.place, self.history = backend.shown_location(database), database.history
        self.exact_size = backend.exact_size
        self._cache = cache.resolve()
        self._hidden = set(_hidden(database))
        # Without a handler, Python prints what a package logs, and that may have secrets. The same text is in
        # the errors that the package raises.
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
                    f"the storage of the database {database.name} cannot be opened with its configuration: "
                    f"{self._message_of(error)}"
                ],
                "check its section, and install the packages that it needs where zodb-vault runs",
            ) from None

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(SourceError), self.translate_errors():
            self._storage.close()

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn every error of the storage into a SourceError."""
        try:
            yield
        except VaultError:
            raise
        except Exception as error:  # noqa: BLE001  every storage and every driver has its own errors
            raise SourceError(
                f"{self.place} cannot be read: {self._message_of(error)}",
                "check that the server runs and that this machine can reach it, then run the command again",
            ) from None

    def _message_of(self, error: Exception) -> str:
        """Return the text of an error; only its class when a word of the text may belong to a secret."""
        name, text = type(error).__name__, next(iter(str(error).splitlines()), "")[:LONGEST]
        return name if not text or self._hidden & set(_words(str(error))) else f"{name}: {text}"

    def size(self) -> int:
        """Return the size in bytes that the storage reports."""
        with self.translate_errors():
            return int(self._storage.getSize())

    def last_tid(self) -> bytes:
        """Return the TID of the last transaction, zeros when there is none."""
        with self.translate_errors():
            return bytes(self._storage.lastTransaction())

    def transactions(self, start: bytes | None = None) -> Iterator[tuple[Header, Iterator[Record]]]:
        """Yield the transactions from the TID ``start`` on, each with its records.

        Read the records of a transaction before the next transaction.
        """
        with self.translate_errors():
            found = self._iterator(start)
            if self.history is not False and hasattr(self._storage, "sync"):
                # RelStorage loads blobs through another connection than the iterator. Without ``sync``, that
                # connection may show an older state.
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
            except Exception as error:  # noqa: BLE001  through a server the error has another class
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
        """Tell whether the storage still has a revision."""
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
        """Tell whether a file is in our cache, so that it may be moved away."""
        return path.resolve().is_relative_to(self._cache)


@contextlib.contextmanager
def _temporary_files_in(directory: Path) -> Iterator[None]:
    """Make a storage put its temporary files into a directory, where there is room and a run removes them.

    Whole blobs may be among these files.
    """
    before, tempfile.tempdir = tempfile.tempdir, str(directory)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _packages(database: Database, backend: Backend) -> list[Package]:
    """Return the packages that are needed to open a storage."""
    return [ZODB, *opening_packages(database, backend.requirements(database))]


def require_packages(database: Database, packages: Iterable[Package]) -> None:
    """Raise ConfigurationError when a package that is needed to open a database is not installed."""
    for package in packages:
        if importlib.util.find_spec(package.module) is None:
            raise ConfigurationError(
                [
                    f"the database {database.name} is on {database.backend}: this needs the package "
                    f"{package.module}, which is not installed"
                ],
                package.how_to_install,
            )


def _header(transaction: Any) -> Header:
    # The site has pickled the extension. A storage that gives these bytes lets the copy keep them unchanged.
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
