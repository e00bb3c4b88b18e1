"""Copies blob files into packs, and finds out which blobs the packs of earlier backups have already."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec

from ..blobs.layout import LAYOUTS
from ..blobs.packs import Index, Member, PackWriter, room
from ..blobs.refs import BlobSet
from ..errors import SourceChanged, SourceError
from ..model import canonical
from ..model import tid as tids
from ..model.blob import BlobRef
from ..model.manifest import Pack
from .base import Progress, Sink
from .standing import later_than

PACK_LIMIT: Final = 64 << 20
CHUNK: Final = 1 << 20
GONE: Final = (errno.ENOENT, errno.ENOTDIR)


class Opened(Protocol):
    """A blob that is being read: its length, and when it was written."""

    @property
    def size(self) -> int:
        """Return how many bytes it has."""
        ...

    @property
    def mtime(self) -> int:
        """Return when it was written, in seconds since 1970."""
        ...

    def read(self, length: int) -> bytes:
        """Return at most so many bytes more, none at the end; raise SourceError."""
        ...

    def close(self) -> None:
        """End reading."""
        ...


class BlobPlace(Protocol):
    """Where the blobs of a source lie; ``far``: each one is waited for, so that many should be on their way at once."""

    far: bool

    @property
    def root(self) -> Path | str:
        """Return the place as a whole, as messages name it."""
        ...

    def path(self, ref: BlobRef) -> Path | str:
        """Return where a blob should be, as messages name it."""
        ...

    def open(self, ref: BlobRef) -> Opened | None:
        """Return a blob, None when it is not there; raise SourceError when it cannot be opened."""
        ...


class OpenFile:
    """A blob that is a file."""

    def __init__(self, directory: BlobDirectory, ref: BlobRef, fd: int) -> None:
        self._directory, self._ref, self._fd = directory, ref, fd
        info = os.fstat(fd)
        self.size, self.mtime = info.st_size, int(info.st_mtime)

    def read(self, length: int) -> bytes:
        """Return the next bytes."""
        return self._directory.read(self._ref, self._fd, length)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class BlobDirectory:
    """Opens blobs of a directory; with ``kept`` also those that a pack moved to ``<blob-dir>.old``."""

    far = False

    def __init__(self, root: Path, layout: str) -> None:
        self.root, self.layout = root, layout
        self._path_of = LAYOUTS[layout]

    def path(self, ref: BlobRef) -> Path:
        """Return where the blob should be."""
        return self.root / self._path_of(ref.oid, ref.tid)

    def open(self, ref: BlobRef) -> OpenFile | None:
        """Return the open file, or None when there is no such file; raise SourceError when it cannot be opened."""
        path = f"{self.root}/{self._path_of(ref.oid, ref.tid)}"
        try:
            return OpenFile(self, ref, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in GONE:
                return None
            raise self._unreadable(ref, error) from None

    def read(self, ref: BlobRef, fd: int, length: int) -> bytes:
        """Return the next bytes of an open blob; raise SourceError."""
        try:
            return os.read(fd, length)
        except OSError as error:
            raise self._unreadable(ref, error) from None

    def _unreadable(self, ref: BlobRef, error: OSError) -> SourceError:
        why = os.strerror(error.errno or 0)
        return SourceError(f"the blob {self.path(ref)} cannot be read: {why}", "run as the user that owns the site, and check the disk")

    def kept(self) -> BlobDirectory | None:
        """Return the directory where a pack keeps what it removed, None when there is none."""
        old = Path(f"{self.root}.old")
        return BlobDirectory(old, self.layout) if old.is_dir() else None


class Packed(msgspec.Struct):
    """Packs that were written with the keys (OID + TID) of their blobs, how many blobs were not there, which are empty."""

    packs: list[Pack] = []
    keys: list[bytes] = []
    gone: int = 0
    empty: list[BlobRef] = []


class Shared:
    """One iterator that several threads take from and give back to; ``exhausted`` when nothing is left."""

    def __init__(self, refs: Iterable[BlobRef]) -> None:
        self._refs, self._lock = iter(refs), threading.Lock()
        self._returned: list[BlobRef] = []
        self.exhausted = False

    def __iter__(self) -> Iterator[BlobRef]:
        return self

    def __next__(self) -> BlobRef:
        with self._lock:
            if self._returned:
                return self._returned.pop()
            found = next(self._refs, None)
            if found is None:
                self.exhausted = True
                raise StopIteration
            return found

    def give_back(self, ref: BlobRef) -> None:
        """Let the next taker have it."""
        with self._lock:
            self._returned.append(ref)
            self.exhausted = False


class Packer:
    """Writes packs; its methods may run in several threads."""

    def __init__(self, sink: Sink, folder: str, now: datetime, progress: Progress) -> None:
        self.sink, self.to = sink, f"{folder}/blobs"
        self._now, self._progress = now, progress

    def pack(self, place: BlobPlace, refs: Shared) -> Packed:
        """Take blobs from ``refs`` until one pack is full or there are no more."""
        done = Packed([], [], 0, [])
        writer = _Writer(self)
        for ref in refs:
            blob = place.open(ref)
            if blob is None:
                done.gone += 1
                continue
            with contextlib.closing(blob):
                if not writer.fits(blob.size):
                    refs.give_back(ref)
                    break
                if not blob.size:
                    done.empty.append(ref)
                writer.members.add(ref.oid, ref.tid, blob.size, blob.mtime, self._chunks(blob))
                done.keys.append(ref.oid + ref.tid)
        if writer.members.members:
            done.packs.append(writer.close())
        return done

    def index(self, members: list[Member]) -> Pack:
        """Store an index and return the pack that it describes, still without parts."""
        meta = self.sink.put_document(canonical.rows("blobs", [msgspec.json.encode(member) for member in members]))
        newest = max(member.tid for member in members)
        return Pack(
            count=len(members), size=sum(member.size for member in members),
            live=sum(room(member.size) for member in members), last_tid=newest, index=meta, parts=[],
            future=later_than(tids.from_hex(newest), self._now),
        )  # fmt: skip

    def live(self, pack: Pack, wanted: Callable[[Member], bool]) -> Pack | None:
        """Return the pack with an index of its wanted members only, itself when that is all, None when it is nothing."""
        rows = members_of(self.sink, pack)
        keep = [member for member in rows if wanted(member)]
        if len(keep) == len(rows):
            return pack
        if not keep:
            return None
        return msgspec.structs.replace(self.index(keep), parts=pack.parts, future=pack.future)

    def _chunks(self, blob: Opened) -> Iterator[bytes]:
        # a byte more is asked for than there should be: a short answer says that the file ends there
        size = blob.size
        while chunk := blob.read(min(CHUNK, size + 1)):
            self._progress.advance(len(chunk))
            yield chunk
            size -= len(chunk)
            if size <= 0:
                return


class _Writer:
    """One pack in the making."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        self._content = packer.sink.content(packer.to)
        self.members = PackWriter(self._content.write)

    def fits(self, size: int) -> bool:
        return not self.members.members or self.members.offset + room(size) <= PACK_LIMIT

    def close(self) -> Pack:
        self.members.finish()
        return msgspec.structs.replace(self._packer.index(self.members.members), parts=self._content.close())


