"""Immutable objects named by the SHA-256 of their stored bytes: content under ``objects/``, documents under ``meta/``."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from typing import Final

from ..errors import Damage, KeyMissing
from ..model.manifest import Meta, Part
from ..stores.base import Store
from .codec import Encoder, decode

PART_RAW: Final = 64 << 20
DECODE_CHUNK: Final = 256 << 10


def object_key(name: str) -> str:
    """Return the key of content."""
    return f"objects/{name[:2]}/{name}"


def meta_key(name: str) -> str:
    """Return the key of a document."""
    return f"meta/{name[:2]}/{name}"


class _Object:
    """One object while it is encoded: its stored bytes stay in memory until the name is known."""

    def __init__(self, run: str, far: bool) -> None:
        self._encoder = Encoder(run, far)
        self._digest = hashlib.sha256()
        self.chunks: list[bytes] = []
        self.raw = self.stored = 0
        self._keep(self._encoder.head)

    def write(self, data: bytes | memoryview) -> None:
        self.raw += len(data)
        self._keep(self._encoder.encode(bytes(data) if isinstance(data, memoryview) else data))

    def finish(self) -> str:
        self._keep(self._encoder.finish())
        return self._digest.hexdigest()

    def _keep(self, encoded: bytes) -> None:
        if encoded:
            self._digest.update(encoded)
            self.chunks.append(encoded)
            self.stored += len(encoded)


class ContentWriter:
    """Stores a stream of content as one or more objects of bounded length; ``close`` returns their parts in order."""

    def __init__(self, objects: Objects, to: str, far: bool) -> None:
        self._objects, self._to, self._far = objects, to, far
        self._object: _Object | None = None
        self._parts: list[Part] = []

    def write(self, data: bytes) -> None:
        """Append; an object that is full becomes durable before this returns."""
        view = memoryview(data)
        while len(view):
            self._object = self._object or _Object(self._objects.run, self._far)
            piece = view[: PART_RAW - self._object.raw]
            self._object.write(data if len(piece) == len(data) else piece)
            view = view[len(piece) :]
            if self._object.raw == PART_RAW:
                self._store_object()

    def close(self) -> list[Part]:
        """Make the rest durable and return all parts; content of no length has one empty object."""
        if self._object is None and not self._parts:
            self._object = _Object(self._objects.run, self._far)
        if self._object is not None:
            self._store_object()
        return self._parts

    def _store_object(self) -> None:
        assert self._object is not None
        whole, self._object = self._object, None
        name = whole.finish()
        self._objects.store_new(object_key(name), whole.chunks)
        self._parts.append(Part(object=name, raw=whole.raw, stored=whole.stored, to=self._to))


class Objects:
    """The objects of a repository, written in the name of one ``run``."""

    def __init__(self, store: Store, run: str) -> None:
        self._store, self.run = store, run
        self._lock = threading.Lock()
        self.written = 0

    def content(self, to: str, *, far: bool = False) -> ContentWriter:
        """Return a writer for content that belongs to ``to`` (see Part)."""
        return ContentWriter(self, to, far)

    def put_document(self, data: bytes) -> Meta:
        """Store a document and return its name."""
        document = _Object(self.run, far=False)
        document.write(data)
        name = document.finish()
        self.store_new(meta_key(name), document.chunks)
        return Meta(meta=name, stored=document.stored)

    def store_new(self, key: str, chunks: list[bytes]) -> None:
        """Store the bytes of one object and count them; ``written`` is the sum."""
        size = self._store.put(key, chunks)
        with self._lock:
            self.written += size

    def document(self, name: str) -> bytes:
        """Return a document; raise Damage when it is missing or damaged."""
        return b"".join(decode(self._checked(meta_key(name), name), None, name))

    def read(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Yield the content of parts in order.

        Raise Damage when an object is missing or damaged; bytes that were yielded before that are not to be trusted.
        """
        for part in parts:
            stored = _cut(self._checked(object_key(part.object), part.object), DECODE_CHUNK)
            yield from decode(stored, part.raw, part.object)

    def check(self, key: str, name: str) -> int:
        """Read an object, compare its bytes with its name, and return their number; raise Damage."""
        return sum(map(len, self._checked(key, name)))

    def _checked(self, key: str, name: str) -> Iterator[bytes]:
        digest = hashlib.sha256()
        try:
            for chunk in self._store.stream(key):
                digest.update(chunk)
                yield chunk
        except KeyMissing:
            raise Damage(f"{key} is missing") from None
        if digest.hexdigest() != name:
            raise Damage(f"{key} is damaged: its bytes do not match its name")


def _cut(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), size):
            yield chunk[start : start + size]
