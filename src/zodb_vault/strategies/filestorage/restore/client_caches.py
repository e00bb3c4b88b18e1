"""Find and remove the caches of ZEO clients that hold the state which a restore replaces.

A server refuses a client whose cache is newer than the server itself. But as soon as the server has a newer
transaction, such a client counts as current. It then mixes discarded objects with restored ones.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ....errors import InUse, UsageError
from ....model.restore import RemovedCache, StaleCache
from ....model.source import Database, Site
from ...zeoclient.backend import is_client, persistent_caches
from ..zeo import is_served

LOCK: Final = ".lock"
# The blob cache of a ZEO client has the files <oid % 997>/<oid // 997>.<tid>.blob (ZEO/ClientStorage.py).
BUCKET: Final = re.compile(r"\d+")
CACHED: Final = re.compile(r"\d+\.([0-9a-f]{16})\.blob")


class ClientCaches(NamedTuple):
    """The caches that have to be removed, and sentences about those that were not found."""

    stale: list[StaleCache]
    missing: list[str]


def caches_of(
    clients: Sequence[Site], database: Database, after: str | None, removed: Collection[str], *, alone: bool
) -> ClientCaches:
    """Return the caches of clients that may hold transactions which the restored database does not have.

    These are transactions with a TID later than ``after``, or all transactions when it is None. ``removed``
    are the files that an interrupted run of this restore has removed. ``alone`` tells that no other database
    is restored. Raise UsageError for a configuration without a ZEO client.
    """
    found = ClientCaches([], [])
    for client in clients:
        databases = [one for one in client.databases if is_client(one)]
        if not databases:
            raise UsageError(
                f"{client.config} configures no ZEO client",
                "name the zope.conf of a client of this server with --client-conf",
            )
        for one in databases:
            if _is_of(one, database, alone=alone):
                _add_caches(found, client, one, after, removed)
    return found


def _is_of(client: Database, served: Database, *, alone: bool) -> bool:
    """Tell whether a client's database is the database that is restored.

    Only a zeo.conf tells the names of its storages. For any other site, the only restored database is taken.
    """
    return client.option("storage", "1") == served.name if is_served(served) else alone


def _add_caches(
    found: ClientCaches, client: Site, database: Database, after: str | None, removed: Collection[str]
) -> None:
    files = []
    for path in map(Path, persistent_caches(database)):
        if not path.is_absolute():
            found.missing.append(
                f"a process with {client.config} keeps {path} in its working directory, which is not in "
                "the configuration: remove the file there"
            )
            continue
        files += [one for one in (path, Path(f"{path}{LOCK}")) if os.path.exists(one)]
        if path not in files and str(path) not in removed:
            found.missing.append(f"the cache {path} of the ZEO client {client.config} was not found")
    blob_dir = Path(database.blob_dir) if database.blob_dir and database.blob_mode == "server" else None
    blobs = sorted(_later_blobs(blob_dir, after)) if blob_dir else []
    if blob_dir and not os.path.isdir(blob_dir):
        found.missing.append(f"the blob cache {blob_dir} of the ZEO client {client.config} was not found")
    found.stale.append(StaleCache(f"the ZEO client {client.config}", files, blobs, blob_dir))


def _later_blobs(blob_dir: Path, after: str | None) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        for bucket in os.scandir(blob_dir):
            if not BUCKET.fullmatch(bucket.name) or not bucket.is_dir():
                continue
            for entry in os.scandir(bucket.path):
                match = CACHED.fullmatch(entry.name)
                if match and (after is None or f"0x{match[1]}" > after):
                    yield Path(entry.path)


def require_unused(caches: Sequence[StaleCache]) -> None:
    """Raise InUse when a client has one of the caches open: it would go on with the objects in its memory."""
    import zc.lockfile

    for cache in caches:
        for lock in (path for path in cache.files if path.name.endswith(LOCK)):
            try:
                zc.lockfile.LockFile(str(lock)).close()
            except zc.lockfile.LockError:
                raise InUse(
                    f"{cache.owner} is running: it holds {lock}", "stop every client of the server first"
                ) from None


def remove_caches(caches: Sequence[StaleCache]) -> list[RemovedCache]:
    """Remove the files, and return those that existed."""
    removed = []
    for cache in caches:
        removed.append(RemovedCache(_remove(cache.files)))
        blob_cache = str(cache.blob_dir) if cache.blob_dir else None
        removed.append(RemovedCache(_remove(cache.blobs), blob_cache))
    return [one for one in removed if one.paths]


def _remove(paths: Sequence[Path]) -> list[str]:
    """Remove files, and return the paths of those that existed: two clients may share a cache."""
    removed = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            removed.append(str(path))
    return removed
