"""Packs: tar files of blobs, with an index of the offset of each blob.

A member has the same path as in a bushy blob directory, so ``tar -x`` of a pack makes a blob directory. The
header format is POSIX.1-1988 (ustar). Sizes from 8 GiB on are in base 256, as in GNU tar.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from ..errors import Damage, SourceChanged
from ..model import canonical
from ..model import tid as tids
from ..model.blob import BlobRef
from ..model.chain import Documents
from ..model.manifest import Pack
from .layout import bushy

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
OCTAL_LIMIT: Final = 8**11


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One blob of a pack: its content begins at ``offset`` of the tar and has ``size`` bytes."""

    oid: str
    tid: str
    offset: int
    size: int
    sha256: str


class PackIndex(msgspec.Struct, frozen=True):
    """The document under ``meta/`` that lists the live blobs of a pack by ascending offset."""

    rows: list[Member]


def tar_header(name: str, size: int, mtime: int) -> bytes:
    """Return the tar header of a regular file with mode 0444."""
    when = b"%011o\0" % min(max(0, mtime), OCTAL_LIMIT - 1)
    front = name.encode("ascii").ljust(100, b"\0") + b"0000444\0" + b"0000000\0" * 2 + _length(size) + when
    back = b"0" + bytes(100) + b"ustar\00000" + bytes(64) + b"0000000\0" * 2
    total = sum(front) + 8 * ord(" ") + sum(back)
    return (front + b"%06o\0 " % total + back).ljust(BLOCK, b"\0")


def _length(size: int) -> bytes:
    return b"%011o\0" % size if size < OCTAL_LIMIT else b"\x80" + size.to_bytes(11, "big")


def padding(size: int) -> bytes:
    """Return the zero bytes that fill the last block of a member."""
    return bytes(-size % BLOCK)


def member_length(size: int) -> int:
    """Return the bytes that a member takes in a tar, with header and padding."""
    return BLOCK + size + -size % BLOCK


class PackWriter:
    """Writes the members of a pack, one after the other, by calling ``write``.

    ``members`` are those written so far, ``offset`` is the length of the tar so far.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self.offset = 0
        self.members: list[Member] = []

    def add(self, oid: bytes, tid: bytes, size: int, mtime: int, chunks: Iterable[bytes]) -> Member:
        """Append a blob of ``size`` bytes and return its entry in the index.

        Raise SourceChanged when the chunks have another length.
        """
        name = bushy(oid, tid)
        self._put(tar_header(name, size, mtime))
        start, digest = self.offset, hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
            self._put(chunk)
        if self.offset - start != size:
            raise SourceChanged(
                f"the blob {name} changed from {size} to {self.offset - start} bytes while it was read"
            )
        self._put(padding(size))
        self.members.append(Member("0x" + oid.hex(), "0x" + tid.hex(), start, size, digest.hexdigest()))
        return self.members[-1]

    def finish(self) -> None:
        """Write the end of the archive."""
        self._put(END)

    def _put(self, data: bytes) -> None:
        self._write(data)
        self.offset += len(data)


def read_members(
    index: list[Member], chunks: Iterable[bytes], wanted: Callable[[Member], bool]
) -> Iterator[tuple[Member, Iterator[memoryview]]]:
    """Yield each wanted member with its content, in one pass over the chunks of the tar.

    Read all content of a member before the next member. If the tar is too short, the content ends early.
    Raise Damage when the tar does not have a member at the offset in the index.
    """
    source = _Cursor(iter(chunks))
    for member in index:
        if wanted(member):
            source.skip_to(member.offset - BLOCK)
            _require_header(b"".join(source.take(BLOCK)), member)
            yield member, source.take(member.size)
    source.drain()


def _require_header(block: bytes, member: Member) -> None:
    name, size = block[:100].rstrip(b"\0").decode("ascii", "replace"), block[124:136]
    expected = bushy(bytes.fromhex(member.oid[2:]), bytes.fromhex(member.tid[2:]))
    if name != expected or size != _length(member.size):
        raise Damage(f"the pack has no blob {expected} at offset {member.offset}, as its index says")


class _Cursor:
    """A position in a stream of chunks; it returns views without copying, as small blobs share a chunk."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = memoryview(b"")
        self._start = 0

    def skip_to(self, offset: int) -> None:
        while self._start + len(self._chunk) <= offset and self._next():
            pass
        self._chunk, self._start = self._chunk[offset - self._start :], offset

    def take(self, size: int) -> Iterator[memoryview]:
        while size > 0 and (self._chunk or self._next()):
            piece = self._chunk[:size]
            self._chunk = self._chunk[len(piece) :]
            self._start += len(piece)
            size -= len(piece)
            yield piece

    def drain(self) -> None:
        # read to the end: the digest of the stored bytes is checked only there
        while self._next():
            pass

    def _next(self) -> bool:
        self._start += len(self._chunk)
        self._chunk = memoryview(next(self._chunks, b""))
        return bool(self._chunk)


def pack_members(documents: Documents, pack: Pack) -> list[Member]:
    """Return the live members of a pack; raise Damage."""
    name = pack.index.meta
    return canonical.decode(documents.document(name), PackIndex, f"the list {name}").rows


def member_key(member: Member) -> bytes:
    """Return the OID and TID of a member as one key."""
    return bytes.fromhex(member.oid[2:] + member.tid[2:])


def member_ref(member: Member) -> BlobRef:
    """Return the blob revision of a member."""
    return BlobRef(tids.from_hex(member.oid), tids.from_hex(member.tid), True)
