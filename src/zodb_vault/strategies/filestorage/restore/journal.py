"""The journal of a restore, beside the Data.fs: with it, an interrupted restore can be resumed or undone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from ....errors import Damage
from ....model import canonical
from ....model.restore import UnfinishedRestore
from ....runtime import durable

SUFFIX: Final = ".restore.json"


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """One restore of one database.

    The phases, in this order:

    * ``building``: the old state is complete; blobs may have been added.
    * ``switching``: the rename may have happened. If the file in place has the inode number ``new_inode``, it
      has happened.
    * ``switched``: the new state is valid; files that only the old state needs are being put aside.
    * ``done``: nothing is left to do. Only a record, which is a journal under another name, has this phase.
    * ``aborting``: the old state is being put back.

    ``end``, ``last_tid`` and ``only`` identify the restore. The names ``building`` and ``replaced`` are
    relative to the directory of the Data.fs, and ``kept_dir`` to the blob directory. ``saved`` is the length
    of the replaced file when its safety backup was made, None without one. ``dropped`` is the number of its
    transactions that the new state does not have. ``caches`` are caches of clients that the restore removes.
    """

    restore: str
    backup: str
    site: str
    database: str
    phase: Literal["building", "switching", "switched", "done", "aborting"]
    end: int
    last_tid: str | None
    only: str | None
    data_fs: str
    blob_dir: str | None
    building: str
    replaced: str | None
    kept_dir: str
    new_inode: int = 0
    dropped: int = 0
    saved: int | None = None
    bucket: str | None = None
    caches: list[str] = []


def unfinished(journal: Journal) -> UnfinishedRestore:
    """Return the restore that a journal describes."""
    return UnfinishedRestore(
        restore=journal.restore,
        backup=journal.backup,
        database=journal.database,
        where=journal.data_fs,
        phase=journal.phase,
    )


def path_of(data_fs: Path) -> Path:
    """Return the path of the journal of a Data.fs."""
    return data_fs.with_name(data_fs.name + SUFFIX)


def read(path: Path) -> Journal | None:
    """Return a journal, None when there is none; raise Damage."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(canonical.check_digest(data, str(path)), type=Journal)
    except msgspec.MsgspecError as error:
        raise Damage(f"{path} is not a valid journal: {error}") from None


def advance(data_fs: Path, journal: Journal, **changes: Any) -> Journal:
    """Write a journal with some fields changed, and return it."""
    return write(data_fs, msgspec.structs.replace(journal, **changes))


def write(data_fs: Path, journal: Journal) -> Journal:
    """Make a journal durable in place of the one before, and return it.

    The caller holds the lock of the storage.
    """
    path = path_of(data_fs)
    temporary = _new(path)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        durable.write_all(fd, [canonical.with_digest(journal)])
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, path)
    durable.sync_directory(path.parent)
    return journal


def finish(data_fs: Path, journal: Journal) -> Journal:
    """Turn the journal into the record of a finished restore by one rename, and return it.

    The record tells what was kept.
    """
    os.rename(path_of(data_fs), record_of(data_fs, journal.restore))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_new(path_of(data_fs)))
    durable.sync_directory(data_fs.parent)
    return msgspec.structs.replace(journal, phase="done")


def records(data_fs: Path) -> dict[str, Path]:
    """Return the records of finished restores beside a Data.fs, by the id of the restore."""
    before, after = f"{data_fs.name}.restored-", ".json"
    names = sorted(path.name for path in data_fs.parent.iterdir()) if data_fs.parent.is_dir() else []
    found = (name for name in names if name.startswith(before) and name.endswith(after))
    return {name.removeprefix(before).removesuffix(after): data_fs.with_name(name) for name in found}


def read_record(data_fs: Path, restore: str) -> Journal | None:
    """Return the record of a finished restore, None when there is none; raise Damage."""
    journal = read(record_of(data_fs, restore))
    return msgspec.structs.replace(journal, phase="done") if journal else None


def record_of(data_fs: Path, restore: str) -> Path:
    """Return the path of the record of a finished restore."""
    return data_fs.with_name(f"{data_fs.name}.restored-{restore}.json")


def remove(path: Path) -> None:
    """Remove a journal or a record, and a temporary file of an interrupted ``write``."""
    for one in (path, _new(path)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(one)
    durable.sync_directory(path.parent)


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")
