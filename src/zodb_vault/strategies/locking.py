"""The exclusive lock of a FileStorage, taken as FileStorage itself takes it (zc.lockfile)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import InUse, TargetRefused


@contextlib.contextmanager
def storage_locks(data_fs: Path) -> Iterator[None]:
    """Hold ``Data.fs.lock`` of the configured and of the resolved name; raise InUse when somebody has the storage open."""
    import zc.lockfile

    # a directory on the way may be a link too: one file must not be locked twice
    configured = data_fs.parent.resolve() / data_fs.name
    names = dict.fromkeys([Path(f"{configured}.lock"), Path(f"{data_fs.resolve()}.lock")])
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                stack.enter_context(contextlib.closing(zc.lockfile.LockFile(str(name))))
                _give(name, data_fs)
            except zc.lockfile.LockError:
                raise InUse(f"{data_fs} is in use: another process holds {name}", "stop the site or the ZEO server first") from None
            except OSError as error:
                raise TargetRefused(f"the lock {name} cannot be taken: {error.strerror}", "run as the user that owns the site") from None
        yield


def _give(lock: Path, data_fs: Path) -> None:
    """Let a lock file that root has made belong to who the site runs as: FileStorage opens it for writing."""
    if os.geteuid() != 0:
        return
    owner = (data_fs if data_fs.exists() else data_fs.parent).stat()
    if lock.stat().st_uid != owner.st_uid:
        os.chown(lock, owner.st_uid, owner.st_gid)
