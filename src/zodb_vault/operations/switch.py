"""Put one database of a backup into its place: blobs first, storage last, one atomic rename, nothing destroyed.

Whatever moment it ends at, the old state is whole before the rename and the new one after it; the journal tells which.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from ..blobs.layout import MARKER, TEMPORARY, detect
from ..blobs.refs import BlobSet
from ..datafs.tail import Hopper
from ..errors import Damage, SourceDamaged, TargetRefused
from ..model.blob import MissingRows
from ..model.chain import Documents, packs_of, segments_of
from ..model.manifest import DatabaseEntry
from ..model.source import Database
from ..stores import durable
from ..strategies.base import Progress, Sink, Workers
from ..strategies.bucket import Bucket, wrapper_key
from ..strategies.bucketrestore import BucketFiller
from ..strategies.packing import BlobDirectory
from ..strategies.placing import TEMPORARY as NEW
from ..strategies.placing import Ownership, Placer, sync_file_system
from ..strategies.rebuilding import Content, rebuild, refs_of_file, write_file
from . import journal as journals
from .indexing import Indexing
from .journal import Journal

KEPT_PREFIX: Final = ".zodb-vault-kept-"
LEFTOVERS: Final = (".old", ".pack", ".tmp")
ADDED: Final = "added"


class Place(msgspec.Struct, frozen=True):
    """Where a database goes: the resolved Data.fs, the configured name that its index belongs to, the blob directory or the bucket of its blobs."""

    data_fs: Path
    index: Path
    blob_dir: Path | None
    layout: str | None
    bucket: Bucket | None = None

    @property
    def blobs(self) -> Path | str | None:
        """Return where the blobs go, as messages name it."""
        return self.bucket.root if self.bucket else self.blob_dir

    @property
    def locked(self) -> Path:
        """Return the configured name of the Data.fs."""
        return self.index.with_name(self.index.name.removesuffix(".index"))

    def new_index(self, journal: Journal) -> Path:
        """Return where the index of a restore waits, beside where it goes."""
        return self.index.with_name(f"{self.index.name}.restoring-{journal.restore}")

    def is_new(self, journal: Journal) -> bool:
        """Tell whether the file in place is the one that the restore built; as long as that has its own name, it is not."""
        if not journal.new_inode or not self.data_fs.exists() or self.data_fs.with_name(journal.building).exists():
            return False
        return self.data_fs.stat().st_ino == journal.new_inode


def place_of(data_fs: Path, blob_dir: Path | None, layout: str | None, bucket: Bucket | None = None) -> Place:
    """Look at where a database is to go; raise TargetRefused or ConfigurationError, change nothing."""
    if blob_dir is not None and blob_dir.exists():
        layout = detect(blob_dir)
    real = data_fs.resolve()
    if real.exists() and not real.is_file():
        raise TargetRefused(f"{real} is not a file", "name the Data.fs itself")
    return Place(real, Path(f"{data_fs}.index"), blob_dir, layout or "bushy", bucket)


def place_of_database(database: Database, layout: str | None = None) -> Place:
    """Return where a database of the site lies."""
    bucket = Bucket(database, wrapper_key) if database.blob_mode == "s3" else None
    return place_of(Path(database.data_fs or ""), Path(database.blob_dir) if database.blob_dir and not bucket else None, layout, bucket)


class Switch:
    """The restore of one database in three steps, each from one phase of its journal to the next; the caller holds the lock.

    ``beat`` is called every few seconds of a long step; ``exchange``: objects in a bucket may give way to those of the backup.
    """

    def __init__(
        self, sink: Sink, documents: Documents, entry: DatabaseEntry, place: Place, progress: Progress, workers: int,
        beat: Callable[[], None] = lambda: None, *, exchange: bool = False,
    ) -> None:  # fmt: skip
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
        if replaced is None or not replaced.exists() or not data_fs.exists() or os.path.samefile(data_fs, replaced):
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
        return journals.write(self.place.data_fs, msgspec.structs.replace(journal, phase="switching", new_inode=inode))

    def _build_storage(self, journal: Journal, building: Path, index: Indexing) -> int:
        owner = ownership(self.place.data_fs)
        self.progress.begin("storage", journal.end)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(building)
        fd = os.open(building, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            content = Content(self.sink, segments_of(self.entry, self.documents), journal.end, self.progress, digests=False)
            with Workers(self.workers, self.beat) as workers:
                _count, defects = rebuild(content, fd, workers, self.refs, index.add)
            self.notes += [f"a defect of the source, restored as it was: {defect}" for defect in defects]
            if os.fstat(fd).st_size != journal.end:
                raise Damage(f"the storage of {self.entry.name} has {os.fstat(fd).st_size} bytes, {journal.end} were expected")
            index.complete(journal.end)
            os.fchmod(fd, owner.directory_mode)
            owner.give(fd)
            os.fsync(fd)
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def _place_blobs(self, journal: Journal, blob_dir: Path) -> None:
        self.progress.begin("blobs", self.entry.blobs.size if self.entry.blobs else 0)
        fresh = not blob_dir.exists() or all(entry.name in (MARKER, TEMPORARY) for entry in blob_dir.iterdir())
        owner = self._prepare_blob_dir(blob_dir)
        with Workers(self.workers, self.beat) as workers, Kept(blob_dir, journal.kept_dir, owner) as kept:
            placer = Placer(self.sink, blob_dir, self.place.layout or "bushy", owner, kept, self.progress, fresh=fresh)
            for keys in placer.place(workers, packs_of(self.entry, self.documents), self.refs):
                self.refs.have(keys)
        self._require_all()
        sync_file_system(blob_dir)

    def _fill_bucket(self, journal: Journal, bucket: Bucket) -> None:
        self.progress.begin("blobs", self.entry.blobs.size if self.entry.blobs else 0)
        filler = BucketFiller(self.sink, bucket, journal.kept_dir if self.exchange else None, self.progress)
        filler.fill(self.entry, self.documents, self.refs, self.workers, self.beat)
        self._require_all()
        self.notes += filler.notes

    def _prepare_blob_dir(self, blob_dir: Path) -> Ownership:
        make_directories_like_parent(blob_dir)
        owner = owner_of(blob_dir)
        if not (blob_dir / MARKER).exists():
            write_marker(blob_dir / MARKER, self.place.layout or "bushy", owner)
        return owner

    def _require_all(self) -> None:
        """Raise Damage unless every blob is in place that the backup is known to have."""
        listed = self.entry.blobs.missing.list if self.entry.blobs else None
        rows = msgspec.json.decode(self.documents.document(listed), type=MissingRows).rows if listed else []
        known = {(oid, tid) for oid, tid, _path in rows}
        lost = [ref for ref in self.refs.lacking() if ref.sure and ("0x" + ref.oid.hex(), "0x" + ref.tid.hex()) not in known]
        if lost:
            raise Damage(
                f"{len(lost)} blobs are in no pack of the backup, the first is 0x{lost[0].oid.hex()} 0x{lost[0].tid.hex()}", "restore another backup"
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
            journal = journals.write(data_fs, msgspec.structs.replace(journal, replaced=replaced_name(data_fs, journal.restore)))
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
        if self.place.is_new(journal) and self.place.data_fs.stat().st_size == journal.end and not self.place.index.exists():
            info = self.place.data_fs.stat()
            os.chmod(index, info.st_mode & 0o777)
            if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(index, info.st_uid, info.st_gid)
            os.rename(index, self.place.index)
        else:
            os.unlink(index)

    def _count_left(self, bucket: Bucket, journal: Journal) -> None:
        """Say how many objects only the replaced state needs: they stay, until the site itself deletes them."""
        with contextlib.closing(BlobSet()) as old, contextlib.closing(BlobSet()) as present:
            try:
                collect_refs(self.place.data_fs.with_name(journal.replaced or ""), old)
                collect_refs(self.place.data_fs, present)
            except SourceDamaged as error:
                self.notes.append(f"which objects in {bucket.root} only the replaced file needs is not known: {error.message}")
                return
            if left := sum(ref.oid + ref.tid not in present for ref in old.everything()):
                self.notes.append(
                    f"{left} objects in {bucket.root} belong to the replaced state only; they stay there until the site is packed, which deletes "
                    "them: from then on the replaced Data.fs lacks them, a safety backup does not"
                )

    def _put_blobs_aside(self, blob_dir: Path, journal: Journal) -> None:
        replaced = self.place.data_fs.with_name(journal.replaced or "")
        directory = BlobDirectory(blob_dir, self.place.layout or "bushy")
        kept = Kept(blob_dir, journal.kept_dir, owner_of(blob_dir))
        old, present = BlobSet(), BlobSet()
        try:
            collect_refs(replaced, old)
            collect_refs(self.place.data_fs, present)
            for ref in old.everything():
                path = directory.path(ref)
                if ref.oid + ref.tid not in present and path.exists():
                    os.rename(path, kept.path(str(path.relative_to(blob_dir))))
        except SourceDamaged as error:
            self.notes.append(f"blobs that only the replaced file needs stay where they are: {error.message}")
        finally:
            old.close()
            present.close()


class Kept:
    """What a restore does to a blob directory, noted so that the old state can be put back: files that were exchanged, names that are new."""

    def __init__(self, blob_dir: Path, name: str, owner: Ownership) -> None:
        self._blob_dir, self._root, self._owner = blob_dir, blob_dir / name, owner

    def __enter__(self) -> Kept:
        self._make_directories(self._root)
        self._fd = os.open(self._root / ADDED, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        durable.write_all(self._fd, [b"\n"])  # an interrupted run may have ended in the middle of a line
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def add(self, relatives: Iterable[str]) -> None:
        """Note names before there are such files; one write, so that several threads may do it."""
        os.write(self._fd, "".join(f"{relative}\n" for relative in relatives).encode("ascii"))

    def keep(self, relative: str) -> None:
        """Link a file that is about to be exchanged to where it is kept."""
        target = self.path(relative)
        with contextlib.suppress(FileExistsError):  # an interrupted restore has kept it already
            os.link(self._blob_dir / relative, target)
        durable.sync_directory(target.parent)

    def path(self, relative: str) -> Path:
        """Return where a file is kept; its directory is made."""
        target = self._root / relative
        self._make_directories(target.parent)
        return target

    def _make_directories(self, path: Path) -> None:
        if path.is_dir():
            return
        self._make_directories(path.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        if (self._owner.uid, self._owner.gid) != (-1, -1):
            os.chown(path, self._owner.uid, self._owner.gid)
        durable.sync_directory(path.parent)


def replaced_name(data_fs: Path, restore: str) -> str:
    """Return the name under which a restore keeps the file that it replaces."""
    return f"{data_fs.name}.replaced-{restore}"


def leftovers(place: Place, kept: str) -> list[Path]:
    """Return what packs and torn tails of the old state left beside it, or was renamed so with the suffix ``kept``.

    A later start must not take it for its own. FileStorage writes it beside the configured name.
    """
    found = set()
    for base in {place.data_fs, place.locked.parent.resolve() / place.locked.name}:
        for entry in base.parent.iterdir():
            suffix = entry.name.removeprefix(base.name).removesuffix(kept)
            torn = suffix.startswith(".tr") and suffix[3:].isdigit()
            if entry.name.startswith(base.name) and entry.name.endswith(kept) and (suffix in LEFTOVERS or torn):
                found.add(entry)
    return sorted(found)


def make_directories_like_parent(path: Path) -> None:
    """Make a directory and its parents; made by root, each belongs from its first moment to who the one that it lies in belongs to."""
    if path.is_dir():
        return
    make_directories_like_parent(path.parent)
    temporary, parent = path.with_name(f"{path.name}{NEW}"), path.parent.stat()
    with contextlib.suppress(FileExistsError):
        os.mkdir(temporary, 0o700)
    if os.geteuid() == 0:
        os.chown(temporary, parent.st_uid, parent.st_gid)
    os.rename(temporary, path)
    durable.sync_directory(path.parent)


def write_marker(marker: Path, layout: str, owner: Ownership) -> None:
    """Write the file that tells the layout of a blob directory."""

    def settle(fd: int) -> None:
        os.fchmod(fd, 0o644)
        owner.give(fd)
        os.fsync(fd)

    temporary = f"{marker}{NEW}"
    write_file(temporary, [memoryview(layout.encode())], 0o644, settle, exclusive=False)
    os.rename(temporary, marker)
    durable.sync_directory(marker.parent)


def owner_of(directory: Path) -> Ownership:
    """Return who what is made in a directory is to belong to."""
    info = directory.stat()
    same = (info.st_uid, info.st_gid) == (os.geteuid(), os.getegid())
    return Ownership(-1 if same else info.st_uid, -1 if same else info.st_gid, info.st_mode & 0o777)


def collect_refs(data_fs: Path, refs: BlobSet) -> None:
    """Collect the blobs that a Data.fs asks for; raise SourceDamaged."""
    fd = os.open(data_fs, os.O_RDONLY | os.O_CLOEXEC)
    try:
        hopper = Hopper(fd, 0, str(data_fs))
        for _hop in hopper:
            pass
        refs_of_file(fd, hopper.tail.end, refs)
    finally:
        os.close(fd)


def ownership(path: Path) -> Ownership:
    """Return who what is to stand at ``path`` belongs to: as what stands there now, else as its directory; with the mode of a file."""
    info = path.stat() if path.exists() else path.parent.stat()
    mode = info.st_mode & 0o777 if path.is_file() else 0o644 & ~_umask()
    same = (info.st_uid, info.st_gid) == (os.geteuid(), os.getegid())
    return Ownership(-1 if same else info.st_uid, -1 if same else info.st_gid, mode)


def require_owner(path: Path, *, ours: bool) -> None:
    """Raise TargetRefused unless this process may write at ``path`` and give files to who what stands there belongs to.

    With ``ours``, directories that have to be made belong to whoever makes them.
    """
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    directory, info = existing if existing.is_dir() else existing.parent, existing.stat()
    if not os.access(directory, os.W_OK | os.X_OK):
        raise TargetRefused(f"{directory} cannot be written to by uid {os.geteuid()}", "correct its permissions, or mount it writable")
    if os.geteuid() == 0 or (ours and existing not in (path, path.parent)):
        return
    if os.geteuid() != info.st_uid:
        raise TargetRefused(f"{existing} belongs to uid {info.st_uid}, this is uid {os.geteuid()}", "run as that user, or as root")
    if info.st_gid not in (os.getegid(), *os.getgroups()):
        raise TargetRefused(f"{existing} belongs to gid {info.st_gid}, which uid {os.geteuid()} is not in", "run as a user of that group, or as root")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
