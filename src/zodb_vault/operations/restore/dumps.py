"""Restore dumps: blobs first, then the database in one step, or everything into a directory as files that other programs take."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from ...blobs.layout import MARKER, detect
from ...blobs.packs import member_ref, pack_members
from ...blobs.refs import BlobSet
from ...errors import Damage, TargetRefused
from ...model.blob import BlobRef
from ...model.chain import files_of, log_of, packs_of
from ...model.manifest import DatabaseEntry
from ...model.source import Database
from ...repository.objects import Objects
from ...runtime import durable
from ...runtime.durable import sync_file_system
from ...runtime.ownership import make_directories_like_parent, ownership_in
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ...strategies.base import RestorePoint, TargetState
from ...strategies.blobs.directory_restore import BlobDirectoryWriter
from ...strategies.blobs.kept import KEPT_PREFIX, KeptFiles
from ...strategies.blobs.s3 import BlobBucket
from ...strategies.blobs.s3_restore import S3BlobWriter
from ...strategies.filestorage.restore.phases import write_marker
from ...strategies.registry import backend_of
from ...strategies.sql.history import point_at
from . import output_marker
from .output_marker import Begun
from .targets import DatabaseCut

CACHES: Final = "relstorage-cache*"
CACHED_BLOBS: Final = "[0-9a-f]*/[0-9a-f]*.blob"


class DumpStep(msgspec.Struct, frozen=True):
    """One dump of a plan: where it goes, database or directory, and its blobs, if not into it; what is there now; where it is cut."""

    cut: DatabaseCut
    database: Database | None
    directory: Path | None
    blob_dir: Path | None
    seen: TargetState | None
    bucket: BlobBucket | None = None
    point: RestorePoint | None = None

    @property
    def blobs(self) -> str | None:
        """Return where the blobs go, None when they are in the dump."""
        return self.bucket.root if self.bucket else str(self.blob_dir) if self.blob_dir else None

    @property
    def where(self) -> str:
        """Return where it goes."""
        return str(self.directory) if self.directory else self.seen.where if self.seen else str(self.blobs)

    @property
    def replaces(self) -> bool:
        """Tell whether there is something in place."""
        return self.seen is not None and not self.seen.empty


class DumpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What of a restore of a backup is a matter of dumps: ``replace`` what is there, load as another ``role``, ``exchange`` objects in S3."""

    backup: str = ""
    replace: bool = False
    exchange: bool = False
    role: str | None = None
    only: str | None = None
    workers: int = 2


def plan_dump(
    cut: DatabaseCut, database: Database | None, directory: Path | None, documents: Objects, how: DumpOptions
) -> DumpStep:
    """Look at where a dump is to go; raise whatever stands against it, change nothing."""
    entry = cut.entry
    point = (
        point_at(log_of(entry, documents), documents, cut.last_tid) if cut.within and cut.last_tid else None
    )
    if how.only != "blobs" and entry.dump is None:
        raise TargetRefused(
            f"the backup holds no storage of {entry.name}, only blobs", "`--only blobs` restores these"
        )
    files = how.only != "storage" and entry.blobs is not None and entry.blobs.count > 0
    if directory is not None:
        if point is not None and how.only != "blobs":
            raise TargetRefused(
                f"the files of a dump are of its last transaction, {entry.last_tid}: nothing of {entry.name} can be taken away in a directory",
                "restore into a database: an empty one that another zope.conf names, with --target FILE",
            )
        output_marker.is_begun(directory, begun_by(cut, how))
        return DumpStep(cut, None, directory, directory / "blobs" if files else None, None, point=point)
    assert database is not None
    if database.backend != entry.backend:
        raise TargetRefused(
            f"the backup of {entry.name} is one of {entry.backend}, the site has {database.backend}",
            "restore with --output DIR",
        )
    blob_dir = (
        Path(database.blob_dir) if files and database.blob_mode == "directory" and database.blob_dir else None
    )
    bucket = (
        backend_of(database).bucket_to_fill(database, entry, documents)
        if files and "s3" in database.blob_mode
        else None
    )
    if files and blob_dir is None and bucket is None:
        wanted = "s3-bucket-name" if entry.blob_mode == "database+s3" else "shared-blob-dir"
        raise TargetRefused(
            f"the site has no place for the blobs of {entry.name}",
            f"configure {wanted}, or use --only storage",
        )
    if how.only == "blobs":
        return DumpStep(cut, database, None, blob_dir, None, bucket, point)
    with contextlib.closing(backend_of(database).destination(database, how.role)) as destination:
        return DumpStep(
            cut,
            database,
            None,
            blob_dir,
            destination.look(entry, replace=how.replace, point=point),
            bucket,
            point,
        )


