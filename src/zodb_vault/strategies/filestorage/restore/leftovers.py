"""Put aside what only the replaced state needs, after the new Data.fs became valid.

Each step can be repeated after an interruption.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ....blobs.refs import BlobSet
from ....errors import SourceDamaged
from ....model.blob import BlobRef
from ....runtime import durable
from ...blobs.restore import BlobTarget
from .journal import Journal
from .old_data_fs import kept_suffix, leftovers
from .paths import DataFsPaths
from .state import collect_refs


def settle_index(paths: DataFsPaths, journal: Journal) -> None:
    """Put the new index in place, unless the site has already written to the restored file."""
    index = paths.new_index(journal)
    if not index.exists():
        return
    if paths.index.exists() or not paths.is_as_restored(journal):
        os.unlink(index)
        return
    info = paths.data_fs.stat()
    os.chmod(index, info.st_mode & 0o777)
    if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(index, info.st_uid, info.st_gid)
    os.rename(index, paths.index)


def rename_leftovers(paths: DataFsPaths, journal: Journal) -> None:
    """Rename files that packs left beside the old state, so that FileStorage does not use them."""
    for leftover in leftovers(paths):
        os.rename(leftover, leftover.with_name(leftover.name + kept_suffix(journal.restore)))


def put_blobs_aside(paths: DataFsPaths, blobs: BlobTarget, journal: Journal) -> list[str]:
    """Put aside the blobs that only the replaced file references, and return notes for the user.

    A blob that neither file references stays: it may belong to a transaction that is being committed.
    """
    try:
        return blobs.put_aside(_only_replaced(paths, journal), journal.kept_dir)
    except SourceDamaged as error:
        return [f"blobs of the replaced file stay in {blobs.where}: {error.message}"]


def _only_replaced(paths: DataFsPaths, journal: Journal) -> Iterator[BlobRef]:
    """Yield the blobs that only the replaced file references; raise SourceDamaged before the first one."""
    with contextlib.closing(BlobSet()) as old, contextlib.closing(BlobSet()) as present:
        collect_refs(paths.data_fs.with_name(journal.replaced or ""), old)
        collect_refs(paths.data_fs, present)
        for ref in old.all():
            if ref.oid + ref.tid not in present:
                yield ref


def sync_names(paths: DataFsPaths) -> None:
    """Make the renames durable."""
    for directory in {paths.data_fs.parent, paths.index.parent}:
        durable.sync_directory(directory)
