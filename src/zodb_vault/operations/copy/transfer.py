"""Copy single objects between repositories, as they are stored or re-encrypted, and check each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from ...blobs.packs import PackIndex, read_members
from ...errors import Damage
from ...model.manifest import Codec, Part
from ...repository.objects import object_key
from ...repository.references import NAME
from ...repository.repository import Repository
from ...runtime.progress import Progress
from ...stores.base import Store


class Transferred(msgspec.Struct, frozen=True):
    """One object that was copied: names in source and target, bytes in the target, codec of content."""

    of: str
    name: str
    stored: int
    codec: Codec | None = None


Job = Callable[[], list[Transferred]]


class BackupTransfer(Protocol):
    """The copy of one backup, as it is stored or re-encrypted."""

    size: int
    """Bytes that have to be read from the source."""

    def jobs(self) -> Iterator[Job]:
        """Yield jobs that copy what the target does not have; call ``add`` with each result, in order."""
        ...

    def add(self, one: Transferred) -> None:
        """Note that an object was copied."""
        ...

    def manifest(self) -> dict[str, Any]:
        """Return the manifest with the names of the target, after all jobs are done."""
        ...


class ExistingObjects:
    """Sizes of what a repository has stored, by name. This can be relied on while nothing is swept."""

    def __init__(self, store: Store) -> None:
        entries = (entry for prefix in ("meta/", "objects/") for entry in store.list(prefix))
        named = ((entry.key.rpartition("/")[2], entry.size) for entry in entries)
        # a large site has hundreds of thousands of objects; as bytes, the names take half the memory
        self._sizes = {bytes.fromhex(name): size for name, size in named if NAME.match(name)}

    def __contains__(self, name: str) -> bool:
        return bytes.fromhex(name) in self._sizes

    def size(self, name: str) -> int:
        """Return the bytes that are stored under a name."""
        return self._sizes[bytes.fromhex(name)]

    def add(self, name: str, size: int) -> None:
        """Note what was stored."""
        self._sizes[bytes.fromhex(name)] = size


class ObjectCopier:
    """Copies single objects; its methods may run in several threads."""

    def __init__(self, source: Repository, target: Repository, progress: Progress) -> None:
        self._source, self._target = source, target
        self._from, self._to = source.objects(""), target.objects("")
        self._progress = progress

    def copy(self, key: str, name: str, codec: Codec | None = None) -> list[Transferred]:
        """Copy the bytes under a key; raise Damage if they do not match the name, which is their SHA-256."""
        staging, size = self._target.store.stage(), 0
        try:
            for chunk in self._from.stored_bytes(key, name):
                staging.write(chunk)
                size += len(chunk)
                self._progress.advance(len(chunk))
            staging.store(key)
        finally:
            staging.discard()
        return [Transferred(name, name, size, codec)]

    def reencrypt(self, whole: Mapping[str, Any], parts: Iterable[Part]) -> list[Transferred]:
        """Store parts with the encryption of the target.

        ``whole`` is the entry of a manifest or list that the parts belong to. If it has the digest of the
        content, the decoded content is compared with it. Raise Damage.
        """
        transferred: list[Transferred] = []
        content = self._decoded_while_stored(parts, transferred)
        match whole:
            case {"index": {"meta": str(index)}}:
                self._check_blobs(index, content)
            case {"sha256": str(expected)}:
                self._check_segment(expected, content)
            case _:
                for _chunk in content:
                    pass
        return transferred

    def _decoded_while_stored(self, parts: Iterable[Part], transferred: list[Transferred]) -> Iterator[bytes]:
        """Yield the content of parts while they are encrypted and stored; they are not compressed again."""
        for part in parts:
            writer = self._to.object_writer()
            try:
                compressed = self._written(self._from.decrypted(part), writer.write_encoded)
                yield from self._from.decompressed(part, compressed)
                name = writer.store(object_key)
            finally:
                writer.discard()
            transferred.append(Transferred(part.object, name, writer.stored, self._to.codec))

    def _written(self, chunks: Iterable[bytes], write: Callable[[bytes], object]) -> Iterator[bytes]:
        for chunk in chunks:
            write(chunk)
            self._progress.advance(len(chunk))
            yield chunk

    def _check_segment(self, expected: str, content: Iterator[bytes]) -> None:
        digest = hashlib.sha256()
        for chunk in content:
            digest.update(chunk)
        if digest.hexdigest() != expected:
            where = self._source.store.location
            raise Damage(f"a segment in {where} does not have the bytes that were read from the site")

    def _check_blobs(self, index: str, content: Iterator[bytes]) -> None:
        rows = msgspec.json.decode(self._from.document(index), type=PackIndex).rows
        for member, chunks in read_members(rows, content, lambda _member: True):
            digest = hashlib.sha256()
            for chunk in chunks:
                digest.update(chunk)
            if digest.hexdigest() != member.sha256:
                where = f"{member.oid} {member.tid} in {self._source.store.location}"
                raise Damage(f"the blob {where} does not have the bytes that were read from the site")
