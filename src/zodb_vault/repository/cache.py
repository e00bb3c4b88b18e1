"""A local cache of manifests and labels.

They never change, so each local copy saves a request.

The cache does not prove that a file exists: only a list of the repository does. Commands that verify, restore
or delete do not use it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Container
from pathlib import Path
from typing import Final

from ..runtime import durable
from ..runtime.new_files import NewFiles, new_files_below

ID: Final = re.compile(r"[0-9a-f]{32}\Z")


class Cache:
    """The local copies of one repository. Errors of the file system count as a missing copy."""

    def __init__(self, root: Path, repository: str) -> None:
        # the id comes from the repository, so it becomes the name of a folder only if it has our format
        self._root = root / repository if ID.match(repository) else None

    def get(self, key: str) -> bytes | None:
        """Return the copy of a file, None when there is none."""
        if self._root is None:
            return None
        try:
            return (self._root / key).read_bytes()
        except OSError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """Store a copy of a file."""
        if self._root is None:
            return
        path = self._root / key
        temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
        with contextlib.suppress(OSError):
            owner = new_files_below(self._root)
            new = NewFiles(file_mode=0o600, uid=owner.uid, gid=owner.gid)
            durable.make_directories(path.parent, new)
            try:
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, new.file_mode)
                with os.fdopen(fd, "wb") as file:
                    new.settle_file(fd)
                    file.write(data)
                temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)

    def evict_unlisted(self, folder: str, listed: Container[str]) -> None:
        """Remove the copies below a folder whose keys are no longer listed."""
        if self._root is None:
            return
        with contextlib.suppress(OSError):
            for path in sorted((self._root / folder).rglob("*.json")):
                if path.relative_to(self._root).as_posix() not in listed:
                    path.unlink(missing_ok=True)


def cache_directory() -> Path:
    """Return the directory of all caches: below ``XDG_CACHE_HOME``, else below ``~/.cache``."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if Path(configured).is_absolute() else Path("~").expanduser() / ".cache"
    return base / "zodb-vault"
