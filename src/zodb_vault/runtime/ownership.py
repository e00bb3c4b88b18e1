"""Owner and mode of files and directories that a restore makes for the user of the site."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from ..errors import TargetRefused
from . import durable

TEMPORARY: Final = ".zodb-vault-new"


class Ownership(msgspec.Struct, frozen=True):
    """The owner of new files and directories, and the mode of directories.

    An id of -1 keeps the owner that the system sets.
    """

    uid: int
    gid: int
    directory_mode: int

    def apply(self, fd: int) -> None:
        """Change the owner of an open file."""
        if (self.uid, self.gid) != (-1, -1):
            os.fchown(fd, self.uid, self.gid)


def existing_directory(path: Path) -> Path:
    """Return the directory itself, or the nearest one above it that is there."""
    return next(one for one in (path, *path.parents) if one.is_dir())


def make_directories_like_parent(path: Path) -> None:
    """Make a directory and its parents.

    If root makes them, each gets the owner of its parent before it appears under its name.
    """
    if path.is_dir():
        return
    make_directories_like_parent(path.parent)
    temporary, parent = path.with_name(f"{path.name}{TEMPORARY}"), path.parent.stat()
    with contextlib.suppress(FileExistsError):
        os.mkdir(temporary, 0o700)
    if os.geteuid() == 0:
        os.chown(temporary, parent.st_uid, parent.st_gid)
    os.rename(temporary, path)
    durable.sync_directory(path.parent)


def ownership_in(directory: Path) -> Ownership:
    """Return the owner and mode for new files and directories in a directory: its own."""
    info = directory.stat()
    same = (info.st_uid, info.st_gid) == (os.geteuid(), os.getegid())
    return Ownership(-1 if same else info.st_uid, -1 if same else info.st_gid, info.st_mode & 0o777)


def ownership_for_file(path: Path) -> Ownership:
    """Return the owner and mode for a new file at ``path``.

    Both are those of the file that exists there. Otherwise the owner is that of the directory, and the mode
    is 0644 without the bits of the umask.
    """
    info = path.stat() if path.exists() else path.parent.stat()
    mode = info.st_mode & 0o777 if path.is_file() else 0o644 & ~_umask()
    same = (info.st_uid, info.st_gid) == (os.geteuid(), os.getegid())
    return Ownership(-1 if same else info.st_uid, -1 if same else info.st_gid, mode)


def require_owner(path: Path, *, ours: bool) -> None:
    """Raise TargetRefused unless this process can write at ``path`` and set the owner of files there.

    With ``ours``, directories that do not exist yet belong to the user of this process.
    """
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    directory, info = existing if existing.is_dir() else existing.parent, existing.stat()
    if not os.access(directory, os.W_OK | os.X_OK):
        raise TargetRefused(
            f"uid {os.geteuid()} cannot write to {directory}",
            "correct its permissions, or mount it writable",
        )
    if os.geteuid() == 0 or (ours and existing not in (path, path.parent)):
        return
    if os.geteuid() != info.st_uid:
        raise TargetRefused(
            f"{existing} belongs to uid {info.st_uid}, this is uid {os.geteuid()}",
            "run as that user, or as root",
        )
    if info.st_gid not in (os.getegid(), *os.getgroups()):
        raise TargetRefused(
            f"{existing} belongs to gid {info.st_gid}, and uid {os.geteuid()} is not in that group",
            "run as a user of that group, or as root",
        )


def require_links(path: Path) -> None:
    """Raise TargetRefused when the file system has no hard links: the old file could not be kept."""
    probe = path.with_name(f"{path.name}.restore.probe")
    try:
        try:
            os.link(path, probe)
        except FileExistsError:  # a process that was killed left it, or another one is here just now
            _unlink(probe)
            os.link(path, probe)
        _unlink(probe)
    except OSError as error:
        raise TargetRefused(
            f"{path} cannot be hard-linked: {error.strerror}",
            "a restore in place keeps the replaced file by a hard link; restore into a directory on another "
            "file system with --output DIR",
        ) from None


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
