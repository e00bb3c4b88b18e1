"""Bring objects from one repository to another, as they are stored there or encoded anew; each is compared with its name while it passes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec

from ...blobs.packs import PackIndex, read_members
from ...errors import Damage, KeyMissing
from ...model.manifest import Codec, Part
from ...repository.objects import meta_key, object_key
from ...repository.references import NAME, Reference, part_of, read_list, references
from ...repository.repository import Repository
from ...runtime import shutdown
from ...runtime.progress import Progress
from ...stores.base import Store


class ExistingObjects:
    """What a repository has stored: bytes by name. It can be relied on while nothing is swept."""

    def __init__(self, store: Store) -> None:
        entries = (entry for prefix in ("meta/", "objects/") for entry in store.list(prefix))
        named = ((entry.key.rpartition("/")[2], entry.size) for entry in entries)
        # of a large site these are hundreds of thousands
        self._sizes = {bytes.fromhex(name): size for name, size in named if NAME.match(name)}

    def __contains__(self, name: str) -> bool:
        return bytes.fromhex(name) in self._sizes

    def size(self, name: str) -> int:
        """Return the bytes that are stored under a name."""
        return self._sizes[bytes.fromhex(name)]

    def add(self, name: str, size: int) -> None:
        """Note what was stored."""
        self._sizes[bytes.fromhex(name)] = size


class Carried(msgspec.Struct, frozen=True):
    """What was brought: its name in the source, its name and bytes in the target, and, of content, its codec there."""

    of: str
    name: str
    stored: int
    codec: Codec | None = None


Job = Callable[[], list[Carried]]


class ObjectCopier:
    """Brings single objects over; its methods may run in several threads."""

    def __init__(self, source: Repository, target: Repository, progress: Progress) -> None:
        self._source, self._target = source, target
        self._from, self._to = source.objects(""), target.objects("")
        self._progress = progress

    def as_stored(self, key: str, name: str, codec: Codec | None = None) -> list[Carried]:
        """Bring what is stored under a key; raise Damage."""
        staging, digest, size = self._target.store.stage(), hashlib.sha256(), 0
        try:
            for chunk in self._source.store.stream(key):
                shutdown.check()
                digest.update(chunk)
                staging.write(chunk)
                size += len(chunk)
                self._progress.advance(len(chunk))
            if digest.hexdigest() != name:
                raise Damage(
                    f"{key} in {self._source.store.location} is damaged: its bytes do not match its name"
                )
            staging.store(key)
        except KeyMissing:
            raise Damage(f"{key} is missing in {self._source.store.location}") from None
        finally:
            staging.discard()
        return [Carried(name, name, size, codec)]

    def anew(self, whole: Mapping[str, Any], parts: Iterable[Part]) -> list[Carried]:
        """Bring parts, encoded as the target has it; raise Damage also when they are not what is said of the ``whole`` that they make."""
        carried: list[Carried] = []
        content = self._passing(parts, carried)
        match whole:
            case {"index": {"meta": str(index)}}:
                self._compare_blobs(index, content)
            case {"sha256": str(expected)}:
                digest = hashlib.sha256()
                for chunk in content:
                    digest.update(chunk)
                if digest.hexdigest() != expected:
                    raise Damage(
                        f"a segment in {self._source.store.location} does not hold the bytes that were read from the source"
                    )
            case _:
                for _chunk in content:
                    pass
        return carried

    def _passing(self, parts: Iterable[Part], carried: list[Carried]) -> Iterator[bytes]:
        """Yield the content of parts while they are stored anew; what is compressed stays as it is."""
        for part in parts:
            sealed = self._to.object_writer()
            try:
                yield from self._from.decompressed(
                    part, self._kept(self._from.decrypted(part), sealed.write_encoded)
                )
                name = sealed.store(object_key)
            finally:
                sealed.discard()
            carried.append(Carried(part.object, name, sealed.stored, self._to.codec))

    def _kept(self, chunks: Iterable[bytes], keep: Any) -> Iterator[bytes]:
        for chunk in chunks:
            keep(chunk)
            self._progress.advance(len(chunk))
            yield chunk

    def _compare_blobs(self, index: str, content: Iterator[bytes]) -> None:
        rows = msgspec.json.decode(self._from.document(index), type=PackIndex).rows
        for member, chunks in read_members(rows, content, lambda _member: True):
            digest = hashlib.sha256()
            for chunk in chunks:
                digest.update(chunk)
            if digest.hexdigest() != member.sha256:
                where = f"{member.oid} {member.tid} in {self._source.store.location}"
                raise Damage(f"the blob {where} does not hold the bytes that were read from the source")


class Unchanged:
    """Brings over what a backup needs as it is stored, under the same names; what the target has is passed over."""

    def __init__(self, source: Repository, carrier: ObjectCopier, stock: ExistingObjects) -> None:
        self._carrier, self._stock = carrier, stock
        self._documents = source.objects("")
        # lists of which everything has been brought over
        self._whole: set[str] = set()

    def begin(self, document: Any) -> int:
        """Return the bytes that a backup needs."""
        return sum(
            int(found.attributes.get("stored", 0))
            for found in self._lacking(document, set())
            if found.kind != "list"
        )

    def jobs(self, document: Any) -> Iterator[Job]:
        """Yield what brings over all that the target lacks of a backup; ``took`` has to be told what each has brought."""
        for found in self._lacking(document, set()):
            codec = part_of(found).codec if found.kind == "content" else None
            key = (object_key if found.kind == "content" else meta_key)(found.name)
            yield partial(self._carrier.as_stored, key, found.name, codec)

    def took(self, one: Carried) -> None:
        """Note what was brought over."""
        self._stock.add(one.name, one.stored)

    def renamed(self, document: Any) -> Any:
        """Return a backup as the target has it, when all that it needs was brought over."""
        self._whole |= {found.name for found in references(document) if found.kind == "list"}
        return document

    def _lacking(self, document: Any, asked: set[str]) -> Iterator[Reference]:
        for found in references(document):
            if found.name in asked or found.name in self._whole:
                continue
            asked.add(found.name)
            if found.name not in self._stock:
                yield found
            if found.kind == "list":
                yield from self._lacking(read_list(found.name, self._documents), asked)
