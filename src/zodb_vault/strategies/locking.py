"""The exclusive lock of a FileStorage, taken as FileStorage itself takes it (zc.lockfile)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import InUse, TargetRefused


@contextlib.contextmanager
def storage_locks(data_fs: Path) -> Iterator[None]:
    """Hold ``Data.fs.lock`` of the configured and of the resolved name; raise InUse when somebody has the storage open."""
    import zc.lockfile

    names = dict.fromkeys([Path(f"{data_fs}.lock"), Path(f"{data_fs.resolve()}.lock")])
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                stack.enter_context(contextlib.closing(zc.lockfile.LockFile(str(name))))
            except zc.lockfile.LockError:
                raise InUse(f"{data_fs} is in use: another process holds {name}", "stop the site or the ZEO server first") from None
            except OSError as error:
                raise TargetRefused(f"the lock {name} cannot be taken: {error.strerror}", "run as the user that owns the site") from None
        yield
