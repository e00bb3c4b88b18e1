"""The input and the state of the restore of one database: plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from .manifest import DatabaseEntry
from .source import Site


class DatabaseCut(msgspec.Struct, frozen=True):
    """One database of a backup, truncated after the transaction ``last_tid``, which ends at byte ``end``.

    ``dropped`` transactions follow it in the backup. In a dump, a transaction has no position: then ``end``
    is the size of the dump.
    """

    entry: DatabaseEntry
    end: int
    last_tid: str | None
    dropped: int

    @property
    def within(self) -> bool:
        """Return whether this is a dump without its last transactions."""
        return self.entry.dump is not None and self.last_tid != self.entry.last_tid

    @property
    def left_out(self) -> int | None:
        """Return how many transactions of the backup are left out.

        None for a complete dump, where they are not counted.
        """
        return self.dropped if self.entry.data_fs is not None or self.within else None


class RestorePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The last transaction of a restored database, and its numbers of transactions and revisions."""

    tid: str
    transactions: int
    states: int


class DestinationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the user for the destination of a restore.

    ``only``: restore one component of the backup. ``replace``: also replace a database that is not empty.
    ``replace_blobs``: also replace a blob directory of another site, and other objects in a bucket. ``role``:
    the owner of all tables in a database server. ``elsewhere``: the destination belongs to another
    configuration than the backups. ``clients``: the configurations of ZEO clients, whose caches contain the
    replaced state. ``safety_backup``: back up the replaced state first.
    """

    only: Literal["storage", "blobs"] | None = None
    replace: bool = False
    replace_blobs: bool = False
    role: str | None = None
    elsewhere: bool = False
    clients: tuple[Site, ...] = ()
    safety_backup: bool = True
    workers: int = 2


class SpaceNeed(msgspec.Struct, frozen=True):
    """The number of bytes that a restore writes below an existing directory."""

    directory: Path
    size: int


class StaleCache(msgspec.Struct, frozen=True):
    """The caches of a client that contain the replaced state.

    ``files`` are persistent caches of objects. ``blobs`` are cached blobs in ``blob_dir`` that the restored
    state does not have.
    """

    owner: str
    files: list[Path]
    blobs: list[Path]
    blob_dir: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """Return the files to remove."""
        return [*self.files, *self.blobs]


class RemovedCache(msgspec.Struct, frozen=True):
    """Cached files that a restore removed.

    ``blob_cache`` is the directory of blobs, which may be tens of thousands; None for files of another kind.
    """

    paths: list[str]
    blob_cache: str | None = None


class TargetState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the destination of a restore, and what the restore does there.

    ``where`` is the file, directory or database itself. ``location`` is the path in a JSON document, such as
    the directory of a Data.fs. ``content`` is the kind of the storage. ``exists``: a state is replaced;
    ``last_tid`` is its last transaction, and ``lost`` the number of its transactions that the restored state
    does not have (None: not counted). ``unsaved``: no safety backup contains it yet. ``resumed`` is the id of
    the interrupted restore that continues.

    These fields are texts for the user: ``way`` is how the new state is written, ``details`` are other lines
    of the plan, ``missing_caches`` are about caches that are configured and were not found, ``notes`` are
    warnings before the confirmation, ``next_steps`` are what the user has to do after the restore.
    """

    where: str
    location: str
    content: str = "dump"
    blobs: str | None = None
    exists: bool = False
    last_tid: str | None = None
    lost: int | None = None
    unsaved: bool = False
    resumed: str | None = None
    needs: list[SpaceNeed] = []
    more_for_blobs: bool = False
    caches: list[StaleCache] = []
    missing_caches: list[str] = []
    way: str | None = None
    details: list[str] = []
    notes: list[str] = []
    next_steps: list[str] = []


class UnfinishedRestore(msgspec.Struct, frozen=True, kw_only=True):
    """A restore of one database that left a journal next to it.

    ``phase`` is the phase that it reached, ``done`` after its end.
    """

    restore: str
    backup: str
    database: str
    where: str
    phase: str
