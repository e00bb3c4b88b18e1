"""The journal of a restore, beside the Data.fs: what was decided, what is done, and so what an interrupted one has to do."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, Literal

import msgspec

from ..errors import Damage
from ..model import canonical
from ..stores import durable

SUFFIX: Final = ".restore.json"


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """One restore of one database.

    ``building``: the old state is whole, blobs may have been added. ``switching``: the rename may have happened, the inode
    tells. ``switched``: the new state is valid, what the old one alone needed is being put aside. ``done``: nothing is left to do.
    ``aborting``: the old state is being put back.
    Names are relative to the directory of Data.fs, ``kept_dir`` to the blob directory.
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


def path_of(data_fs: Path) -> Path:
    """Return where the journal of a Data.fs lies."""
    return data_fs.with_name(data_fs.name + SUFFIX)


def read(path: Path) -> Journal | None:
    """Return a journal, None when there is none; raise Damage."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(canonical.unseal(data, str(path)), type=Journal)
    except msgspec.MsgspecError as error:
        raise Damage(f"{path} does not have the form it should have: {error}") from None


def write(data_fs: Path, journal: Journal) -> Journal:
    """Make a new state of the journal durable and return it."""
    durable.write(path_of(data_fs), [canonical.seal(journal)], exclusive=False, mode=0o600)
    return journal


def finish(data_fs: Path, journal: Journal) -> Journal:
    """Turn the journal into the record of a finished restore, which says what was kept, and return it."""
    journal = write(data_fs, msgspec.structs.replace(journal, phase="done"))
    os.rename(path_of(data_fs), record_of(data_fs, journal.restore))
    durable.sync_directory(data_fs.parent)
    return journal


def record_of(data_fs: Path, restore: str) -> Path:
    """Return where the record of a finished restore lies."""
    return data_fs.with_name(f"{data_fs.name}.restored-{restore}.json")


def remove(path: Path) -> None:
    """Remove a journal or record."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    durable.sync_directory(path.parent)
