"""Check of the free space in the repository: for the next backup, and for a full one."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from ...model.source import Database
from ...model.units import readable_size
from ..catalog import stored_size
from ..create.preview import plan
from .check import CheckResult
from .inputs import CheckInputs
from .source import blob_files

# A walk over millions of blobs takes too long for this command. After this number the size is an "at least".
MAX_BLOBS_COUNTED: Final = 200_000


class SpaceNeeded(NamedTuple):
    """Estimated bytes that the next backup and a full backup add to the repository."""

    next_backup: int
    full_backup: int
    limits: str  # how exact the estimate is, to be added to the message


def check_repository_space(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check that the next backup fits into a repository on a file system."""
    repository, site = inputs.repository, inputs.site
    root = Path(repository.store.location)
    databases = [one for one in site.databases if one.data_fs is not None]
    if not root.is_dir() or not databases:
        return
    needed = [_estimate(inputs, database) for database in databases]
    next_backup = sum(one.next_backup for one in needed)
    full_backup = sum(one.full_backup for one in needed)
    free = shutil.disk_usage(root).free
    message = (
        f"{readable_size(free)} free in {root}; the next backup needs about {readable_size(next_backup)}, "
        f"a full backup {readable_size(full_backup)}{needed[0].limits}"
    )
    if next_backup <= free < full_backup:
        message += "; a full backup does not fit"
    hint = "free space there, delete backups, or move the repository to a larger file system"
    yield CheckResult("space repository", free >= next_backup, message, hint)


def _estimate(inputs: CheckInputs, database: Database) -> SpaceNeeded:
    """Estimate what the backups of a database need.

    With an earlier backup: a full one is as large as that one, scaled by the growth of the Data.fs; an
    incremental one is the share of the Data.fs that is new. Without one: all bytes of the Data.fs and of the
    blobs.
    """
    size = Path(database.data_fs or "").stat().st_size
    manifest = inputs.newest
    entries = manifest.databases if manifest else []
    entry = next((one for one in entries if one.name == database.name), None)
    if entry is None or entry.data_fs is None or not entry.data_fs.end:
        blobs, more = _size_of_blobs(database)
        limits = f" (before compression{', at least' if more else ''})"
        return SpaceNeeded(size + blobs, size + blobs, limits)
    full = int(stored_size(entry) * max(1.0, size / entry.data_fs.end))
    only_this = msgspec.structs.replace(inputs.site, databases=(database,))
    decision = plan(only_this, inputs.repository, None).databases[0]
    if decision.how != "incremental":
        return SpaceNeeded(full, full, "")
    return SpaceNeeded(int(full * max(0, size - entry.data_fs.end) / size), full, "")


def _size_of_blobs(database: Database) -> tuple[int, bool]:
    """Return the bytes of the blob files, and whether there are more files than were counted."""
    total = 0
    if database.blob_mode != "directory" or database.blob_dir is None:
        return 0, False
    for number, path in enumerate(blob_files(Path(database.blob_dir))):
        if number == MAX_BLOBS_COUNTED:
            return total, True
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total, False
