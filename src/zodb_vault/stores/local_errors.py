"""Errors of the operating system as errors of a local repository, with what to do next."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..errors import KeyMissing, StoreError

HINTS: Final = {
    errno.ENOSPC: "free space there, then run the command again; it reuses what is already stored",
    errno.EDQUOT: "raise the quota, then run the command again",
    errno.EROFS: "mount it writable",
    errno.ENOTDIR: "a repository is a directory, and so is everything above it; choose another path",
    errno.EPERM: "the file system refuses hard links or the change; "
    "keep the repository on one that allows them",
    errno.EMLINK: "the file system refuses hard links; keep the repository on one that allows them",
    errno.ENOTSUP: "the file system refuses hard links; keep the repository on one that allows them",
}


@contextlib.contextmanager
def translate_errors(root: Path, key: str) -> Iterator[None]:
    """Translate errors of the operating system into the errors of the contract."""
    try:
        yield
    except FileNotFoundError:
        raise KeyMissing(f"{key} is not in {root}") from None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM) and (denied := _denied(root, key)) is not None:
            raise _no_access(root, denied, error) from error
        hint = HINTS.get(
            error.errno or 0, "correct the permissions, or the rules of the system, for this path"
        )
        where = f" ({key})" if key else ""
        raise StoreError(f"{root}: {os.strerror(error.errno or 0)}{where}", hint) from error


def _denied(root: Path, key: str) -> Path | None:
    """Return what on the way to a key this process may not use, None when its rights are no reason."""
    path = root / key
    way = [*reversed(path.parents), path]
    for one in way:
        try:
            is_directory = one.is_dir()
            if not is_directory and not one.exists():
                break
        except PermissionError:
            break
        needed = os.R_OK | os.X_OK if is_directory and one.is_relative_to(root) else os.X_OK
        if not _may(one, needed if is_directory else os.R_OK):
            return one
    directory = next((one for one in reversed(way) if one.is_dir()), root)
    return None if _may(directory, os.W_OK) else directory


def _may(path: Path, access: int) -> bool:
    return os.access(path, access, effective_ids=os.access in os.supports_effective_ids)


def _no_access(root: Path, denied: Path, error: OSError) -> StoreError:
    """Return an error that names a path, its owner, and what to do."""
    info, us = denied.stat(), os.geteuid()
    owner, ours = _user(info.st_uid), _user(us)
    message = (
        f"{root}: {os.strerror(error.errno or 0)}: {denied} belongs to {owner}:{_group(info.st_gid)} with "
        f"mode {info.st_mode & 0o7777:o}, and this process runs as {ours}"
    )
    repository = root.stat() if _may(root.parent, os.X_OK) and root.exists() else None
    if repository is not None and repository.st_uid == us and info.st_uid != us:
        return StoreError(message, f"give it back to {ours}: as root, run `chown -R {ours} {root}`")
    if info.st_uid == us:
        return StoreError(message, f"give {ours} the rights: `chmod u+rwX {denied}`")
    others = "" if owner == "root" else ", or as root, which keeps the owner"
    return StoreError(
        message,
        f"run as {owner}{others}; to let a group read a repository, make it with "
        "`repository init --group-access`",
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
