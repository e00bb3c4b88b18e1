"""Write the blobs that are left of a database whose backup is damaged."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import msgspec

from ...blobs.layout import LAYOUTS, MARKER
from ...blobs.packs import Member, member_key, pack_members, read_members
from ...errors import Damage
from ...model import chain as chains
from ...model.chain import packs_of
from ...model.manifest import DatabaseEntry, Pack, Part
from ...runtime.durable import sync_file_system
from ...runtime.ownership import TEMPORARY
from ...runtime.progress import Progress
from ..base import Sink

BLOB_MODE: Final = 0o444
CHUNK: Final = 1 << 20
STEP: Final = 4096
# The name of a member: the bushy path of an OID, then the TID (ZODB/blob.py, BushyLayout).
MEMBER: Final = re.compile(r"((?:0x[0-9a-f]{2}/){8})0x([0-9a-f]{16})\.blob")


class EncodedParts(Sink, Protocol):
    """A sink that also gives the encoded bytes of an object."""

    def decrypted(self, part: Part) -> Iterator[bytes]:
        """Yield the zstd file of an object; raise Damage."""
        ...

    def decompressed(self, part: Part, encoded: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the content of an object, given its zstd file; raise Damage."""
        ...


class LostBlob(msgspec.Struct, frozen=True):
    """A blob that is lost. Without OID and TID: ``count`` blobs or packs whose index or list is lost."""

    oid: str | None
    tid: str | None
    count: int
    why: str


def salvage_blobs(entry: DatabaseEntry, sink: EncodedParts, root: Path, progress: Progress) -> list[LostBlob]:
    """Write every blob that is as it was stored into a new blob directory, and return what is lost.

    A blob is good when its own digest is right, also if its pack is damaged after it. Raise OSError.
    """
    layout = entry.layout if entry.layout in LAYOUTS else "bushy"
    root.mkdir(mode=0o700)
    (root / MARKER).write_text(layout)
    directory = _Directory(root, layout, progress)
    lost: list[LostBlob] = []
    packs = packs_of(entry, sink)
    for ref in packs.lists:
        try:
            found = chains.load_list(Pack, sink, ref)
        except Damage as error:
            lost.append(LostBlob(None, None, ref.count, f"a list of packs: {error.message}"))
            continue
        for pack in found:
            lost += _salvage_pack(pack, sink, directory)
    for pack in packs.tail:
        lost += _salvage_pack(pack, sink, directory)
    sync_file_system(root)
    # what a later pack has, and a blob that a damaged earlier one does not give, is not lost
    return [one for one in lost if one.oid is None or not directory.has(one)]


def _salvage_pack(pack: Pack, sink: EncodedParts, directory: _Directory) -> list[LostBlob]:
    try:
        rows = pack_members(sink, pack)
    except Damage as error:
        return _salvage_without_index(pack, sink, directory, error.message)
    left = {member_key(member): member for member in rows}
    why = "the pack has other bytes"
    try:
        for member, chunks in read_members(rows, _read_finely(sink, pack), lambda _member: True):
            if directory.write(member, chunks):
                del left[member_key(member)]
    except Damage as error:
        why = error.message
    return [LostBlob(member.oid, member.tid, 1, why) for member in left.values()]


def _salvage_without_index(pack: Pack, sink: EncodedParts, directory: _Directory, why: str) -> list[LostBlob]:
    """Write the blobs of a pack that is a good tar file; its index, which has their digests, is lost.

    Then only the digest of the whole object proves them, which is known at its end.
    """
    written: list[tuple[str, str]] = []
    try:
        stream = _Stream(sink.read(pack.parts))
        with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as tar:  # type: ignore[call-overload]
            for info in tar:
                match = MEMBER.fullmatch(info.name)
                content = tar.extractfile(info) if match and info.isreg() else None
                if match and content is not None:
                    oid = match.group(1).replace("0x", "").replace("/", "")
                    written.append(
                        directory.stage(oid, match.group(2), iter(partial(content.read, CHUNK), b""))
                    )
        stream.drain()
    except (Damage, tarfile.TarError) as error:
        for temporary, _final in written:
            os.unlink(temporary)
        return [LostBlob(None, None, pack.count, f"the index of a pack: {why}; the pack: {error}")]
    for temporary, final in written:
        os.rename(temporary, final)
    return []


def _read_finely(sink: EncodedParts, pack: Pack) -> Iterator[bytes]:
    """Yield the content of a pack in small steps: what comes before a damage is decoded, too."""
    for part in pack.parts:
        encoded = (
            chunk[start : start + STEP]
            for chunk in sink.decrypted(part)
            for start in range(0, len(chunk), STEP)
        )
        yield from sink.decompressed(part, encoded)


class _Stream:
    """The bytes of a pack as a file that tarfile can read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (chunk := next(self._chunks, b"")):
            self._rest += chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def drain(self) -> None:
        for _chunk in self._chunks:
            pass


class _Directory:
    """The new blob directory. A file gets its name when its content is proven."""

    def __init__(self, root: Path, layout: str, progress: Progress) -> None:
        self._root, self._path_of, self._progress = root, LAYOUTS[layout], progress

    def has(self, blob: LostBlob) -> bool:
        return os.path.exists(self._path((blob.oid or "")[2:], (blob.tid or "")[2:]))

    def write(self, member: Member, chunks: Iterable[memoryview]) -> bool:
        """Write a blob; tell whether it has the digest of the index."""
        digest = hashlib.sha256()
        final = self._path(member.oid[2:], member.tid[2:])
        temporary = self._fill(final, _hashed(chunks, digest))
        good = digest.hexdigest() == member.sha256 and os.path.getsize(temporary) == member.size
        os.rename(temporary, final) if good else os.unlink(temporary)
        return good

    def stage(self, oid: str, tid: str, chunks: Iterable[bytes]) -> tuple[str, str]:
        """Write a blob under a temporary name; return it with the final one."""
        final = self._path(oid, tid)
        return self._fill(final, chunks), final

    def _path(self, oid: str, tid: str) -> str:
        return os.path.join(self._root, self._path_of(bytes.fromhex(oid), bytes.fromhex(tid)))

    def _fill(self, final: str, chunks: Iterable[bytes | memoryview]) -> str:
        os.makedirs(os.path.dirname(final), mode=0o700, exist_ok=True)
        temporary = final + TEMPORARY
        try:
            with open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, BLOB_MODE)) as file:
                for chunk in chunks:
                    file.write(chunk)
                    self._progress.advance(len(chunk))
        except BaseException:
            os.unlink(temporary)
            raise
        return temporary


def _hashed(chunks: Iterable[memoryview], digest: hashlib._Hash) -> Iterator[memoryview]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
