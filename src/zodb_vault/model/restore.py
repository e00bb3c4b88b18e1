"""What one database is restored from, what is asked for it, and what was found where it goes: plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from .manifest import DatabaseEntry
from .source import Site


class DatabaseCut(msgspec.Struct, frozen=True):
    """One database of a backup, kept up to the transaction ``last_tid``, which ends at ``end`` (bytes).

    ``dropped`` transactions follow it in the backup. A dump has no position for a transaction: ``end`` is its
    whole size.
    """

    entry: DatabaseEntry
    end: int
    last_tid: str | None
    dropped: int

    @property
    def within(self) -> bool:
        """Tell whether this is a dump of which the last transactions are left out."""
        return self.entry.dump is not None and self.last_tid != self.entry.last_tid

    @property
    def left_out(self) -> int | None:
        """Return how many transactions of the backup are left out.

        None for a whole dump, where nothing counts them.
        """
        return self.dropped if self.entry.data_fs is not None or self.within else None


class RestorePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The last transaction of a restored database, and how many transactions and revisions it has then."""

    tid: str
    transactions: int
    states: int


class DestinationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asks of the place that a database is restored to.

    ``only``: one component of the backup. ``replace``: also a database that is not empty. ``replace_blobs``:
    also a blob directory of another site, and other objects in a bucket. ``role``: the owner of everything in
    a database server. ``elsewhere``: the place belongs to another configuration than the backups.
    ``clients``: the configurations of ZEO clients, whose caches hold the state that is replaced.
    ``safety_backup``: what is replaced is backed up first.
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
    """How many bytes a restore writes below a directory that exists already."""

    directory: Path
    size: int


class StaleCache(msgspec.Struct, frozen=True):
    """What a client keeps of the state that is replaced.

    ``files`` are persistent caches of objects, ``blobs`` the cached blobs that the restored state does not
    have.
    """

    owner: str
    files: list[Path]
    blobs: list[Path]

    @property
    def paths(self) -> list[Path]:
        """Return the files that are removed."""
        return [*self.files, *self.blobs]


class TargetState(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore found at its destination and is going to do there.

    ``where`` is the file, directory or database itself; ``location`` is what a JSON document names, such as
    the directory of a Data.fs. ``content`` is what its storage consists of. ``exists``: something is
    replaced, ``last_tid`` is its last transaction, and ``lost`` the number of its transactions that the
    restored state does not have (None: not counted). ``unsaved``: no safety backup holds it yet. ``resumed``
    is the id of an interrupted restore that goes on.

    Only for people: ``way`` says how the new state gets there, ``details`` what else the plan says, ``notes``
    what to know before the restore is agreed to, ``next_steps`` what has to be done after it.
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
    way: str | None = None
    details: list[str] = []
    notes: list[str] = []
    next_steps: list[str] = []


class UnfinishedRestore(msgspec.Struct, frozen=True, kw_only=True):
    """A restore of one database that left a note beside it.

    ``phase`` is how far it came, ``done`` after its end.
    """

    restore: str
    backup: str
    database: str
    where: str
    phase: str
