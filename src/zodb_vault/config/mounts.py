"""Find the type of the file system of a path."""

from __future__ import annotations

import os
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
LOCAL = {"btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs"}


def local_file_system(path: str) -> str | None:
    """Return the type of the file system of a path if it is a local one.

    None for a network file system, or when the type is unknown.
    """
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        real = Path(os.path.realpath(path))
    except (OSError, ValueError):
        return None
    best = ("", "")
    for line in lines:
        point, kind = line.split(" ")[1:3]
        point = point.replace("\\040", " ")
        # of several mounts at the same point, the last one hides the others
        if len(point) >= len(best[0]) and real.is_relative_to(point):
            best = (point, kind)
    return best[1] if best[1] in LOCAL else None
