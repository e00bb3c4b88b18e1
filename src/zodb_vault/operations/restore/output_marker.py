"""A directory that a dump is written into says so by a file, until all of it is there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from ...errors import TargetRefused
from ...runtime import durable
from ...runtime.new_files import NewFiles

NAME: Final = ".zodb-vault-restoring"


class OutputMarker(msgspec.Struct, frozen=True, kw_only=True):
    """Which restore a directory is for; ``restore`` is the id of the run that began it."""

    restore: str
    backup: str
    database: str
    last_tid: str | None
    only: str | None

    def is_same(self, other: OutputMarker) -> bool:
        """Tell whether both restore the same; a run that is repeated has an id of its own at first."""
        return msgspec.structs.replace(self, restore=other.restore) == other


def begun(directory: Path, wanted: OutputMarker) -> OutputMarker | None:
    """Return the marker of the same restore if it was interrupted here.

    Raise TargetRefused when something else is there.
    """
    if not directory.exists() or all(
        one.name.startswith(durable.TEMPORARY_PREFIX) for one in directory.iterdir()
    ):
        return None
    found = read(directory)
    if found is None:
        raise TargetRefused(
            f"{directory} is not empty",
            "choose an empty directory with --output; no restore was interrupted here",
        )
    if not found.is_same(wanted):
        only = f" --only {found.only}" if found.only else ""
        raise TargetRefused(
            f"a restore of backup {found.backup}{only} into {directory} was interrupted",
            "run that one again to finish it, or remove the directory",
        )
    return found


def read(directory: Path) -> OutputMarker | None:
    """Return the marker of a directory, None when there is none that can be read."""
    try:
        return msgspec.json.decode((directory / NAME).read_bytes(), type=OutputMarker)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
        return None


def write(directory: Path, marker: OutputMarker) -> None:
    """Note durably what is going to be there."""
    durable.write_atomically(
        directory / NAME, [msgspec.json.encode(marker)], exclusive=False, new=NewFiles(file_mode=0o600)
    )


def remove(directory: Path) -> None:
    """Note that all of it is there."""
    # files to which a run that was killed had not yet given a name
    for left in directory.glob(f"{durable.TEMPORARY_PREFIX}*"):
        left.unlink()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(directory / NAME)
    durable.sync_directory(directory)