def members_of(sink: Sink, pack: Pack) -> list[Member]:
    """Return the live members of a pack."""
    return msgspec.json.decode(sink.document(pack.index.meta), type=Index).rows


def key(member: Member) -> bytes:
    """Return the OID and TID of a member as one key."""
    return bytes.fromhex(member.oid[2:] + member.tid[2:])


def ref(member: Member) -> BlobRef:
    """Return the blob revision that a member is."""
    return BlobRef(tids.from_hex(member.oid), tids.from_hex(member.tid), True)


def still_holds(place: BlobPlace, member: Member) -> bool:
    """Tell whether the source gives exactly the bytes that a member was made from."""
    blob = place.open(ref(member))
    if blob is None:
        return False
    digest = hashlib.sha256()
    with contextlib.closing(blob):
        while chunk := blob.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == member.sha256


def reconcile(
    packer: Packer, refs: BlobSet, sure_until: str, known_until: str, pack: Pack, holds: Callable[[Member], bool] | None = None
) -> Pack | None:
    """Return what is live of an earlier pack, and note in ``refs`` what it has.

    Blobs up to the TID ``sure_until`` are live by what is known of their part of the file; later ones only when they are
    asked for, and not beyond ``known_until``, where two lines can have used one TID for two contents, and if what they hold ``holds``.
    """
    if pack.last_tid <= sure_until and not pack.future:
        return pack

    def wanted(member: Member) -> bool:
        return member.tid <= sure_until or (member.tid <= known_until and key(member) in refs and (holds is None or holds(member)))

    kept = packer.live(pack, wanted)
    if kept is not None:
        refs.have(key(member) for member in members_of(packer.sink, kept))
    return kept


def require_unchanged(place: BlobPlace, members: Iterable[Member], written: Iterable[Member]) -> None:
    """Raise SourceChanged when a blob that was compared a moment ago was written with another digest."""
    digests = {(member.oid, member.tid): member.sha256 for member in members}
    for member in written:
        if digests.get((member.oid, member.tid), member.sha256) != member.sha256:
            raise SourceChanged(f"a blob in {place.root} changed while it was read: {member.oid} {member.tid}")
