"""The exclusive lock of a FileStorage, as FileStorage itself takes it, and a bar that outlives a process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ...errors import InUse, TargetRefused
from ...runtime.durable import sync_directory

# The target of the link that takes the place of a lock while a storage is barred. It has a file as if it were
# a directory, so it does not exist and cannot be made: FileStorage fails to open its lock.
BAR: Final = ".restore.json/run the restore again or abort it"
HELD: Final = ".held"


@contextlib.contextmanager
def storage_locks(data_fs: Path, *, barred: bool = False) -> Iterator[None]:
    """Hold ``Data.fs.lock`` of the configured and of the resolved name.

    ``barred``: also while a bar is there; only for a restore or its undo, which remove it in the end. Raise
    InUse when another process has the storage open, TargetRefused when the lock cannot be made.
    """
    import zc.lockfile

    if is_barred(data_fs) and not barred:
        raise InUse(
            f"{data_fs} is kept closed: a restore of several databases was interrupted",
            "run that restore again, or `restore --abort`",
        )
    with contextlib.ExitStack() as stack:
        for name in _names(data_fs):
            lock = Path(f"{name}{HELD}") if _is_bar(name) else name
            try:
                stack.enter_context(contextlib.closing(zc.lockfile.LockFile(str(lock))))
                _give_to_owner(lock, data_fs)
            except zc.lockfile.LockError:
                raise InUse(
                    f"{data_fs} is in use: another process holds {name}",
                    "stop the site or the ZEO server first",
                ) from None
            except OSError as error:
                raise TargetRefused(
                    f"the lock {name} cannot be taken: {error.strerror}",
                    "run as the user that owns the site, where its directory can be written to",
                ) from None
        yield


def is_barred(data_fs: Path) -> bool:
    """Tell whether a restore that was interrupted keeps a storage from being opened for writing."""
    return any(_is_bar(name) for name in _names(data_fs))


def bar(data_fs: Path) -> None:
    """Keep every process from opening a storage for writing, also after this one has died.

    The caller holds its locks. A lock file is one with its inode, so it stays locked under its other name
    while a link takes its place by a rename.
    """
    for name in _names(data_fs):
        if _is_bar(name):
            continue
        for path in (f"{name}{HELD}", f"{name}.bar"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        os.link(name, f"{name}{HELD}")
        os.symlink(f"{data_fs.name}{BAR}", f"{name}.bar")
        os.rename(f"{name}.bar", name)
        sync_directory(name.parent)


def unbar(data_fs: Path) -> None:
    """Remove the bar; the locks are held as before."""
    for name in _names(data_fs):
        if _is_bar(name):
            os.rename(f"{name}{HELD}", name)
        for path in (f"{name}{HELD}", f"{name}.bar"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _is_bar(name: Path) -> bool:
    return name.is_symlink() and os.readlink(name).endswith(BAR)


def _names(data_fs: Path) -> list[Path]:
    # A directory in the path may be a link as well. One file must not be locked twice by the same process.
    configured = data_fs.parent.resolve() / data_fs.name
    return list(dict.fromkeys([Path(f"{configured}.lock"), Path(f"{data_fs.resolve()}.lock")]))


def _give_to_owner(lock: Path, data_fs: Path) -> None:
    """Give a lock file that root has made to the user of the site: FileStorage opens it for writing."""
    if os.geteuid() != 0:
        return
    owner = (data_fs if data_fs.exists() else data_fs.parent).stat()
    if lock.stat().st_uid != owner.st_uid:
        os.chown(lock, owner.st_uid, owner.st_gid)
