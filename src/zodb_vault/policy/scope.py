"""Decide which halves of a database are copied, from where, with which tool and why, and what is left where it is.

This is the table of backends and blob modes: the storage half first, the blobs last. It goes by what is configured; nothing is
opened or looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from ..model.source import Database, masked

HIDDEN = "***"
OURS = "zodb-vault"


class Component(NamedTuple):
    """One half that is copied: ``source`` is where it lies, as it may be shown."""

    what: Literal["storage", "blobs"]
    source: str
    tool: str
    why: str


class Scope(NamedTuple):
    """What is copied of a database, in this order; what is not, each with the reason; and, if the storage is elsewhere, where."""

    copied: tuple[Component, ...]
    left: tuple[str, ...] = ()
    elsewhere: str | None = None
    portable: bool = False

    @property
    def copies_blobs(self) -> bool:
        """Tell whether the blobs are a half of their own."""
        return any(half.what == "blobs" for half in self.copied)


def scope_of(database: Database) -> Scope:
    """Return what a backup of a database consists of."""
    storage = STORAGES.get(database.backend, _unknown)(database)
    blobs = _blobs(database)
    return storage._replace(copied=storage.copied + blobs.copied, left=storage.left + blobs.left)


def portable_scope(database: Database, mirror: str) -> Scope:
    """Return what a backup by the portable method consists of: whatever the storage is, all of it goes through ZODB."""
    tool, known = f"ZODB, into the mirror {mirror}", "what the mirror has already is not asked for again"
    return Scope(
        (
            Component(
                "storage",
                storage_location(database),
                tool,
                f"the transactions are copied one by one as the storage gives them; {known}",
            ),
            Component(
                "blobs",
                storage_location(database),
                tool,
                f"the storage gives the blob of each record that it has one for; {known}",
            ),
        ),
        portable=True,
    )


def storage_location(database: Database) -> str:
    """Return how messages call where the storage of a database is, no password in it."""
    if database.backend == "filestorage":
        return masked(database.options).get("path") or str(
            database.data_fs
        )  # of a mirror, data_fs is its own
    if database.backend == "zeo":
        return f"storage {masked(database.options).get('storage', '1')} of the ZEO server {' or '.join(_lines(database, 'server'))}"
    return _place(database)


# The storage


def _filestorage(database: Database) -> Scope:
    why = "a FileStorage keeps all its transactions in this file; the finished ones are read while the site runs"
    return Scope((Component("storage", database.data_fs or "", OURS, why),))


def _relstorage(database: Database) -> Scope:
    source, options = _place(database), masked(database.options)
    why, cache = f"RelStorage keeps its objects in this database; {SNAPSHOT}", options.get("cache-local-dir")
    left = (f"{cache}: cache-local-dir is a cache of objects that are in the database",) if cache else ()
    if database.adapter == "oracle":
        why = "Oracle has no dump that could be restored everywhere: its transactions are copied one by one into a FileStorage"
    return Scope(
        (Component("storage", source, DUMPS.get(database.adapter or "", OURS), why),),
        left,
        portable=database.adapter == "oracle",
    )


def _pgjsonb(database: Database) -> Scope:
    return Scope(
        (
            Component(
                "storage",
                _place(database),
                "pg_dump",
                f"zodb-pgjsonb keeps its objects in this database; {SNAPSHOT}",
            ),
        )
    )


def _zeo(database: Database) -> Scope:
    servers = " or ".join(_lines(database, "server")) or "the server"
    left = tuple(f"{path}: the persistent cache of this client" for path in client_caches(database))
    here = "only a half of it" if database.blob_mode in ("directory", "s3") else "nothing authoritative"
    there = (
        WRAPPED_SERVER
        if database.blob_mode == "s3"
        else "with --zeo-conf and the zeo.conf it runs with, or with --data-fs and --blob-dir"
    )
    elsewhere = (
        f"{here} is here: this is a client of the ZEO server {servers}, which keeps the storage. "
        f"Run zodb-vault on that server, {there}; or copy the database through the connection, with --method portable"
    )
    return Scope((), left, elsewhere)


def client_caches(database: Database) -> list[str]:
    """Return the file of the persistent cache as ZEO names it, if the client has one; relative where only its process knows the directory."""
    options = masked(database.options)
    if client := options.get("client"):
        return [f"{options.get('var', '.')}/{client}-{options.get('storage', '1')}.zec"]
    return [path for path in [options.get("cache-path")] if path]


def _unknown(database: Database) -> Scope:
    return Scope((), (f"the storage: nothing here knows how {database.backend} is copied",))


WRAPPED_SERVER = "with --zope-conf and a file that has this <s3blobstorage> around the <filestorage> of the server's zeo.conf, for zodb-vault alone"
SNAPSHOT = "a dump shows it as it is at one moment, while the site runs"
STORAGES = {"filestorage": _filestorage, "relstorage": _relstorage, "pgjsonb": _pgjsonb, "zeo": _zeo}
DUMPS = {"postgresql": "pg_dump", "sqlite3": "sqlite3", "mysql": "mariadb-dump", "oracle": "zodb-convert"}


def _place(database: Database) -> str:
    """Return how messages call a database in a database server, no password in it."""
    options = masked(database.options)
    if database.adapter == "sqlite3":
        return options.get("sqlite3.data-dir", "")
    if database.adapter == "mysql":
        host = options.get("mysql.unix_socket") or options.get("mysql.host") or "localhost"
        return f"MySQL {options.get('mysql.db', '')} at {host}{f':{port}' if (port := options.get('mysql.port')) else ''}"
    dsn = options.get("dsn" if database.backend == "pgjsonb" else f"{database.adapter}.dsn", "")
    name = {"postgresql": "PostgreSQL", "oracle": "Oracle"}.get(database.adapter or "", "the database")
    return name if dsn in ("", HIDDEN) else f"{name} {dsn}"


# The blobs


def _blobs(database: Database) -> Scope:
    return BLOBS.get(database.blob_mode, _no_blobs)(database)


def _directory(database: Database) -> Scope:
    if database.backend == "filestorage":
        why = "the blobs of a FileStorage are in this directory, and nowhere else"
    else:
        why = "shared-blob-dir is on: the blobs are in this directory, and nowhere else"
    return Scope(
        (
            Component(
                "blobs",
                database.blob_dir or "",
                OURS,
                f"{why}; copied last, since the storage half refers to them",
            ),
        )
    )


def _in_database(database: Database) -> Scope:
    if database.backend == "pgjsonb":
        return Scope(
            (),
            (
                f"{_cache(database, 'blob-cache-dir')}zodb-pgjsonb keeps blobs in rows of the database, so they are in its dump",
            ),
        )
    off = (
        "shared-blob-dir is off, so this directory is a cache: the blobs are in the database, and in its dump"
    )
    return Scope((), (f"{database.blob_dir}: {off}",))


def _at_server(database: Database) -> Scope:
    if database.blob_dir is None:
        return Scope((), ("blobs: this client has no blob-dir",))
    return Scope(
        (),
        (
            f"{database.blob_dir}: shared-blob-dir is off, so this directory is a cache: the blobs are at the server",
        ),
    )


def _in_bucket(database: Database) -> Scope:
    """Return the objects of the wrapper's bucket, or of the bucket that zodb-pgjsonb puts its large blobs into."""
    tiered = database.blob_mode == "database+s3"
    why = (
        "small blobs are in the dump, large ones are objects in this bucket"
        if tiered
        else "<s3blobstorage> keeps the blobs in this bucket"
    )
    half = Component(
        "blobs", bucket(database), OURS, f"{why}; those that the storage half refers to are copied, last"
    )
    cache = _cache(database, "blob-cache-dir" if tiered else "s3blobstorage.cache-dir")
    left = [f"{cache}a cache of what is in the bucket"] if cache else []
    if database.blob_dir is not None:
        left.append(f"{database.blob_dir}: new blobs go to the bucket, not to this directory")
    return Scope((half,), tuple(left))


