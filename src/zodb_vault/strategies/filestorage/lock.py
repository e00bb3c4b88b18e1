"""Take the lock of a FileStorage, and bar a storage; a bar stays even when the process has died."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ...errors import InUse, TargetRefused
from ...runtime.durable import sync_directory

# While a storage is barred, its lock file is a symbolic link to this name. The name uses the journal, which
# is a file, as a directory. So the target cannot exist, and FileStorage fails to open its lock.
BAR: Final = ".restore.json/run the restore again or abort it"
HELD: Final = ".held"


@contextlib.contextmanager
def storage_locks(data_fs: Path, *, barred: bool = False) -> Iterator[None]:
    """Hold ``Data.fs.lock`` of the configured name and of the resolved name.

    ``barred`` takes the locks of a barred storage too. Only a restore and its undo ask for that: they remove
    the bar at their end. Raise InUse when another process has the storage open, TargetRefused when the lock
    cannot be made.
    """
    import zc.lockfile

    if is_barred(data_fs) and not barred:
        raise InUse(
            f"{data_fs} is closed: a restore of several databases was interrupted",
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
                    "run as the user that owns the site, and check that the directory can be written to",
                ) from None
        yield


def require_lockable(data_fs: Path) -> None:
    """Raise TargetRefused when ``storage_locks`` could not open or make a lock file here; take no lock.

    A symbolic link to a Data.fs has a lock and an index beside it, in a directory of its own.
    """
    for name in _names(data_fs):
        if _is_bar(name):
            continue
        unusable = name.exists() and not os.access(name, os.W_OK)
        directory = next(parent for parent in name.parents if parent.is_dir())
        if unusable or not os.access(directory, os.W_OK | os.X_OK):
            raise TargetRefused(
                f"the lock {name} cannot be taken: uid {os.geteuid()} cannot write to "
                f"{name if unusable else directory}",
                "run as the user that owns the site, and check that the directory can be written to",
            )


def is_barred(data_fs: Path) -> bool:
    """Tell whether an interrupted restore has left a bar, so no process can open the storage for writing."""
    return any(_is_bar(name) for name in _names(data_fs))


def bar(data_fs: Path) -> None:
    """Prevent every process from opening a storage for writing, even after this process has died.

    The caller holds the locks of the storage. A lock belongs to the inode of the lock file. So the file stays
    locked under a second name while a rename puts the link in its place.
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
    """Remove the bar; the caller still holds the locks."""
    for name in _names(data_fs):
        if _is_bar(name):
            os.rename(f"{name}{HELD}", name)
        for path in (f"{name}{HELD}", f"{name}.bar"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _is_bar(name: Path) -> bool:
    return name.is_symlink() and os.readlink(name).endswith(BAR)


def _names(data_fs: Path) -> list[Path]:
    # A directory in the path may be a link as well. Two names of one file must not give two locks: a process
    # would find its own lock and take it for that of another process.
    configured = data_fs.parent.resolve() / data_fs.name
    return list(dict.fromkeys([Path(f"{configured}.lock"), Path(f"{data_fs.resolve()}.lock")]))


def _give_to_owner(lock: Path, data_fs: Path) -> None:
    """Give a lock file that root has made to the user of the site: FileStorage opens it for writing."""
    if os.geteuid() != 0:
        return
    owner = (data_fs if data_fs.exists() else data_fs.parent).stat()
    if lock.stat().st_uid != owner.st_uid:
        os.chown(lock, owner.st_uid, owner.st_gid)
