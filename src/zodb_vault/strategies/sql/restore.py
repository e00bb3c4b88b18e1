"""Restore a dump into its database: blobs first, then the database in one step of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ...blobs.refs import BlobSet
from ...errors import TargetRefused
from ...model.chain import log_of
from ...model.manifest import DatabaseEntry
from ...model.restore import (
    DestinationOptions,
    RemovedCache,
    RestorePoint,
    SpaceNeed,
    TargetState,
    UnfinishedRestore,
)
from ...model.source import Database
from ...runtime.ownership import existing_directory, require_owner
from ..base import Sink
from ..blobs.directory_restore import DirectoryBlobs, layout_for
from ..blobs.restore import BlobsJob, BlobTarget, add_packed_blobs, require_all
from ..blobs.s3 import BlobBucket
from ..blobs.s3_restore import BucketBlobs
from ..destination import (
    DatabaseRestore,
    Destination,
    PlannedRestore,
    PreflightFinding,
    RestoreContext,
    RestoreSource,
    finding_of,
    require_met,
)
from .history import point_at
from .local_caches import LocalCache, missing, remove_local_cache


class LoadRequest(NamedTuple):
    """A dump that is to be loaded.

    With a ``point``, what is later than that is removed before the database is valid.

    ``replace``: also into a database that is not empty. ``role``: the future owner of everything, None for
    the usual one.
    """

    entry: DatabaseEntry
    objects: Sink
    point: RestorePoint | None = None
    replace: bool = False
    role: str | None = None


class DumpLoad:
    """A dump on its way into a database, with a connection to it."""

    def build(self) -> None:
        """Load the dump beside what is there, where the server can do that.

        Raise Damage, InUse, TargetRefused.
        """

    def make_valid(self) -> list[str]:
        """Make the restored state valid in one step, and return what was kept of the old one.

        Raise Damage, InUse, TargetRefused: the old state is whole then.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Remove what was built and is not valid, and close the connection."""


class PlannedLoad(NamedTuple):
    """What was found in a database, and how a dump gets there; ``way`` and ``notes`` are for people.

    ``begin`` logs in again, and returns the dump on its way.
    """

    exists: bool
    way: str
    begin: Callable[[RestoreContext], DumpLoad]
    last_tid: str | None = None
    notes: list[str] = []


@dataclass(frozen=True, kw_only=True)
class DumpTarget:
    """What a destination needs of one database of a site.

    ``location`` is how messages call it. ``plan`` logs in and looks; it raises InUse, and TargetRefused when
    the database is not empty and is not to be replaced. ``preflight`` yields what a load needs, also while
    the site runs; None: of any backup. ``bucket`` is where the blobs of a backup go when they are in S3, and
    ``blob_option`` is what would name a place for blobs in zope.conf. ``files`` are those of a database that
    is not in a server.
    """

    location: str
    plan: Callable[[LoadRequest], PlannedLoad]
    preflight: Callable[[LoadRequest | None], Iterable[PreflightFinding]]
    bucket: Callable[[RestoreSource], BlobBucket]
    blob_option: str
    caches: tuple[LocalCache, ...] = ()
    files: tuple[Path, ...] = ()


class DumpDestination(Destination):
    """A database that dumps are loaded into; see ``Destination``.

    It is either old or new, so nothing resumes.
    """

    def __init__(self, database: Database, options: DestinationOptions, target: DumpTarget) -> None:
        self._database, self._options, self._target = database, options, target

    @property
    def where(self) -> str:
        """Return which database it is."""
        return self._target.location

    def preflight(self, source: RestoreSource | None) -> Iterator[PreflightFinding]:
        """Yield whether there is a place for the blobs, and what the database needs for a load."""
        yield from self._blob_findings(source)
        if self._options.only != "blobs":
            yield from self._target.preflight(self._request(source) if source else None)

    def _blob_findings(self, source: RestoreSource | None) -> Iterator[PreflightFinding]:
        if source is not None:
            has_content = partial(self._require_content, source.entry)
            yield finding_of("the newest backup has storage and blobs of this kind", has_content)
            has_place = partial(self._blobs_of, source)
            yield finding_of("the site has a place for the blobs of the newest backup", has_place)
        if (blob_dir := self._blob_dir()) is not None and self._options.only != "storage":
            writable = partial(require_owner, blob_dir, ours=False)
            yield finding_of("blobs can be written there with their owner and group", writable)

    def _request(self, source: RestoreSource) -> LoadRequest:
        return LoadRequest(
            source.entry,
            source.objects,
            _point_of(source),
            replace=self._options.replace,
            role=self._options.role,
        )

    def present_size(self) -> int:
        """Return the size of the files of a database that is not in a server."""
        return sum(path.stat().st_size for path in self._target.files if path.exists())

    def space(self, storage: int, blobs: int) -> list[SpaceNeed]:
        """Return the space for new files beside the old ones, and for a new blob directory."""
        directories = [(path.parent, storage) for path in self._target.files[:1]]
        blob_dir = self._blob_dir()
        if blob_dir is not None and not blob_dir.exists() and self._options.only != "storage":
            directories.append((blob_dir.parent, blobs))
        return [SpaceNeed(existing_directory(directory), size) for directory, size in directories]

    def _blob_dir(self) -> Path | None:
        """Return the directory that holds all blobs, None where they are elsewhere."""
        in_directory = self._database.blob_mode == "directory" and self._database.blob_dir
        return Path(in_directory) if in_directory else None

    def inspect(self, source: RestoreSource, unfinished: Collection[UnfinishedRestore]) -> PlannedRestore:
        """Look into the database, unless only blobs are restored."""
        require_met(self._blob_findings(source))
        blobs = self._blobs_of(source)
        load = self._target.plan(self._request(source)) if self._options.only != "blobs" else None
        state = self._state(source, load, blobs)
        return PlannedRestore(state, partial(self._begin, source, load, blobs))

    def _begin(
        self,
        source: RestoreSource,
        load: PlannedLoad | None,
        blobs: BlobTarget | None,
        context: RestoreContext,
    ) -> DatabaseRestore:
        job = BlobsJob(source, context, self._options.workers)
        replaces = load is not None and load.exists
        return DumpRestore(job, blobs, load.begin(context) if load else None, self._target, replaces=replaces)

    def _require_content(self, entry: DatabaseEntry) -> None:
        if self._options.only != "blobs" and entry.dump is None:
            raise TargetRefused(
                f"the backup holds no storage of {entry.name}, only blobs", "`--only blobs` restores these"
            )
        if self._database.backend != entry.backend:
            raise TargetRefused(
                f"the backup of {entry.name} is one of {entry.backend}, the site has "
                f"{self._database.backend}",
                "restore with --output DIR",
            )

    def _blobs_of(self, source: RestoreSource) -> BlobTarget | None:
        """Return where blobs outside of the dump go.

        Raise TargetRefused when the site has no place for them.
        """
        entry, database = source.entry, self._database
        if self._options.only == "storage" or entry.blobs is None or not entry.blobs.count:
            return None
        if "s3" in database.blob_mode:
            return BucketBlobs(self._target.bucket(source), replace=self._options.replace_blobs)
        if (blob_dir := self._blob_dir()) is not None:
            return DirectoryBlobs(blob_dir, layout_for(blob_dir, entry.layout))
        raise TargetRefused(
            f"the site has no place for the blobs of {entry.name}",
            f"configure {self._target.blob_option}, or use --only storage",
        )

    def _state(
        self, source: RestoreSource, load: PlannedLoad | None, blobs: BlobTarget | None
    ) -> TargetState:
        where = self.where if load or blobs is None else blobs.where
        warning = blobs.shared_by() if blobs and self._options.elsewhere else None
        return TargetState(
            where=where,
            location=where,
            blobs=blobs.where if blobs else None,
            exists=load is not None and load.exists,
            last_tid=load.last_tid if load else None,
            # what is replaced in another site is no state of the one whose backups these are
            unsaved=load is not None and load.exists and not self._options.elsewhere,
            missing_caches=self._missing_caches(load),
            way=load.way if load else None,
            details=[f"blobs to {blobs.where}"] if blobs else [],
            needs=self._needs(source.entry),
            notes=[*([warning] if warning else []), *(load.notes if load else [])],
        )

    def _needs(self, entry: DatabaseEntry) -> list[SpaceNeed]:
        size = entry.dump.size if entry.dump and self._options.only != "blobs" else 0
        return self.space(size, entry.blobs.size if entry.blobs else 0)

    def _missing_caches(self, load: PlannedLoad | None) -> list[str]:
        """Return a sentence about each cache of the replaced state that was not found.

        The new database of a new site has none yet.
        """
        if load is None or not load.exists:
            return []
        return [text for cache in self._target.caches for text in missing(cache)]


def _point_of(source: RestoreSource) -> RestorePoint | None:
    """Return what the database has at the restored state, None when that is the last one of the backup."""
    cut = source.cut
    if not cut.within or not cut.last_tid:
        return None
    return point_at(log_of(cut.entry, source.objects), source.objects, cut.last_tid)


class DumpRestore(DatabaseRestore):
    """The restore of one database from a dump; ``load`` is None when only blobs are restored."""

    def __init__(
        self,
        job: BlobsJob,
        blobs: BlobTarget | None,
        load: DumpLoad | None,
        target: DumpTarget,
        *,
        replaces: bool,
    ) -> None:
        super().__init__()
        self._job, self._blobs, self._load, self._target = job, blobs, load, target
        self._replaces = replaces

    def build(self) -> None:
        """Put the blobs in place, then load the dump beside what is there."""
        if self._blobs is not None:
            self._place_blobs(self._blobs)
        if self._load is not None:
            self._load.build()

    def _place_blobs(self, blobs: BlobTarget) -> None:
        with contextlib.closing(BlobSet()) as refs:
            add_packed_blobs(self._job.source, refs)
            self.notes += blobs.restore(self._job, refs)
            self.notes += require_all(self._job.source, refs)
        if self._replaces:
            self.notes += blobs.left_in_place()
        self.kept += blobs.settle(self._job.kept_name)

    def remove_caches(self) -> list[RemovedCache]:
        """Remove the persistent caches of this machine."""
        found = []
        for cache in self._target.caches if self._load is not None else ():
            removed = remove_local_cache(cache)
            found.append(RemovedCache(removed.paths))
            self.notes += removed.notes
        return found

    def make_valid(self) -> None:
        """Let the loaded state take the place of the old one."""
        if self._load is None:
            return
        self.kept += self._load.make_valid()
        self.notes.append(
            f"restart every process that had {self._target.location} open: one that keeps running shows "
            "the old state "
            "without an error"
        )

    def close(self) -> None:
        """Close the connection, and remove what is not valid."""
        if self._load is not None:
            self._load.close()
