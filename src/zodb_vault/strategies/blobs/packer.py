"""Copy blobs into packs, and find out which blobs are already in the packs of earlier backups."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

import msgspec

from ...blobs.packs import Member, PackWriter, member_key, member_length, member_ref, pack_members
from ...blobs.refs import BlobSet
from ...errors import SourceChanged
from ...model import canonical
from ...model import tid as tids
from ...model.blob import BlobRef
from ...model.manifest import Pack
from ...model.tid import is_in_future
from ...runtime.progress import Progress
from ..base import Sink
from .source import BlobSource, OpenedBlob

# As long as the longest object (``repository/objects.py``), so a pack is usually one object. A longer blob
# has a pack of its own.
PACK_LIMIT: Final = 64 << 20
CHUNK: Final = 1 << 20


class Packed(msgspec.Struct):
    """The result of one job: the packs that it wrote, with the keys (OID + TID) of their blobs.

    ``gone`` is the number of blobs that the source does not have; ``empty`` are blobs without content.
    """

    packs: list[Pack] = []
    keys: list[bytes] = []
    gone: int = 0
    empty: list[BlobRef] = []


class Shared:
    """An iterator for several threads, which can also give an item back.

    ``exhausted`` is True when no item is left. It becomes False again when a thread gives one back.
    """

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
        """Put an item back, for the next thread that asks for one."""
        with self._lock:
            self._returned.append(ref)
            self.exhausted = False


class Packer:
    """Writes packs; the methods may run in several threads."""

    def __init__(self, sink: Sink, folder: str, now: datetime, progress: Progress) -> None:
        self.sink, self.to = sink, f"{folder}/blobs"
        self._now, self._progress = now, progress

    def expect(self, blobs: int) -> None:
        """Report how many blobs will be packed next."""
        self._progress.expect(blobs, "blobs")

    def pack(self, source: BlobSource, refs: Shared) -> Packed:
        """Take blobs from ``refs`` until one pack is full or there are no more."""
        done = Packed([], [], 0, [])
        writer = _Writer(self)
        for wanted in refs:
            blob = source.open(wanted)
            if blob is None:
                done.gone += 1
                self._progress.advance(1)
                continue
            with contextlib.closing(blob):
                if not writer.fits(blob.size):
                    refs.give_back(wanted)
                    break
                if not blob.size:
                    done.empty.append(wanted)
                writer.members.add(wanted.oid, wanted.tid, blob.size, blob.mtime, self._chunks(blob))
                done.keys.append(wanted.oid + wanted.tid)
                self._progress.advance(1)
        if writer.members.members:
            done.packs.append(writer.close())
        return done

    def index(self, members: list[Member]) -> Pack:
        """Store the index of a pack, and return the pack without its parts."""
        meta = self.sink.put_document(
            canonical.rows("blobs", [msgspec.json.encode(member) for member in members])
        )
        newest = max(member.tid for member in members)
        return Pack(
            count=len(members),
            size=sum(member.size for member in members),
            live=sum(member_length(member.size) for member in members),
            last_tid=newest,
            index=meta,
            parts=[],
            future=is_in_future(tids.from_hex(newest), self._now),
        )

    def without_past(self, pack: Pack) -> Pack:
        """Return a pack that is not ``future`` if the clock has passed its TIDs since it was stored."""
        return msgspec.structs.replace(pack, future=is_in_future(tids.from_hex(pack.last_tid), self._now))

    def live(self, pack: Pack, wanted: Callable[[Member], bool]) -> Pack | None:
        """Return the pack with a new index that lists only the wanted members.

        Return the pack itself when all members are wanted, and None when none is.
        """
        rows = pack_members(self.sink, pack)
        keep = [member for member in rows if wanted(member)]
        if len(keep) == len(rows):
            return pack
        if not keep:
            return None
        return msgspec.structs.replace(self.index(keep), parts=pack.parts, future=pack.future)

    def _chunks(self, blob: OpenedBlob) -> Iterator[bytes]:
        # One byte more than the rest is asked for. A blob that has grown then gives too many bytes, which the
        # pack writer notices; otherwise the short answer shows the end of the file, without another read.
        size = blob.size
        while chunk := blob.read(min(CHUNK, size + 1)):
            yield chunk
            size -= len(chunk)
            if size <= 0:
                return


class _Writer:
    """A pack that is being written."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        self._content = packer.sink.content(packer.to)
        self.members = PackWriter(self._content.write)

    def fits(self, size: int) -> bool:
        return not self.members.members or self.members.offset + member_length(size) <= PACK_LIMIT

    def close(self) -> Pack:
        self.members.finish()
        return msgspec.structs.replace(self._packer.index(self.members.members), parts=self._content.close())


def still_holds(source: BlobSource, member: Member) -> bool:
    """Tell whether the source still has exactly the content of a member."""
    blob = source.open(member_ref(member))
    if blob is None:
        return False
    digest = hashlib.sha256()
    with contextlib.closing(blob):
        while chunk := blob.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == member.sha256


def reconcile(
    packer: Packer,
    refs: BlobSet,
    sure_until: str,
    known_until: str,
    pack: Pack,
    holds: Callable[[Member], bool] | None = None,
) -> Pack | None:
    """Return the live part of an earlier pack or None, and mark its blobs as present in ``refs``.

    Blobs up to the TID ``sure_until`` are live: their part of the storage is unchanged. A later blob is live
    only when ``refs`` has it, its TID is not later than ``known_until`` and ``holds`` is true for it. After
    ``known_until`` there may be two timelines that used the same TID for different content.
    """
    if pack.last_tid <= sure_until and not pack.future:
        return pack  # without reading its index

    def wanted(member: Member) -> bool:
        return member.tid <= sure_until or (
            member.tid <= known_until and member_key(member) in refs and (holds is None or holds(member))
        )

    kept = packer.live(pack, wanted)
    if kept is not None:
        refs.mark_present(member_key(member) for member in pack_members(packer.sink, kept))
    return kept


def compare(
    packer: Packer, refs: BlobSet, sure_until: str, pack: Pack, holds: Callable[[Member], bool]
) -> Pack | None:
    """Return what is live of a pack and has the same bytes in the source, for a pack with TIDs of the future.

    Its TIDs do not identify its blobs. Blobs up to the TID ``sure_until`` are live; later ones only when they
    are in ``refs``. A live blob with other bytes is added to ``refs``, so that it is stored.
    """

    def wanted(member: Member) -> bool:
        if member.tid > sure_until and member_key(member) not in refs:
            return False
        if holds(member):
            return True
        refs.add([member_ref(member)])
        return False

    kept = packer.live(pack, wanted)
    if kept is None:
        return None
    refs.mark_present(member_key(member) for member in pack_members(packer.sink, kept))
    return packer.without_past(kept)


def require_unchanged(source: BlobSource, members: Iterable[Member], written: Iterable[Member]) -> None:
    """Raise SourceChanged when a blob changed between the comparison with its member and the new copy."""
    digests = {(member.oid, member.tid): member.sha256 for member in members}
    for member in written:
        if digests.get((member.oid, member.tid), member.sha256) != member.sha256:
            raise SourceChanged(
                f"a blob in {source.root} changed while it was read: {member.oid} {member.tid}"
            )
