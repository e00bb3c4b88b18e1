"""The exclusive lock of a FileStorage, taken as FileStorage itself takes it (zc.lockfile), and a bar across it that outlives a process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ...errors import InUse, TargetRefused
from ...runtime.durable import sync_directory

# What a barred lock is a link to: there is no such file and none can be made, so FileStorage cannot open its
# lock.
BAR: Final = ".restore.json/run the restore again or abort it"
HELD: Final = ".held"


@contextlib.contextmanager
def storage_locks(data_fs: Path, *, barred: bool = False) -> Iterator[None]:
    """Hold ``Data.fs.lock`` of the configured and of the resolved name.

    Raise InUse when somebody has the storage open.

    Only who lifts the bar again may come in although it is ``barred``.
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
                _give(lock, data_fs)
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
    """Tell whether a restore that was interrupted keeps others from opening a storage for writing."""
    return any(_is_bar(name) for name in _names(data_fs))


def bar(data_fs: Path) -> None:
    """Keep others from opening a storage for writing, also when this process dies.

    Who calls holds its locks.
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
    """Lift the bar; the locks are held as before."""
    for name in _names(data_fs):
        if _is_bar(name):
            os.rename(f"{name}{HELD}", name)
        for path in (f"{name}{HELD}", f"{name}.bar"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _is_bar(name: Path) -> bool:
    return name.is_symlink() and os.readlink(name).endswith(BAR)


def _names(data_fs: Path) -> list[Path]:
    # a directory on the way may be a link too: one file must not be locked twice
    configured = data_fs.parent.resolve() / data_fs.name
    return list(dict.fromkeys([Path(f"{configured}.lock"), Path(f"{data_fs.resolve()}.lock")]))


def _give(lock: Path, data_fs: Path) -> None:
    """Let a lock file that root has made belong to who the site runs as: FileStorage opens it for writing."""
    if os.geteuid() != 0:
        return
    owner = (data_fs if data_fs.exists() else data_fs.parent).stat()
    if lock.stat().st_uid != owner.st_uid:
        os.chown(lock, owner.st_uid, owner.st_gid)
