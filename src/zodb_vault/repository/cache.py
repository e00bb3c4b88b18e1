"""Manifests and labels that were read before.

They never change, so a copy on this machine saves a request each.

A copy says nothing of what exists, which only a list of this very run does, and nothing of what the
repository holds: whoever proves, restores or deletes reads the repository itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Container
from pathlib import Path
from typing import Final

ID: Final = re.compile(r"[0-9a-f]{32}\Z")


class Cache:
    """The copies of one repository. Whatever goes wrong with them, they are only not there."""

    def __init__(self, root: Path, repository: str) -> None:
        # the id comes from the repository: it names a folder only if it looks as ours do
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
        """Keep a copy."""
        if self._root is None:
            return
        path = self._root / key
        temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
        with contextlib.suppress(OSError):
            for folder in (self._root.parent, self._root, path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)

    def evict_unlisted(self, folder: str, listed: Container[str]) -> None:
        """Forget the copies below a folder of what is not listed any more."""
        if self._root is None:
            return
        with contextlib.suppress(OSError):
            for path in sorted((self._root / folder).rglob("*.json")):
                if path.relative_to(self._root).as_posix() not in listed:
                    path.unlink(missing_ok=True)


def cache_directory() -> Path:
    """Return where copies lie: below the user's directory for such things."""
    told = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(told) if Path(told).is_absolute() else Path("~").expanduser() / ".cache"
    return base / "zodb-vault"
