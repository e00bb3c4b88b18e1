"""The files of a repository that never change, and what every file has to be to be read.

A file is refused when its bytes do not have their digest, when it does not have the expected form, or when it
requires something that this installation does not have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any, Final

from ..errors import BackupMissing, Damage, KeyMissing, UnsupportedRepository
from ..model import canonical
from ..model.manifest import FORMAT, Label, Manifest
from ..stores.base import Store
from .cache import Cache
from .encryption import FEATURE, require_installed

# ``dump``: a storage component may be the dump of a database server. ``deltas``: a dump may have deltas.
# ``files``: a backend of another package may store files. ``age``: content is encrypted.
KNOWN_REQUIREMENTS: Final[frozenset[str]] = frozenset({"dump", "deltas", "files", FEATURE})


def decode_document(data: bytes, key: str) -> dict[str, Any]:
    """Return a JSON file with all its keys, also those that this version does not know; raise Damage."""
    return canonical.decode(data, dict[str, Any], key)


def require_known(document: dict[str, Any], what: str) -> None:
    """Raise UnsupportedRepository unless this installation knows the format and all requirements."""
    version, requires = document.get("format"), document.get("requires") or []
    if not isinstance(version, int) or version > FORMAT:
        raise UnsupportedRepository(
            f"{what} has format {version}, this version reads format {FORMAT} at most",
            "install a newer zodb-vault",
        )
    unknown = sorted(set(requires) - KNOWN_REQUIREMENTS)
    if unknown:
        raise UnsupportedRepository(
            f"{what} requires {', '.join(unknown)}, which this installation does not have",
            "install a newer zodb-vault, or the extra that provides it",
        )
    if FEATURE in requires:
        require_installed(what)


class ImmutableFiles:
    """Manifests and labels: written once, with a digest in them, and read through a local cache if any.

    The cache is set only by commands that do not verify, restore or delete.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.cache: Cache | None = None

    def write(self, key: str, document: Manifest | Label) -> None:
        """Store a document under a new key; raise KeyExists."""
        data = canonical.with_digest(document)
        self.store.put(key, [data])
        if self.cache:
            self.cache.put(key, data)

    def read(self, key: str) -> bytes:
        """Return the checked bytes of a file; raise KeyMissing or Damage."""
        if self.cache is None:
            return canonical.check_digest(self.store.get(key), key)
        with contextlib.suppress(Damage):
            if (copy := self.cache.get(key)) is not None:
                return canonical.check_digest(copy, key)
        data = canonical.check_digest(self.store.get(key), key)
        self.cache.put(key, data)
        return data

    def evict_unlisted(self, folder: str, listed: Collection[str]) -> None:
        """Remove the local copies below a folder whose keys are no longer listed."""
        if self.cache:
            self.cache.evict_unlisted(folder, set(listed))

    def read_manifest(self, key: str, site: str, backup: str) -> bytes:
        """Return the checked bytes of a manifest; with a key in the trash, that of a deleted backup.

        Raise BackupMissing, Damage or UnsupportedRepository.
        """
        try:
            data = self.read(key)
        except KeyMissing:
            raise BackupMissing(
                f"there is no backup {backup} of the site {site}", "`zodb-vault list` shows all backups"
            ) from None
        require_known(decode_document(data, key), f"the backup {backup}")
        return data