def begun_by(cut: DatabaseCut, how: DumpOptions) -> Begun:
    """Return what tells a restore into a directory from others."""
    return Begun(backup=how.backup, database=cut.entry.name, last_tid=cut.last_tid, only=how.only)


class Dumps:
    """Carries the steps out; ``kept`` is what was replaced, ``caches`` what was removed."""

    def __init__(
        self,
        objects: Objects,
        steps: list[DumpStep],
        how: DumpOptions,
        restore_id: str,
        progress: Progress,
        beat: Callable[[], None],
    ) -> None:
        self.objects, self.steps, self.how, self.restore_id = objects, steps, how, restore_id
        self.progress, self.beat = progress, beat
        self.kept: list[str] = []
        self.caches: list[str] = []
        self.notes: list[str] = []

    def begin(self) -> None:
        """Note in each directory what is restored there."""
        for step in self.steps:
            if step.directory is not None:
                make_directories_like_parent(step.directory)
                output_marker.begin(step.directory, begun_by(step.cut, self.how))

    def run(self) -> None:
        """Put the blobs of all databases in place, then one database after the other."""
        self.begin()
        for step in self.steps:
            if step.blob_dir is not None:
                self._place(step, step.blob_dir)
            elif step.bucket is not None:
                self._fill(step, step.bucket)
        for step in self.steps if self.how.only != "blobs" else []:
            if step.directory is not None:
                self._write(step.cut.entry, step.directory)
            elif step.database is not None and step.seen is not None:
                self._load(step, step.database, step.seen)
        for step in self.steps:
            if step.directory is not None:
                output_marker.finish(step.directory)

    # blobs

    def _place(self, step: DumpStep, blob_dir: Path) -> None:
        entry = step.cut.entry
        self.progress.begin("blobs", entry.blobs.size if entry.blobs else 0)
        make_directories_like_parent(blob_dir)
        owner = ownership_in(blob_dir)
        fresh = not any(one.name != MARKER for one in blob_dir.iterdir())
        if not (blob_dir / MARKER).exists():
            write_marker(blob_dir / MARKER, entry.layout or "bushy" if fresh else detect(blob_dir), owner)
        with contextlib.closing(BlobSet()) as refs, Workers(self.how.workers, self.beat) as workers:
            refs.add(self._wanted(step))
            with KeptFiles(blob_dir, KEPT_PREFIX + self.restore_id, owner) as kept:
                placer = BlobDirectoryWriter(
                    self.objects, blob_dir, detect(blob_dir), owner, kept, self.progress, fresh=fresh
                )
                for keys in placer.place(workers, packs_of(entry, self.objects), refs):
                    refs.have(keys)
            if any(True for _lacking in refs.lacking()):
                raise Damage(f"blobs of {entry.name} are in no pack of the backup", "restore another backup")
        sync_file_system(blob_dir)
        if step.directory is None:
            self._tidy_kept(blob_dir)
            return
        for begun in blob_dir.glob(f"{KEPT_PREFIX}*"):  # also what interrupted runs had begun to write
            shutil.rmtree(begun)

    def _wanted(self, step: DumpStep) -> Iterator[BlobRef]:
        """Yield the blobs in packs that the restored storage asks for."""
        for member in (
            member
            for pack in packs_of(step.cut.entry, self.objects)
            for member in pack_members(self.objects, pack)
        ):
            if step.point is None or member.tid <= step.point.tid:
                yield member_ref(member)

    def _fill(self, step: DumpStep, bucket: BlobBucket) -> None:
        entry = step.cut.entry
        self.progress.begin("blobs", entry.blobs.size if entry.blobs else 0)
        filler = S3BlobWriter(
            self.objects, bucket, KEPT_PREFIX + self.restore_id if self.how.exchange else None, self.progress
        )
        with contextlib.closing(BlobSet()) as refs:
            refs.add(self._wanted(step))
            filler.fill(entry, self.objects, refs, self.how.workers, self.beat)
        self.notes += filler.notes
        if step.replaces:
            self.notes.append(
                f"objects in {bucket.root} that only the replaced state needs stay there until the site is packed, which deletes them"
            )

    def _tidy_kept(self, blob_dir: Path) -> None:
        kept = blob_dir / (KEPT_PREFIX + self.restore_id)
        (kept / "added").unlink()
        with contextlib.suppress(OSError):
            kept.rmdir()
        if kept.exists():
            self.kept.append(str(kept))

    # the storage

    def _write(self, entry: DatabaseEntry, directory: Path) -> None:
        """Write the files of a dump, each under another name until it is whole."""
        self.progress.begin("storage", entry.dump.size if entry.dump else 0)
        by_file: dict[str, list[int]] = {}
        parts = list(files_of(entry, self.objects))
        for number, part in enumerate(parts):
            by_file.setdefault(part.to.rpartition("/")[2], []).append(number)
        for name, numbers in by_file.items():
            content = (
                chunk for number in numbers for chunk in self._counted(self.objects.read([parts[number]]))
            )
            durable.write_atomically(directory / name, content, exclusive=False, mode=0o600)

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.progress.advance(len(chunk))
            self.beat()
            yield chunk

    def _load(self, step: DumpStep, database: Database, seen: TargetState) -> None:
        with contextlib.closing(backend_of(database).destination(database, self.how.role)) as destination:
            self.kept += destination.load(
                step.cut.entry, self.objects, seen, self.progress, self.beat, step.point
            )
        self.notes.append(
            f"restart every process that had {seen.where} open: one that keeps running shows the old state without an error"
        )
        self._remove_caches(database)

    def _remove_caches(self, database: Database) -> None:
        """Remove the persistent caches of this machine: they are of another state."""
        self._remove_cached_blobs(database.option("blob-cache-dir") if database.backend == "pgjsonb" else "")
        directory = database.option("cache-local-dir")
        for path in glob.glob(f"{glob.escape(directory)}/{CACHES}") if directory else ():
            try:
                os.unlink(path)
                self.caches.append(path)
            except OSError as error:
                self.notes.append(
                    f"the cache {path} could not be removed ({error.strerror}): remove it before the application starts"
                )
        if directory and not os.path.isdir(directory):
            self.notes.append(
                f"cache-local-dir {directory} is not on this machine: remove it where the application runs"
            )

    def _remove_cached_blobs(self, directory: str) -> None:
        """Remove the blobs that zodb-pgjsonb keeps of its bucket: they are taken by OID and TID, whatever is in the bucket now."""
        found = glob.glob(f"{glob.escape(directory)}/{CACHED_BLOBS}") if directory else []
        try:
            for path in found:
                os.unlink(path)
            self.caches += [directory] if found else []
        except OSError as error:
            self.notes.append(
                f"the cache {directory} could not be removed ({error.strerror}): remove it before the application starts"
            )
        if directory and not os.path.isdir(directory):
            self.notes.append(
                f"blob-cache-dir {directory} is not on this machine: remove it where the application runs"
            )
