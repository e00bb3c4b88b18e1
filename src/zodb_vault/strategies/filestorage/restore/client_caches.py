"""Find and remove what ZEO clients keep of a state that a restore leaves behind.

A client whose cache is from before the restore is refused by the server only as long as the server has no newer transaction than
the cache. Afterwards it is taken for up to date, and objects of the lost future are mixed with restored ones.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from ....errors import InUse, UsageError
from ....model.source import Database, Site
from ...zeoclient.backend import is_client, persistent_caches
from ..zeo import is_served

LOCK: Final = ".lock"
# zeocache: <oid % 997>/<oid // 997>.<tid>.blob
BUCKET: Final = re.compile(r"\d+")
CACHED: Final = re.compile(r"\d+\.([0-9a-f]{16})\.blob")


class Left(msgspec.Struct, frozen=True):
    """One database that is put back: transactions later than ``after`` are not in its restored state (None: no transaction is)."""

    database: Database
    after: str | None


class Cache(msgspec.Struct, frozen=True):
    """What one client keeps of one database: persistent caches of objects, and the cached blobs that the restored state does not know."""

    client: str
    objects: list[Path]
    blobs: list[Path]
    notes: list[str]

    @property
    def paths(self) -> list[Path]:
        """Return the files that have to go."""
        return [*self.objects, *self.blobs]


def stale_caches(clients: Sequence[Site], left: Sequence[Left]) -> list[Cache]:
    """Return what has to go; raise UsageError for a configuration that is none of a ZEO client."""
    found: list[Cache] = []
    for client in clients:
        databases = [database for database in client.databases if is_client(database)]
        if not databases:
            raise UsageError(
                f"{client.config} has no ZEO client in it",
                "name the zope.conf of a client of this server with --client-conf",
            )
        for database in databases:
            found += [_cache(client, database, one) for one in left if _is_of(database, one.database, left)]
    return found


def _is_of(client: Database, served: Database, left: Sequence[Left]) -> bool:
    """Tell whether a client's database is one that is put back; a site that is no zeo.conf does not say what its storages are called."""
    return client.option("storage", "1") == served.name if is_served(served) else len(left) == 1


def _cache(client: Site, database: Database, left: Left) -> Cache:
    objects, notes = list[Path](), list[str]()
    for path in map(Path, persistent_caches(database)):
        if path.is_absolute():
            objects += [one for one in (path, Path(f"{path}{LOCK}")) if one.exists()]
        else:
            notes.append(
                f"{client.config} keeps {path.name} in the working directory of its process, which it does not say: remove it there"
            )
    blob_dir = Path(database.blob_dir) if database.blob_dir and database.blob_mode == "server" else None
    return Cache(
        str(client.config), objects, sorted(_later_blobs(blob_dir, left.after)) if blob_dir else [], notes
    )


def _later_blobs(blob_dir: Path, after: str | None) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        for bucket in (
            entry for entry in os.scandir(blob_dir) if BUCKET.fullmatch(entry.name) and entry.is_dir()
        ):
            for entry in os.scandir(bucket.path):
                match = CACHED.fullmatch(entry.name)
                if match and (after is None or f"0x{match[1]}" > after):
                    yield Path(entry.path)


def require_unused(caches: Sequence[Cache]) -> None:
    """Raise InUse when a client has one of the caches open: it would go on with what it has in memory."""
    import zc.lockfile

    for lock in (path for cache in caches for path in cache.objects if path.name.endswith(LOCK)):
        try:
            zc.lockfile.LockFile(str(lock)).close()
        except zc.lockfile.LockError:
            client = _client_of(caches, lock)
            raise InUse(
                f"the ZEO client of {client} is running: it holds {lock}",
                "stop every client of the server first",
            ) from None


def _client_of(caches: Sequence[Cache], path: Path) -> str:
    return next(cache.client for cache in caches if path in cache.objects)


def remove_caches(caches: Sequence[Cache]) -> list[str]:
    """Remove the files, and return those that were there."""
    removed = []
    for path in dict.fromkeys(path for cache in caches for path in cache.paths):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            removed.append(str(path))
    return removed