def bucket(database: Database) -> str:
    """Return the bucket of a database whose blobs are in S3, with the prefix of its objects."""
    options = masked(database.options)
    keys = (
        ("s3-bucket-name", "s3-prefix")
        if database.blob_mode == "database+s3"
        else ("s3blobstorage.bucket-name", "s3blobstorage.s3-prefix")
    )
    return f"s3://{'/'.join(filter(None, map(options.get, keys)))}"


def _no_blobs(database: Database) -> Scope:
    if database.backend == "filestorage":
        return Scope(
            (),
            (
                "blobs: no blob directory is configured; if the storage refers to any after all, a backup is refused",
            ),
        )
    return Scope(
        (), ("blobs: no blob-dir is configured; those in the database, if there are any, are in its dump",)
    )


BLOBS = {
    "directory": _directory,
    "database": _in_database,
    "database+s3": _in_bucket,
    "s3": _in_bucket,
    "server": _at_server,
    "none": _no_blobs,
}


def _cache(database: Database, key: str) -> str:
    """Return the beginning of a sentence about a cache directory, empty when none is configured."""
    directory = masked(database.options).get(key)
    return f"{directory}: " if directory else ""


def _lines(database: Database, key: str) -> list[str]:
    options: Mapping[str, str] = masked(database.options)
    return [line for line in options.get(key, "").split("\n") if line]
