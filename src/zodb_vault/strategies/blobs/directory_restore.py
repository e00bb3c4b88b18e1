"""Restore blobs into a blob directory, in place.

Existing files are compared, missing ones are added, and different ones are replaced. A replaced file is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from ...blobs.layout import LAYOUTS, MARKER, detect
from ...blobs.layout import TEMPORARY as UPLOADS
from ...blobs.packs import Member, member_key, pack_members, read_members
from ...blobs.refs import BlobSet
from ...errors import Damage
from ...model.blob import BlobRef
from ...model.chain import packs_of
from ...model.manifest import Pack
from ...runtime import durable
from ...runtime.durable import sync_file_system, write_file
from ...runtime.ownership import TEMPORARY, Ownership, make_directories_like_parent, ownership_in
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Sink
from .kept import ADDED, ChangeRecord, KeptDirectory, recorded
from .restore import BlobsJob
from .source import BlobDirectory

BLOB_MODE: Final = 0o444
CHUNK: Final = 1 << 20


class DirectoryBlobs:
    """A blob directory that blobs are restored into; ``layout`` is the layout that it has or gets."""

    def __init__(self, blob_dir: Path, layout: str) -> None:
        self._blob_dir, self._layout = blob_dir, layout

    @property
    def where(self) -> str:
        """Return the path of the directory."""
        return str(self._blob_dir)

    def shared_by(self) -> str | None:
        """Return None: the restore sees the files of a directory when it compares them."""
        return None

    def restore(self, job: BlobsJob, refs: BlobSet) -> list[str]:
        """Put the blobs in place, durably."""
        source, context = job.source, job.context
        context.progress.begin("blobs", job.size)
        fresh = not self._blob_dir.exists() or all(
            entry.name in (MARKER, UPLOADS) for entry in self._blob_dir.iterdir()
        )
        owner = self._prepare()
        kept = KeptDirectory(self._blob_dir, job.kept_name, owner)
        with Workers(job.workers, context.heartbeat) as workers, recorded(kept) as record:
            writer = BlobDirectoryWriter(
                source.objects, self._blob_dir, self._layout, owner, record, context.progress, fresh=fresh
            )
            for keys in writer.write(workers, packs_of(source.entry, source.objects), refs):
                refs.mark_present(keys)
        # one call for all files: to sync each of a million small files would take hours
        sync_file_system(self._blob_dir)
        return []

    def put_aside(self, refs: Iterable[BlobRef], kept_name: str) -> list[str]:
        """Move blobs to the folder of kept blobs."""
        directory = BlobDirectory(self._blob_dir, self._layout)
        kept = KeptDirectory(self._blob_dir, kept_name, ownership_in(self._blob_dir))
        for ref in refs:
            path = directory.path(ref)
            if path.exists():
                os.rename(path, kept.path(str(path.relative_to(self._blob_dir))))
        sync_file_system(self._blob_dir)
        return []

    def left_in_place(self) -> list[str]:
        """Return nothing: a pack of the site removes blobs that no record references, as always."""
        return []

    def settle(self, kept_name: str) -> list[str]:
        """Remove the list of added blobs, and the folder of kept blobs if it is empty."""
        kept = self._blob_dir / kept_name
        with contextlib.suppress(FileNotFoundError):
            os.unlink(kept / ADDED)
        with contextlib.suppress(OSError):  # there is no such folder, or it has blobs of the old state
            os.rmdir(kept)
        return [str(kept)] if kept.exists() else []

    def _prepare(self) -> Ownership:
        make_directories_like_parent(self._blob_dir)
        owner = ownership_in(self._blob_dir)
        if not (self._blob_dir / MARKER).exists():
            write_marker(self._blob_dir / MARKER, self._layout, owner)
        return owner


def layout_for(blob_dir: Path, stored: str | None) -> str:
    """Return the layout of a blob directory; an empty directory gets the layout of the backup, ``stored``.

    Raise ConfigurationError for a blob cache and for an unknown layout.
    """
    if not blob_dir.exists():
        return stored or "bushy"
    found = detect(blob_dir)
    empty = all(entry.name.startswith(".") for entry in blob_dir.iterdir())
    return stored or "bushy" if empty and not (blob_dir / MARKER).exists() else found


def write_marker(marker: Path, layout: str, owner: Ownership) -> None:
    """Write the file that tells the layout of a blob directory."""

    def settle(fd: int) -> None:
        os.fchmod(fd, 0o644)
        owner.apply(fd)
        os.fsync(fd)

    temporary = f"{marker}{TEMPORARY}"
    write_file(temporary, [memoryview(layout.encode())], 0o644, settle, exclusive=False)
    os.rename(temporary, marker)
    durable.sync_directory(marker.parent)


class BlobDirectoryWriter:
    """Writes blobs into one directory.

    ``fresh`` tells that there was no blob in it. Then no file has to be compared, and each file is written
    under its final name. A crash may leave a file that is too short. But then the next run is not fresh: it
    compares the files.

    Next to existing blobs, a file is written under a temporary name. It gets its final name only when the
    digest of the blob is right: the digest of the stored object and the checksum of its frame are known only
    after the content was written.
    """

    def __init__(
        self,
        sink: Sink,
        root: Path,
        layout: str,
        owner: Ownership,
        record: ChangeRecord,
        progress: Progress,
        *,
        fresh: bool,
    ) -> None:
        self._sink, self._root, self._owner, self._fresh = sink, root, owner, fresh
        self._path_of, self._record, self._progress = LAYOUTS[layout], record, progress

    def write(self, workers: Workers, packs: Iterable[Pack], refs: BlobSet) -> Iterator[list[bytes]]:
        """Write every blob of ``refs`` that the packs have, and yield their keys (OID + TID), pack by pack.

        Raise Damage when a blob differs from what was stored.
        """
        yield from workers.in_order(partial(self._write, pack, refs) for pack in packs)

    def _write(self, pack: Pack, refs: BlobSet) -> list[bytes]:
        rows = pack_members(self._sink, pack)
        keys = {member.offset: member_key(member) for member in rows}
        wanted = refs.referenced(keys.values())
        paths = {offset: self._path_of(one[:8], one[8:]) for offset, one in keys.items() if one in wanted}
        if self._fresh:
            self._record.add(paths.values())
        todo = {
            m.offset
            for m in rows
            if m.offset in paths and (self._fresh or not self._is_written(m, paths[m.offset]))
        }
        if todo:
            for member, chunks in read_members(
                rows, self._sink.read(pack.parts), lambda member: member.offset in todo
            ):
                self._put(member, paths[member.offset], self._counted(chunks))
        return [keys[offset] for offset in paths]

    def _put(self, member: Member, relative: str, chunks: Iterator[memoryview]) -> None:
        final = f"{self._root}/{relative}"
        if self._fresh:
            with contextlib.suppress(FileExistsError):
                self._write_new(final, member, chunks)
                return
        if os.path.lexists(final):
            self._record.keep(relative)
        else:
            self._record.add([relative])
        digest = hashlib.sha256()
        self._write_new(final + TEMPORARY, member, _hashed(chunks, digest))
        if digest.hexdigest() != member.sha256:
            raise Damage(f"the blob {member.oid} {member.tid} in its pack differs from what was stored")
        os.rename(final + TEMPORARY, final)

    def _write_new(self, path: str, member: Member, chunks: Iterator[memoryview]) -> None:
        fresh = not path.endswith(TEMPORARY)
        if fresh:  # most objects have one blob, so their directory does not exist yet
            self._make_directories(os.path.dirname(path))
        try:
            size = write_file(path, chunks, BLOB_MODE, self._owner.apply, exclusive=fresh)
        except FileNotFoundError:
            self._make_directories(os.path.dirname(path))
            size = write_file(path, chunks, BLOB_MODE, self._owner.apply, exclusive=fresh)
        if size != member.size:
            raise Damage(f"the pack ends within the blob {member.oid} {member.tid}")

    def _counted(self, chunks: Iterator[memoryview]) -> Iterator[memoryview]:
        for chunk in chunks:
            self._progress.advance(len(chunk))
            yield chunk

    def _is_written(self, member: Member, relative: str) -> bool:
        """Tell whether the file in place has exactly the content of a member."""
        try:
            fd = os.open(f"{self._root}/{relative}", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        digest = hashlib.sha256()
        try:
            if os.fstat(fd).st_size != member.size:
                return False
            while chunk := os.read(fd, CHUNK):
                digest.update(chunk)
        finally:
            os.close(fd)
        return digest.hexdigest() == member.sha256

    def _make_directories(self, path: str) -> None:
        try:
            os.mkdir(path, self._owner.directory_mode)
        except FileNotFoundError:
            self._make_directories(os.path.dirname(path))
            self._make_directories(path)
        except FileExistsError:
            return
        else:
            if (self._owner.uid, self._owner.gid) != (-1, -1):
                os.chown(path, self._owner.uid, self._owner.gid)


def _hashed(chunks: Iterable[memoryview], digest: hashlib._Hash) -> Iterator[memoryview]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
