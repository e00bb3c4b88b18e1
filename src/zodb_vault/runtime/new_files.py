"""Owner and modes of new files and directories below a directory that several users write to.

Root writes for the owner of the directory, so that this user can go on after a command of root. A directory
that its group can read and enter, with the setgid bit, is shared with the group: what is made in it can be
read by the group, whatever the umask of the process.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import msgspec

DEFAULT_ACL: Final = "system.posix_acl_default"
PRIVATE_FILE: Final = 0o400
PRIVATE_DIRECTORY: Final = 0o700
GROUP_FILE: Final = 0o640
GROUP_DIRECTORY: Final = stat.S_ISGID | 0o750
# With a default ACL, the kernel takes from these modes what the ACL does not allow, and ignores the umask.
ACL_FILE: Final = 0o660
ACL_DIRECTORY: Final = 0o770


class NewFiles(msgspec.Struct, frozen=True):
    """How new files and directories are made. An id of -1 keeps the owner that the system sets.

    ``exact``: the modes are set whatever the umask is. Otherwise an ACL or the umask restricts them.
    """

    file_mode: int = PRIVATE_FILE
    directory_mode: int = PRIVATE_DIRECTORY
    exact: bool = False
    uid: int = -1
    gid: int = -1

    @property
    def changes(self) -> bool:
        """Tell whether something is changed after a file or directory was made."""
        return self.exact or self.uid != -1

    def settle_file(self, fd: int) -> None:
        """Set owner and mode of a new file."""
        self._settle(fd, self.file_mode)

    def make_directory(self, path: Path) -> None:
        """Make a directory; raise FileExistsError.

        Its owner is set through descriptors: the owner of the parent could replace a name by a symbolic link.
        """
        if not self.changes:
            os.mkdir(path, self.directory_mode)
            return
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.mkdir(path.name, self.directory_mode & 0o777, dir_fd=parent)
            fd = os.open(
                path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent
            )
        finally:
            os.close(parent)
        try:
            self._settle(fd, self.directory_mode)
        finally:
            os.close(fd)

    def _settle(self, fd: int, mode: int) -> None:
        if self.uid != -1:
            os.fchown(fd, self.uid, self.gid)
        if self.exact and stat.S_IMODE(os.fstat(fd).st_mode) != mode:
            os.fchmod(fd, mode)


PRIVATE: Final = NewFiles()


def new_files_below(root: Path) -> NewFiles:
    """Return how files below a directory are made: by its owner, its mode and its default ACL.

    If it does not exist, the owner is that of the nearest directory above it.
    """
    existing = next(path for path in (root, *root.parents) if path.exists())
    info = existing.stat()
    uid, gid = -1, -1
    if os.geteuid() == 0 and (info.st_uid, info.st_gid) != (0, os.getegid()):
        uid, gid = info.st_uid, info.st_gid
    if existing == root and is_shared(info.st_mode):
        return NewFiles(GROUP_FILE, GROUP_DIRECTORY, exact=True, uid=uid, gid=gid)
    if existing == root and _has_default_acl(root):
        return NewFiles(ACL_FILE, ACL_DIRECTORY, uid=uid, gid=gid)
    return NewFiles(uid=uid, gid=gid)


def is_shared(mode: int) -> bool:
    """Tell whether a directory with this mode is shared with its group."""
    return mode & GROUP_DIRECTORY & ~stat.S_IRWXU == GROUP_DIRECTORY & ~stat.S_IRWXU


def _has_default_acl(path: Path) -> bool:
    if not hasattr(os, "getxattr"):
        return False
    try:
        return bool(os.getxattr(path, DEFAULT_ACL))
    except OSError:
        return False
