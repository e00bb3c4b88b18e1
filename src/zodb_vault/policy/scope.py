"""What a backup of a database consists of.

The components that are copied, the storage first, and what is left where it is.

A scope follows from the configuration alone; nothing is opened. Each backend says what is special about it;
what is the same for all of them is here.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from ..model.source import Database, masked

OURS: Final = "zodb-vault"
SNAPSHOT: Final = "a dump shows it at one point in time, while the site runs"


class Component(NamedTuple):
    """One component that is copied: ``source`` is where it is, without secrets."""

    what: Literal["storage", "blobs"]
    source: str
    tool: str
    why: str


class Elsewhere(NamedTuple):
    """Why nothing complete can be copied here, and where to run zodb-vault ``instead``."""

    problem: str
    instead: str

    def __str__(self) -> str:
        return f"{self.problem}. {self.instead}"


class Scope(NamedTuple):
    """What is copied of a database, in this order; what is not, each with the reason.

    And where the storage is if it is not here.

    ``portable``: only the portable method can copy it.
    """

    copied: tuple[Component, ...]
    left: tuple[str, ...] = ()
    elsewhere: Elsewhere | None = None
    portable: bool = False

    @property
    def copies_blobs(self) -> bool:
        """Return whether the blobs are a component of their own."""
        return any(component.what == "blobs" for component in self.copied)

    def plus(self, other: Scope) -> Scope:
        """Return the scope with what another one copies and leaves."""
        return self._replace(copied=self.copied + other.copied, left=self.left + other.left)


def portable_scope(location: str, mirror: str) -> Scope:
    """Return the scope of the portable method.

    Storage and blobs at a location are read through ZODB, into a mirror.
    """
    tool, known = f"ZODB, into the mirror {mirror}", "what the mirror has already is not read again"
    storage = f"the transactions are copied one by one as the storage gives them; {known}"
    blobs = f"the storage gives the blob of each record that it has one for; {known}"
    return Scope(
        (Component("storage", location, tool, storage), Component("blobs", location, tool, blobs)),
        portable=True,
    )


def blobs_outside(database: Database, why_directory: str) -> Scope | None:
    """Return the scope of blobs in a directory or in the bucket of ``<s3blobstorage>``.

    None when they are neither.
    """
    if database.blob_mode == "directory":
        why = f"{why_directory}; copied last, because the storage references them"
        return Scope((Component("blobs", database.blob_dir or "", OURS, why),))
    if database.blob_mode == "s3":
        return in_bucket(
            database, "<s3blobstorage> keeps the blobs in this bucket", "s3blobstorage.cache-dir"
        )
    return None


def in_bucket(database: Database, why: str, cache_option: str) -> Scope:
    """Return the scope of blobs that are objects in a bucket, with a cache of them in a directory."""
    why = f"{why}; those that the storage references are copied, last"
    left = []
    if cache := masked(database.options).get(cache_option):
        left.append(f"{cache}: a cache of what is in the bucket")
    if database.blob_dir is not None:
        left.append(f"{database.blob_dir}: new blobs go to the bucket, not to this directory")
    return Scope((Component("blobs", bucket(database), OURS, why),), tuple(left))


def bucket(database: Database) -> str:
    """Return the bucket of a database whose blobs are in S3, with the prefix of its objects."""
    options = masked(database.options)
    keys = (
        ("s3-bucket-name", "s3-prefix")
        if database.blob_mode == "database+s3"
        else ("s3blobstorage.bucket-name", "s3blobstorage.s3-prefix")
    )
    return f"s3://{'/'.join(filter(None, map(options.get, keys)))}"


def shown_server(server: str, database: Database, dsn_option: str | None) -> str:
    """Return the name of a database server with the DSN of an option.

    The DSN is left out when all of it is secret.
    """
    dsn = masked(database.options).get(dsn_option or "", "")
    return server if dsn in ("", "***") else f"{server} {dsn}"
