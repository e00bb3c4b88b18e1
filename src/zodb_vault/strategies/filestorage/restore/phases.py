"""Put one database of a backup into its place: blobs first, storage last, one atomic rename, nothing destroyed.

Whatever moment it ends at, the old state is whole before the rename and the new one after it; the journal tells which.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from ....blobs.layout import MARKER, TEMPORARY
from ....blobs.refs import BlobSet
from ....datafs.tail import TransactionWalker
from ....errors import Damage, SourceDamaged, TargetRefused
from ....model.blob import MissingRows
from ....model.chain import Documents, packs_of, segments_of
from ....model.manifest import DatabaseEntry
from ....runtime import durable
from ....runtime.durable import sync_file_system, write_file
from ....runtime.ownership import TEMPORARY as NEW
from ....runtime.ownership import Ownership, make_directories_like_parent, ownership_for_file, ownership_in
from ....runtime.progress import Progress
from ....runtime.workers import Workers
from ...base import Sink
from ...blobs.directory_restore import BlobDirectoryWriter
from ...blobs.kept import ADDED, KeptFiles
from ...blobs.s3 import BlobBucket
from ...blobs.s3_restore import S3BlobWriter
from ...blobs.source import BlobDirectory
from ..rebuild import SegmentReader, rebuild, refs_of_file
from . import journal as journals
from .index import Indexing
from .journal import Journal
from .kept import leftovers, replaced_name
from .paths import DataFsPaths


class DataFsRestore:
    """The restore of one database in three steps, each from one phase of its journal to the next; the caller holds the lock.

    ``beat`` is called every few seconds of a long step; ``exchange``: objects in a bucket may give way to those of the backup.
    """

    def __init__(
        self,
        sink: Sink,
        documents: Documents,
        entry: DatabaseEntry,
        place: DataFsPaths,
        progress: Progress,
        workers: int,
        beat: Callable[[], None] = lambda: None,
        *,
        exchange: bool = False,
    ) -> None:
        self.sink, self.documents, self.entry, self.place = sink, documents, entry, place
        self.progress, self.workers, self.beat, self.exchange = progress, workers, beat, exchange
        self.refs = BlobSet()
        self.notes: list[str] = []

    def close(self) -> None:
        """Free everything."""
        self.refs.close()

    def resume(self, journal: Journal) -> Journal:
        """Return the journal of an interrupted restore with the phase that its files show; raise TargetRefused when they show none.

        As long as the rename has not happened, everything is built again: the site may have gone on, and packed blobs away, since.
        """
        data_fs = self.place.data_fs
        if journal.phase == "aborting" or (journal.phase == "switching" and self.place.is_new(journal)):
            return self._switched(journal)
        if journal.phase != "switching":
            return journal
        if data_fs.with_name(journal.building).exists():
            return journals.write(data_fs, msgspec.structs.replace(journal, phase="building", new_inode=0))
        replaced = data_fs.with_name(journal.replaced) if journal.replaced else None
        if (
            replaced is None
            or not replaced.exists()
            or not data_fs.exists()
            or os.path.samefile(data_fs, replaced)
        ):
            raise TargetRefused(
                f"{data_fs} is not the file that the restore {journal.restore} built, and {journal.building} is gone",
                "`restore --abort` puts the old state back",
            )
        return self._switched(journal)  # it was packed since

    def _switched(self, journal: Journal) -> Journal:
        return journals.write(self.place.data_fs, msgspec.structs.replace(journal, phase="switched"))

    # building: everything new beside what is old

    def build(self, journal: Journal) -> Journal:
        """Write the new Data.fs beside the old one and the blobs into their directory, all of it checked and durable."""
        with Indexing(self.place.new_index(journal), wanted=journal.only != "blobs") as index:
            inode = self._build_storage(journal, self.place.data_fs.with_name(journal.building), index)
            if journal.only != "storage" and self.place.bucket is not None:
                self._fill_bucket(journal, self.place.bucket)
            elif journal.only != "storage" and self.place.blob_dir is not None:
                self._place_blobs(journal, self.place.blob_dir)
        self.notes += index.notes
        return journals.write(
            self.place.data_fs, msgspec.structs.replace(journal, phase="switching", new_inode=inode)
        )

    def _build_storage(self, journal: Journal, building: Path, index: Indexing) -> int:
        owner = ownership_for_file(self.place.data_fs)
        self.progress.begin("storage", journal.end)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(building)
        fd = os.open(building, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            content = SegmentReader(
                self.sink, segments_of(self.entry, self.documents), journal.end, self.progress, digests=False
            )
            with Workers(self.workers, self.beat) as workers:
                _count, defects = rebuild(content, fd, workers, self.refs, index.add)
            self.notes += [f"a defect of the source, restored as it was: {defect}" for defect in defects]
            if os.fstat(fd).st_size != journal.end:
                raise Damage(
                    f"the storage of {self.entry.name} has {os.fstat(fd).st_size} bytes, {journal.end} were expected"
                )
            index.complete(journal.end)
            os.fchmod(fd, owner.directory_mode)
            owner.apply(fd)
            os.fsync(fd)
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def _place_blobs(self, journal: Journal, blob_dir: Path) -> None:
        self.progress.begin("blobs", self.entry.blobs.size if self.entry.blobs else 0)
        fresh = not blob_dir.exists() or all(
            entry.name in (MARKER, TEMPORARY) for entry in blob_dir.iterdir()
        )
        owner = self._prepare_blob_dir(blob_dir)
        with (
            Workers(self.workers, self.beat) as workers,
            KeptFiles(blob_dir, journal.kept_dir, owner) as kept,
        ):
            placer = BlobDirectoryWriter(
                self.sink, blob_dir, self.place.layout or "bushy", owner, kept, self.progress, fresh=fresh
            )
            for keys in placer.place(workers, packs_of(self.entry, self.documents), self.refs):
                self.refs.have(keys)
        self._require_all()
        sync_file_system(blob_dir)

    def _fill_bucket(self, journal: Journal, bucket: BlobBucket) -> None:
        self.progress.begin("blobs", self.entry.blobs.size if self.entry.blobs else 0)
        filler = S3BlobWriter(self.sink, bucket, journal.kept_dir if self.exchange else None, self.progress)
        filler.fill(self.entry, self.documents, self.refs, self.workers, self.beat)
        self._require_all()
        self.notes += filler.notes

    def _prepare_blob_dir(self, blob_dir: Path) -> Ownership:
        make_directories_like_parent(blob_dir)
        owner = ownership_in(blob_dir)
        if not (blob_dir / MARKER).exists():
            write_marker(blob_dir / MARKER, self.place.layout or "bushy", owner)
        return owner

    def _require_all(self) -> None:
        """Raise Damage unless every blob is in place that the backup is known to have."""
        listed = self.entry.blobs.missing.list if self.entry.blobs else None
        rows = msgspec.json.decode(self.documents.document(listed), type=MissingRows).rows if listed else []
        known = {(oid, tid) for oid, tid, _path in rows}
        lost = [
            ref
            for ref in self.refs.lacking()
            if ref.sure and ("0x" + ref.oid.hex(), "0x" + ref.tid.hex()) not in known
        ]
        if lost:
            raise Damage(
                f"{len(lost)} blobs are in no pack of the backup, the first is 0x{lost[0].oid.hex()} 0x{lost[0].tid.hex()}",
                "restore another backup",
            )
        if rows:
            self.notes.append(f"{len(rows)} blobs were missing when the backup was made and are missing now")

    # switching: one rename

    def switch(self, journal: Journal) -> Journal:
        """Make the new state valid and keep the old file under its new name."""
        data_fs = self.place.data_fs
        if journal.only != "blobs":
            journal = self._keep_replaced(journal)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.place.index)
            durable.sync_directory(self.place.index.parent)
            os.rename(data_fs.with_name(journal.building), data_fs)
            durable.sync_directory(data_fs.parent)
        return self._switched(journal)

    def _keep_replaced(self, journal: Journal) -> Journal:
        data_fs = self.place.data_fs
        if not data_fs.exists():
            return journal
        if journal.replaced is None:  # the site was started after an earlier run, and has made one
            journal = journals.write(
                data_fs, msgspec.structs.replace(journal, replaced=replaced_name(data_fs, journal.restore))
            )
        replaced = data_fs.with_name(journal.replaced or "")
        with contextlib.suppress(FileExistsError):
            os.link(data_fs, replaced)
        if not os.path.samefile(data_fs, replaced):
            raise TargetRefused(f"{replaced} is in the way", "move it away and run the restore again")
        durable.sync_directory(replaced.parent)
        return journal

    # switched: put aside what only the old state needed

    def put_aside(self, journal: Journal) -> None:
        """Move away what only the replaced state needs; may be done again."""
        data_fs = self.place.data_fs
        if journal.only == "blobs":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(data_fs.with_name(journal.building))
        else:
            self._settle_index(self.place.new_index(journal), journal)
        if self.place.blob_dir is not None and journal.replaced is not None and journal.only is None:
            self._put_blobs_aside(self.place.blob_dir, journal)
            sync_file_system(self.place.blob_dir)
        if self.place.bucket is not None and journal.replaced is not None and journal.only is None:
            self._count_left(self.place.bucket, journal)
        for leftover in leftovers(self.place, ""):
            os.rename(leftover, leftover.with_name(f"{leftover.name}.kept-{journal.restore}"))
        for directory in {data_fs.parent, self.place.index.parent}:
            durable.sync_directory(directory)

    def tidy(self, journal: Journal) -> None:
        """Remove what only an abort would have needed, after all databases of the restore are done."""
        if self.place.blob_dir is None:
            return
        kept = self.place.blob_dir / journal.kept_dir
        with contextlib.suppress(FileNotFoundError):
            os.unlink(kept / ADDED)
        with contextlib.suppress(OSError):  # not empty: blobs of the old state are kept
            os.rmdir(kept)

    def _settle_index(self, index: Path, journal: Journal) -> None:
        """Put the new index in place, unless the site has written to the restored file since."""
        if not index.exists():
            return
        if (
            self.place.is_new(journal)
            and self.place.data_fs.stat().st_size == journal.end
            and not self.place.index.exists()
        ):
            info = self.place.data_fs.stat()
            os.chmod(index, info.st_mode & 0o777)
            if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(index, info.st_uid, info.st_gid)
            os.rename(index, self.place.index)
        else:
            os.unlink(index)

    def _count_left(self, bucket: BlobBucket, journal: Journal) -> None:
        """Say how many objects only the replaced state needs: they stay, until the site itself deletes them."""
        with contextlib.closing(BlobSet()) as old, contextlib.closing(BlobSet()) as present:
            try:
                collect_refs(self.place.data_fs.with_name(journal.replaced or ""), old)
                collect_refs(self.place.data_fs, present)
            except SourceDamaged as error:
                self.notes.append(
                    f"which objects in {bucket.root} only the replaced file needs is not known: {error.message}"
                )
                return
            if left := sum(ref.oid + ref.tid not in present for ref in old.all()):
                self.notes.append(
                    f"{left} objects in {bucket.root} belong to the replaced state only; they stay there until the site is packed, which deletes "
                    "them: from then on the replaced Data.fs lacks them, a safety backup does not"
                )

    def _put_blobs_aside(self, blob_dir: Path, journal: Journal) -> None:
        replaced = self.place.data_fs.with_name(journal.replaced or "")
        directory = BlobDirectory(blob_dir, self.place.layout or "bushy")
        kept = KeptFiles(blob_dir, journal.kept_dir, ownership_in(blob_dir))
        old, present = BlobSet(), BlobSet()
        try:
            collect_refs(replaced, old)
            collect_refs(self.place.data_fs, present)
            for ref in old.all():
                path = directory.path(ref)
                if ref.oid + ref.tid not in present and path.exists():
                    os.rename(path, kept.path(str(path.relative_to(blob_dir))))
        except SourceDamaged as error:
            self.notes.append(f"blobs that only the replaced file needs stay where they are: {error.message}")
        finally:
            old.close()
            present.close()


def write_marker(marker: Path, layout: str, owner: Ownership) -> None:
    """Write the file that tells the layout of a blob directory."""

    def settle(fd: int) -> None:
        os.fchmod(fd, 0o644)
        owner.apply(fd)
        os.fsync(fd)

    temporary = f"{marker}{NEW}"
    write_file(temporary, [memoryview(layout.encode())], 0o644, settle, exclusive=False)
    os.rename(temporary, marker)
    durable.sync_directory(marker.parent)


def collect_refs(data_fs: Path, refs: BlobSet) -> None:
    """Collect the blobs that a Data.fs asks for; raise SourceDamaged."""
    fd = os.open(data_fs, os.O_RDONLY | os.O_CLOEXEC)
    try:
        hopper = TransactionWalker(fd, 0, str(data_fs))
        for _hop in hopper:
            pass
        refs_of_file(fd, hopper.tail.end, refs)
    finally:
        os.close(fd)
