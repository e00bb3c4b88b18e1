"""Directories that dumps are written into: a file tells what is being restored there, until all of it is."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from ...errors import TargetRefused
from ...runtime import durable

MARK: Final = ".zodb-vault-restoring"


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """Which restore a directory is for."""

    backup: str
    database: str
    last_tid: str | None
    only: str | None


def is_begun(directory: Path, wanted: Begun) -> bool:
    """Tell whether the same restore was interrupted here; raise TargetRefused when something else is there."""
    if not directory.exists() or all(
        one.name.startswith(durable.TEMPORARY_PREFIX) for one in directory.iterdir()
    ):
        return False
    found = _read(directory / MARK)
    if found == wanted:
        return True
    if found is None:
        raise TargetRefused(
            f"{directory} is not empty",
            "choose an empty directory with --output; no restore was interrupted here",
        )
    half = f" --only {found.only}" if found.only else ""
    raise TargetRefused(
        f"a restore of backup {found.backup}{half} into {directory} was interrupted",
        "run that one again to finish it, or remove the directory",
    )


def _read(path: Path) -> Begun | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Begun)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def begin(directory: Path, wanted: Begun) -> None:
    """Note durably what is going to be there."""
    durable.write_atomically(directory / MARK, [msgspec.json.encode(wanted)], exclusive=False, mode=0o600)


def finish(directory: Path) -> None:
    """Note that all of it is there."""
    # what a process that was killed had not yet given a name
    for left in directory.glob(f"{durable.TEMPORARY_PREFIX}*"):
        left.unlink()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(directory / MARK)
    durable.sync_directory(directory)
