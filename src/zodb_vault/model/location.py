"""Which locations of a repository this version can use: a directory, or ``s3://bucket/prefix``."""

from __future__ import annotations

import re
from typing import Final

SUPPORTED: Final = "use a directory or s3://bucket/prefix"
URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# As scp, rsync, restic and rclone write them: a colon before the first slash.
REMOTE: Final = re.compile(r"([^/:]*):")
# Kinds of storage that another backup program puts before a colon. Any other word there is a host.
KINDS: Final = frozenset(
    [
        "azure",
        "b2",
        "file",
        "ftp",
        "gs",
        "http",
        "https",
        "nfs",
        "rclone",
        "rest",
        "s3",
        "sftp",
        "ssh",
        "swift",
        "webdav",
    ]
)


def unsupported_kind(location: str) -> str | None:
    """Return what a text names instead of a directory or ``s3://...``; None for one of these two.

    A directory with a colon in its name can be given by its absolute path, or with ``./`` before it.
    """
    if (url := URL.match(location)) is not None:
        scheme = url.group(1)
        return None if scheme == "s3" else f"a location on {scheme}://"
    remote = REMOTE.match(location)
    if remote is None:
        return None
    kind = remote.group(1).lower()
    return f"a location on {kind}:" if kind in KINDS else "a directory on another host"
