"""The storage: a directory with a file ``<TID>.msgpack`` for each transaction.

It is an example, and not meant for use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import zc.lockfile
from ZODB.config import BaseConfig
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage

SUFFIX = ".msgpack"


class SavedTransaction(msgspec.Struct):
    """What a file holds: the transaction and its records by OID."""

    tid: bytes
    user: str
    description: str
    extension: dict[str, Any]
    records: dict[bytes, bytes]


def transaction_files(path: Path) -> list[Path]:
    """Return the files of all transactions, oldest first."""
    return sorted(path.glob(f"*{SUFFIX}"))


def lock_file(path: Path) -> Path:
    """Return the file that a process locks while it has a storage open."""
    return path.with_name(f"{path.name}.lock")


def read_transaction(data: bytes) -> SavedTransaction:
    """Return the transaction in the content of a file; raise msgspec.DecodeError."""
    return msgspec.msgpack.decode(data, type=SavedTransaction)


class MsgpackStorage(MappingStorage):
    """Keeps everything in memory as well; opening it reads all files."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(f"{path} is not a directory")
        self._oid = 0
        self._lock_file = zc.lockfile.LockFile(str(lock_file(self.path)))
        for file in transaction_files(self.path):
            self._replay(read_transaction(file.read_bytes()))

    def _replay(self, saved: SavedTransaction) -> None:
        metadata = TransactionMetaData(saved.user, saved.description, saved.extension)
        self.tpc_begin(metadata, saved.tid)
        self._tdata.update(saved.records)
        super().tpc_finish(metadata)
        self._oid = max(self._oid, *(int.from_bytes(oid, "big") for oid in saved.records))

    def tpc_finish(self, transaction: Any, func: Callable[[bytes], None] = lambda tid: None) -> bytes:
        """Write the file of the transaction, then finish it."""
        saved = SavedTransaction(
            self._tid,
            transaction.user.decode(),
            transaction.description.decode(),
            transaction.extension,
            dict(self._tdata),
        )
        file = self.path / f"{self._tid.hex()}{SUFFIX}"
        temporary = file.with_suffix(".new")
        temporary.write_bytes(msgspec.msgpack.encode(saved))
        os.replace(temporary, file)
        tid: bytes = super().tpc_finish(transaction, func)
        return tid

    def close(self) -> None:
        """Close the storage, and let others open it."""
        super().close()
        self._lock_file.close()

    def current_records(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield OID, TID and record of every object."""
        for oid in sorted(self._data):
            data, tid = self.load(oid)
            yield oid, tid, data


class MsgpackStorageSection(BaseConfig):
    """The section ``<msgpackstorage>`` of zope.conf."""

    def open(self) -> MsgpackStorage:
        """Open the storage."""
        return MsgpackStorage(self.config.path)
