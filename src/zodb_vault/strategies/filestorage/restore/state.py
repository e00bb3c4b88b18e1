"""Inspect the Data.fs that a restore is going to replace, and refuse the restore when something prevents it.

Nothing is changed, except for a probe file.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ....blobs.refs import BlobSet
from ....datafs.tail import TransactionSpan, TransactionWalker, backwards
from ....errors import TargetRefused, VaultError
from ....model import tid as tids
from ....model.chain import segments_of
from ....model.restore import DatabaseCut
from ....runtime.ownership import require_owner
from ...destination import RestoreSource
from ..datafile import DataFile
from ..matching import newest_common
from ..rebuild import refs_of_file
from .paths import DataFsPaths


def last_and_lost(data_fs: Path, cut: DatabaseCut) -> tuple[str | None, int]:
    """Return the last TID of the file in place, and the number of its transactions after the cut point.

    A damaged file is no error, because a restore may be there to repair it. Then only the part that can be
    read counts.
    """
    limit = tids.from_hex(cut.last_tid) if cut.last_tid else b""
    last, count = None, 0
    with contextlib.suppress(VaultError), contextlib.closing(DataFile(data_fs)) as file:
        for span in backwards(file.fd, _end_of(file.fd, data_fs)):
            last = last or tids.to_hex(span.tid)
            if span.tid <= limit:
                break
            count += 1
    return last, count


def newest_common_tid(data_fs: Path, source: RestoreSource) -> bytes | None:
    """Return the newest TID that both a file and a backup have, or None; raise SourceError."""
    with contextlib.closing(DataFile(data_fs)) as file:
        segments = segments_of(source.entry, source.objects)
        return newest_common(file, _end_of(file.fd, data_fs), segments, 0)


def collect_refs(data_fs: Path, refs: BlobSet) -> None:
    """Add the blobs that a Data.fs references to ``refs``; raise SourceDamaged."""
    fd = os.open(data_fs, os.O_RDONLY | os.O_CLOEXEC)
    try:
        refs_of_file(fd, _end_of(fd, data_fs), refs)
    finally:
        os.close(fd)


def _end_of(fd: int, data_fs: Path) -> int:
    """Return where the last whole transaction ends; raise SourceDamaged."""
    return TransactionWalker(fd, str(data_fs)).walk(0, _ignore).end


def _ignore(_transaction: TransactionSpan) -> None:
    pass


def require_writable(paths: DataFsPaths, *, in_place: bool) -> None:
    """Raise TargetRefused when this process may not write here, or may not give files to their owner."""
    for path in (paths.data_fs, paths.blob_dir):
        if path is not None:
            require_owner(path, ours=not in_place)


def require_empty(paths: DataFsPaths) -> None:
    """Raise TargetRefused when a new Data.fs or blob directory already exists."""
    for path in (paths.data_fs, paths.blob_dir):
        if path is not None and path.exists() and (path.is_file() or any(path.iterdir())):
            # a restore that was killed after its last step has left no journal
            hint = (
                "choose an empty directory with --output; if an earlier restore wrote here, it has finished: "
                "there is no note of an interruption"
            )
            raise TargetRefused(f"{path} exists already", hint)


def require_same_site(data_fs: Path, blobs: str, source: RestoreSource) -> None:
    """Raise TargetRefused when the file in place and the backup have no transaction in common.

    Blobs of two sites must not be mixed: the blobs of one site would look like leftovers of the other. A file
    that cannot be read is no reason to refuse.
    """
    try:
        if newest_common_tid(data_fs, source) is not None:
            return
    except VaultError:
        return
    raise TargetRefused(
        f"{data_fs} shares no transaction with the backup: {blobs} belongs to another site",
        "check --site and the paths; `--replace-blobs` restores there nevertheless",
    )
