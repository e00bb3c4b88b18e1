"""Put one database of a backup into its place: blobs first, storage last, one atomic rename, nothing destroyed.

Whatever moment it ends at, the old state is whole before the rename and the new one after it; the journal tells which.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

import msgspec

from ..blobs.layout import MARKER, TEMPORARY, detect
from ..blobs.refs import BlobSet
from ..datafs.tail import Hopper
from ..errors import Damage, SourceDamaged, TargetRefused
from ..model.chain import Documents
from ..model.manifest import DatabaseEntry
from ..stores import durable
from ..strategies.base import Progress, Sink, Workers
from ..strategies.filestorage import MissingRows, packs_of, segments_of
from ..strategies.packing import BlobDirectory
from ..strategies.placing import Ownership, Placer, sync_file_system
from ..strategies.rebuilding import Content, rebuild, refs_of_file
from . import journal as journals
from .journal import Journal

KEPT_PREFIX: Final = ".zodb-vault-kept-"
LEFTOVERS: Final = (".old", ".pack", ".tmp")
ADDED: Final = "added"


class Place(msgspec.Struct, frozen=True):
    """Where a database goes: the resolved Data.fs, the configured name that its index belongs to, the blob directory."""

    data_fs: Path
    index: Path
    blob_dir: Path | None
    layout: str | None

    @property
    def locked(self) -> Path:
        """Return the configured name of the Data.fs."""
        return self.index.with_name(self.index.name.removesuffix(".index"))


def place_of(data_fs: Path, blob_dir: Path | None, layout: str | None) -> Place:
    """Look at where a database is to go; raise TargetRefused or ConfigurationError, change nothing."""
    if blob_dir is not None and blob_dir.exists():
        layout = detect(blob_dir)
    real = data_fs.resolve()
    if real.exists() and not real.is_file():
        raise TargetRefused(f"{real} is not a file", "name the Data.fs itself")
    return Place(real, Path(f"{data_fs}.index"), blob_dir, layout or "bushy")


class Switch:
    """The restore of one database in three steps, each from one phase of its journal to the next; the caller holds the lock."""

    def __init__(self, sink: Sink, documents: Documents, entry: DatabaseEntry, place: Place, progress: Progress, workers: int) -> None:
        self.sink, self.documents, self.entry, self.place = sink, documents, entry, place
        self.progress, self.workers = progress, workers
        self.refs = BlobSet()
        self.notes: list[str] = []

    def close(self) -> None:
        """Free everything."""
        self.refs.close()

    # building: everything new beside what is old

    def build(self, journal: Journal) -> Journal:
        """Write the new Data.fs beside the old one and the blobs into their directory, all of it checked and durable."""
        building = self.place.data_fs.with_name(journal.building)
        inode = self._build_storage(journal, building)
        with self._index(building, wanted=journal.only != "blobs"):
            if journal.only != "storage" and self.place.blob_dir is not None:
                self._place_blobs(journal, self.place.blob_dir)
        return journals.write(self.place.data_fs, msgspec.structs.replace(journal, phase="switching", new_inode=inode))

    def _build_storage(self, journal: Journal, building: Path) -> int:
        owner = ownership(self.place.data_fs)
        self.progress.begin("storage", journal.end)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(building)
        fd = os.open(building, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            content = Content(self.sink, segments_of(self.entry, self.documents), journal.end, self.progress, digests=False)
            with Workers(self.workers, lambda: None) as workers:
                _count, defects = rebuild(content, fd, workers, self.refs)
            self.notes += [f"a defect of the source, restored as it was: {defect}" for defect in defects]
            if os.fstat(fd).st_size != journal.end:
                raise Damage(f"the storage of {self.entry.name} has {os.fstat(fd).st_size} bytes, {journal.end} were expected")
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
        kept = blob_dir / journal.kept_dir
        placer = Placer(
            self.sink, blob_dir, self.place.layout or "bushy", owner, lambda path: _keep(blob_dir, kept, path), self.progress, fresh=fresh
        )
        with Workers(self.workers, lambda: None) as workers, _added_log(kept) as added:
            for placed in placer.place(workers, packs_of(self.entry, self.documents), self.refs):
                self.refs.have(placed.keys)
                added.writelines(f"{path}\n" for path in placed.added)
        self._require_all()
        sync_file_system(blob_dir)

    def _prepare_blob_dir(self, blob_dir: Path) -> Ownership:
        if not blob_dir.exists():
            durable.make_directories(blob_dir)
            parent = ownership(blob_dir.parent)
            os.chown(blob_dir, parent.uid, parent.gid)
        marker = blob_dir / MARKER
        if not marker.exists():
            durable.write(marker, [(self.place.layout or "bushy").encode()], exclusive=False, mode=0o644)
        info = blob_dir.stat()
        uid, gid = (info.st_uid, info.st_gid) if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()) else (-1, -1)
        return Ownership(uid, gid, info.st_mode & 0o777)

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

    @contextlib.contextmanager
    def _index(self, building: Path, *, wanted: bool) -> Iterator[None]:
        """Write the index meanwhile, in a process of its own: it needs memory for every object of the database."""
        if not wanted:
            yield
            return
        command = [sys.executable, "-m", "zodb_vault.datafs.index", str(building), f"{building}.index"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                yield
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            self.notes.append("the index could not be written, FileStorage will write it when it starts")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{building}.index")

    # switching: one rename

    def switch(self, journal: Journal) -> Journal:
        """Make the new state valid and keep the old file under its new name."""
        data_fs = self.place.data_fs
        building = data_fs.with_name(journal.building)
        if journal.only != "blobs" and not (data_fs.exists() and data_fs.stat().st_ino == journal.new_inode and not building.exists()):
            if journal.replaced is not None:
                _keep_replaced(data_fs, data_fs.with_name(journal.replaced))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.place.index)
            durable.sync_directory(self.place.index.parent)
            os.rename(building, data_fs)
            durable.sync_directory(data_fs.parent)
        return journals.write(data_fs, msgspec.structs.replace(journal, phase="switched"))

    # switched: put aside what only the old state needed

    def put_aside(self, journal: Journal) -> Journal:
        """Move away what only the replaced state needs, and finish the journal."""
        data_fs = self.place.data_fs
        if journal.only == "blobs":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(data_fs.with_name(journal.building))
        else:
            self._settle_index(data_fs.with_name(f"{journal.building}.index"), journal)
        if self.place.blob_dir is not None and journal.replaced is not None and journal.only is None:
            self._put_blobs_aside(self.place.blob_dir, journal)
        for leftover in self._leftovers():
            os.rename(leftover, leftover.with_name(f"{leftover.name}.kept-{journal.restore}"))
        durable.sync_directory(data_fs.parent)
        return journals.finish(data_fs, journal)

    def _settle_index(self, index: Path, journal: Journal) -> None:
        """Put the new index in place, unless the site has written to the restored file since."""
        if not index.exists():
            return
        if self.place.data_fs.stat().st_size == journal.end and not self.place.index.exists():
            info = self.place.data_fs.stat()
            os.chmod(index, info.st_mode & 0o777)
            if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(index, info.st_uid, info.st_gid)
            shutil.move(index, self.place.index)
        else:
            os.unlink(index)

    def _leftovers(self) -> Iterator[Path]:
        """Yield what packs and torn tails of the old state left beside it; a later start must not take it for its own."""
        name = self.place.data_fs.name
        for entry in sorted(self.place.data_fs.parent.iterdir()):
            suffix = entry.name.removeprefix(name)
            if entry.name.startswith(name) and (suffix in LEFTOVERS or (suffix.startswith(".tr") and suffix[3:].isdigit())):
                yield entry

    def _put_blobs_aside(self, blob_dir: Path, journal: Journal) -> None:
        replaced = self.place.data_fs.with_name(journal.replaced or "")
        directory = BlobDirectory(blob_dir, self.place.layout or "bushy")
        old, present = BlobSet(), BlobSet()
        try:
            collect_refs(replaced, old)
            collect_refs(self.place.data_fs, present)
            for ref in old.everything():
                path = directory.path(ref)
                if ref.oid + ref.tid not in present and path.exists():
                    target = blob_dir / journal.kept_dir / path.relative_to(blob_dir)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.rename(path, target)
        except SourceDamaged as error:
            self.notes.append(f"blobs that only the replaced file needs stay where they are: {error.message}")
        finally:
            old.close()
            present.close()


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


def require_owner(path: Path) -> None:
    """Raise TargetRefused unless this process may give files to the owner of ``path`` (or of its directory)."""
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    info = existing.stat()
    if os.geteuid() not in (0, info.st_uid):
        raise TargetRefused(f"{existing} belongs to uid {info.st_uid}, this is uid {os.geteuid()}", "run as that user, or as root")
    if not os.access(existing, os.W_OK):
        raise TargetRefused(f"{existing} cannot be written to by uid {os.geteuid()}", "correct its permissions, or mount it writable")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _keep(blob_dir: Path, kept: Path, relative: str) -> None:
    """Link a file that is about to be exchanged to where it is kept."""
    target = kept / relative
    durable.make_directories(target.parent)
    with contextlib.suppress(FileExistsError):  # an interrupted restore has kept it already
        os.link(blob_dir / relative, target)
    durable.sync_directory(target.parent)


def _keep_replaced(data_fs: Path, replaced: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.link(data_fs, replaced)
    if not os.path.samefile(data_fs, replaced):
        raise TargetRefused(f"{replaced} is in the way", "move it away and run the restore again")
    durable.sync_directory(replaced.parent)


@contextlib.contextmanager
def _added_log(kept: Path) -> Iterator[TextIO]:
    """Append to the list of the blobs that were added, so that the old state can be put back."""
    durable.make_directories(kept)
    with (kept / ADDED).open("a", encoding="ascii") as log:
        yield log
        log.flush()
        os.fsync(log.fileno())


