"""What a FileStorage holds, read without zodb_vault: by ZODB's own iterator; positions from the headers."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ZODB.blob import FilesystemHelper, is_blob_record
from ZODB.FileStorage.FileStorage import FileIterator

HEADER = struct.Struct(">8sQcHHH")
MISSING = "missing"


class Record(NamedTuple):
    """One data record: ``data`` is None for an undone creation; ``blob`` is SHA-256, None or ``MISSING``."""

    oid: bytes
    data: bytes | None
    blob: str | None


class Transaction(NamedTuple):
    """One transaction as ZODB's iterator shows it, back-pointers resolved."""

    tid: bytes
    status: str
    user: bytes
    description: bytes
    extension: dict[str, Any]
    records: list[Record]


class Header(NamedTuple):
    """One transaction header: ``start`` and ``end`` are positions; ``status`` is a space, ``p`` or ``c``."""

    tid: bytes
    status: str
    start: int
    end: int


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def blob_path(blob_dir: Path, oid: bytes, tid: bytes) -> Path:
    """Return where ZODB keeps this revision of a blob."""
    return Path(FilesystemHelper(str(blob_dir)).getBlobFilename(oid, tid))


def transactions(data_fs: Path, blob_dir: Path | None) -> list[Transaction]:
    """Return every finished transaction with its records and the digest of every blob file of a record."""
    helper = FilesystemHelper(str(blob_dir)) if blob_dir is not None else None

    def blob(record: Any) -> str | None:
        if helper is None or not record.data:
            return None
        path = Path(helper.getBlobFilename(record.oid, record.tid))
        if path.exists():
            return sha256(path)
        return MISSING if is_blob_record(record.data) else None

    with contextlib.closing(FileIterator(str(data_fs))) as iterator:
        return transactions_of(iterator, blob)


def transactions_of(iterator: Iterable[Any], blob: Callable[[Any], str | None]) -> list[Transaction]:
    """Return what the iterator of a storage shows; ``blob`` returns the digest of a record's blob."""
    return [
        Transaction(
            one.tid,
            one.status,
            one.user,
            one.description,
            one.extension,
            [Record(record.oid, record.data, blob(record)) for record in list(one)],
        )
        for one in iterator
    ]


def blob_files(data_fs: Path, blob_dir: Path) -> dict[tuple[bytes, bytes], str]:
    """Return (oid, tid) to digest of every blob that the transactions reference."""
    return {
        (record.oid, transaction.tid): record.blob
        for transaction in transactions(data_fs, blob_dir)
        for record in transaction.records
        if record.blob is not None
    }


def headers(data_fs: Path) -> list[Header]:
    """Return the headers of the complete transactions (status ``c`` included), up to the first torn one."""
    size = data_fs.stat().st_size
    with data_fs.open("rb") as stream:
        return list(_hop(stream, size))


def _hop(stream: Any, size: int) -> Iterator[Header]:
    position = 4
    while position + HEADER.size <= size:
        stream.seek(position)
        tid, length, status, *_ = HEADER.unpack(stream.read(HEADER.size))
        end = position + length + 8
        if end > size:
            return
        yield Header(tid, status.decode("ascii"), position, end)
        position = end


def valid_tids(data_fs: Path) -> list[bytes]:
    """Return the TIDs that may be restored: the finished transactions from the last packed one on."""
    finished = [header for header in headers(data_fs) if header.status != "c"]
    packed = [number for number, header in enumerate(finished) if header.status == "p"]
    return [header.tid for header in finished[packed[-1] if packed else 0 :]]


def end_of(data_fs: Path, tid: bytes) -> int:
    """Return the end of the transaction."""
    return next(header.end for header in headers(data_fs) if header.tid == tid)


def cut(data_fs: Path, tid: bytes, destination: Path) -> Path:
    """Copy ``Data.fs`` up to and including one transaction: a restore to that TID must equal it exactly."""
    with data_fs.open("rb") as source, destination.open("wb") as target:
        target.write(source.read(end_of(data_fs, tid)))
    return destination


def cut_site(data_fs: Path, blob_dir: Path, tid: bytes, directory: Path) -> tuple[Path, Path]:
    """Copy a site as of one transaction: ``Data.fs`` up to it and the complete blob directory."""
    directory.mkdir(parents=True)
    shutil.copytree(blob_dir, directory / "blobs")
    return cut(data_fs, tid, directory / "Data.fs"), directory / "blobs"
