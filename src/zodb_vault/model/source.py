"""The databases of a site, as its configuration describes them; no storage is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

import msgspec

Method = Literal["native", "portable", "transactions"]
METHODS: Final[tuple[str, ...]] = get_args(Method)
BlobMode = Literal["directory", "database", "server", "s3", "database+s3", "none"]


# Options that are not from a storage section: the replica that is dumped instead, and its lag in seconds.
REPLICA_DSN, REPLICA_LAG = "replica.dsn", "replica.lag"


class Secret:
    """A text that prints as ``***``; ``shown`` is its harmless part, such as a DSN without the password.

    It is no ``str``, so that it cannot get into a message or a document by accident.
    """

    __slots__ = ("_text", "shown")

    def __init__(self, text: str, shown: str = "***") -> None:
        self._text = text
        self.shown = shown

    def reveal(self) -> str:
        """Return the text itself. Use it only to log in."""
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
    """Return the options with secrets masked, for messages."""
    return {key: value.shown if isinstance(value, Secret) else value for key, value in options.items()}


class Database(msgspec.Struct, frozen=True, kw_only=True):
    """One persistent database of a site.

    ``data_fs`` and ``blob_dir`` are absolute paths; ``blob_dir`` is None when the configuration names none.
    ``dsn_option`` is the option that holds the DSN of a database in PostgreSQL, None for any other database.

    ``options`` are the keys of the storage section. Keys of the storage itself are unchanged (with ``-``).
    Keys of sections inside it and of wrappers around it have the type of their section in front
    (``postgresql.dsn``, ``s3blobstorage.bucket-name``, ``zeo.address``). Several values of one key are joined
    as lines; paths are absolute. With the method ``portable``, ``data_fs`` and ``blob_dir`` are those of the
    mirror; all other fields are those of the mirrored database.
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
        """Return the text of an option, also of a secret one."""
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
    """A configured site: its databases, its configuration file, and the directory of its mirrors."""

    name: str
    config: str | None
    databases: tuple[Database, ...]
    skipped: tuple[Skipped, ...] = ()
    mirror: str | None = None
