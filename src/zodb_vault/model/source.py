"""What a site consists of, as far as a configuration tells; nothing is opened to make one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

Method = Literal["native", "portable", "transactions"]
BlobMode = Literal["directory", "database", "server", "s3", "database+s3", "none"]


# Options that no storage section has: a replica that is dumped instead, and by how many seconds it may lag.
REPLICA_DSN, REPLICA_LAG = "replica.dsn", "replica.lag"


class Secret:
    """A text that prints as ``***``; ``shown`` is what of it may be seen, such as a DSN without its password.

    It is no ``str``, so that it cannot be joined into a message, nor encoded into a document, by accident.
    """

    __slots__ = ("_text", "shown")

    def __init__(self, text: str, shown: str = "***") -> None:
        self._text = text
        self.shown = shown

    def reveal(self) -> str:
        """Return the text itself; only for what has to log in with it."""
        return self._text

    def __str__(self) -> str:
        return "***"

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


Option = str | Secret


def masked(options: Mapping[str, Option]) -> dict[str, str]:
    """Return the options as they may be printed."""
    return {key: value.shown if isinstance(value, Secret) else value for key, value in options.items()}


class Database(msgspec.Struct, frozen=True, kw_only=True):
    """One persistent database of a site.

    ``data_fs`` and ``blob_dir`` are absolute paths; ``blob_dir`` is None when the configuration names none.
    ``dsn_option`` is the option that holds the DSN of a database in PostgreSQL, None for any other database.
    ``options`` holds what the storage section says, for strategies that need it: keys of the storage itself
    as they are (with ``-``), those of sections inside it and of wrappers around it after the section's type
    (``postgresql.dsn``, ``s3blobstorage.bucket-name``, ``zeo.address``), several values of one key as lines,
    paths absolute. With the method ``portable``, ``data_fs`` and ``blob_dir`` are those of a mirror; all else
    is that of what it mirrors.
    """

    name: str
    backend: str
    mount_point: str | None = None
    adapter: str | None = None
    dsn_option: str | None = None
    wrappers: tuple[str, ...] = ()
    data_fs: str | None = None
    blob_dir: str | None = None
    blob_mode: BlobMode = "directory"
    history: bool | None = None
    options: dict[str, Option] = {}
    warnings: tuple[str, ...] = ()
    method: Method = "native"

    def option(self, key: str, default: str = "") -> str:
        """Return the text of an option, a secret revealed."""
        value = self.options.get(key, default)
        return value.reveal() if isinstance(value, Secret) else value

    @property
    def dsn(self) -> str:
        """Return the DSN of a database in PostgreSQL, secrets included."""
        return self.option(self.dsn_option or "")


class Skipped(msgspec.Struct, frozen=True):
    """A database of the configuration that is not backed up, and why."""

    name: str
    why: str


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """One configured thing to back up.

    All its databases, the file that says so, and where mirrors of them may be kept.
    """

    name: str
    config: str | None
    databases: tuple[Database, ...]
    skipped: tuple[Skipped, ...] = ()
    mirror: str | None = None
