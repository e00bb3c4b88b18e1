"""Blobs back into a blob directory, in place: what is there is compared, what is missing added, what differs exchanged and kept."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from ...blobs.layout import LAYOUTS
from ...blobs.packs import Member, member_key, pack_members, read_members
from ...blobs.refs import BlobSet
from ...errors import Damage
from ...model.manifest import Pack
from ...runtime.durable import write_file
from ...runtime.ownership import TEMPORARY, Ownership
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Sink

BLOB_MODE: Final = 0o444
CHUNK: Final = 1 << 20


class Record(Protocol):
    """Who remembers, before it happens, what placing does to a directory; told relative paths, by any thread."""

    def add(self, relatives: Iterable[str]) -> None:
        """Tell that there are no such files and that they are going to be made."""
        ...

    def keep(self, relative: str) -> None:
        """Tell that this file is going to be exchanged: the last moment to keep it."""
        ...


class BlobDirectoryWriter:
    """Puts blobs into one directory.

    ``fresh``: there was no blob in it, so nothing has to be compared, and a file that a crash leaves incomplete is found by the next run.
    What is written is checked by the digest of the stored object, the checksum of its frame and the header in the tar; these come after
    the content, so beside blobs of somebody else its own digest decides before a file gets its name.
    """

    def __init__(
        self,
        sink: Sink,
        root: Path,
        layout: str,
        owner: Ownership,
        record: Record,
        progress: Progress,
        *,
        fresh: bool,
    ) -> None:
        self._sink, self._root, self._owner, self._fresh = sink, root, owner, fresh
        self._path_of, self._record, self._progress = LAYOUTS[layout], record, progress

    def place(self, workers: Workers, packs: Iterable[Pack], refs: BlobSet) -> Iterator[list[bytes]]:
        """Place every blob of ``refs`` that the packs have, yield their keys; raise Damage when one is not as it was stored."""
        yield from workers.in_order(partial(self._place, pack, refs) for pack in packs)

    def _place(self, pack: Pack, refs: BlobSet) -> list[bytes]:
        rows = pack_members(self._sink, pack)
        keys = {member.offset: member_key(member) for member in rows}
        wanted = refs.referenced(keys.values())
        paths = {offset: self._path_of(one[:8], one[8:]) for offset, one in keys.items() if one in wanted}
        if self._fresh:
            self._record.add(paths.values())
        todo = {
            m.offset
            for m in rows
            if m.offset in paths and (self._fresh or not self._stands(m, paths[m.offset]))
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
            raise Damage(f"the blob {member.oid} {member.tid} in its pack is not the one that was stored")
        os.rename(final + TEMPORARY, final)

    def _write_new(self, path: str, member: Member, chunks: Iterator[memoryview]) -> None:
        fresh = not path.endswith(TEMPORARY)
        if fresh:  # most objects have one blob, and so no directory yet
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

    def _stands(self, member: Member, relative: str) -> bool:
        """Tell whether the file in place has exactly this content."""
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
