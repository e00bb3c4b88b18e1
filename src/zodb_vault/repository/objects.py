"""Immutable objects named by the SHA-256 of their stored bytes.

Content under ``objects/``, documents under ``meta/``.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ..errors import Damage, KeyMissing
from ..model.manifest import Codec, DocumentRef, Part
from ..runtime import shutdown
from ..stores.base import Store
from .codec import Encoder, decode
from .encryption import EncryptionKeys, Encryptor

PART_RAW: Final = 64 << 20
DECODE_CHUNK: Final = 256 << 10


def object_key(name: str) -> str:
    """Return the key of content."""
    return f"objects/{name[:2]}/{name}"


def meta_key(name: str) -> str:
    """Return the key of a document."""
    return f"meta/{name[:2]}/{name}"


class ObjectWriter:
    """One object while its zstd file is encrypted, if it is; its name is known at its end."""

    def __init__(self, store: Store, sealer: Encryptor | None = None) -> None:
        self._sealer = sealer
        self._digest = hashlib.sha256()
        self._staging = store.stage()
        self.stored = 0

    def write_encoded(self, encoded: bytes) -> None:
        """Append to the zstd file."""
        self._store(self._sealer.encode(encoded) if self._sealer else encoded)

    def store(self, key_of: Callable[[str], str]) -> str:
        """Store the object and return its name."""
        if self._sealer:
            self._store(self._sealer.finish())
        name = self._digest.hexdigest()
        self._staging.store(key_of(name))
        return name

    def discard(self) -> None:
        """Forget it."""
        self._staging.discard()

    def _store(self, data: bytes) -> None:
        if data:
            self._digest.update(data)
            self._staging.write(data)
            self.stored += len(data)


class _Object(ObjectWriter):
    """One object while it is encoded."""

    def __init__(self, store: Store, run: str, long_distance: bool, sealer: Encryptor | None = None) -> None:
        super().__init__(store, sealer)
        self._encoder = Encoder(run, long_distance)
        self.raw = 0
        self.write_encoded(self._encoder.head)

    def write(self, data: bytes | memoryview) -> None:
        self.raw += len(data)
        self.write_encoded(self._encoder.encode(data))

    def finish(self, key_of: Callable[[str], str]) -> str:
        self.write_encoded(self._encoder.finish())
        return self.store(key_of)


class ContentWriter:
    """Stores a stream of content as one or more objects of bounded length.

    ``close`` returns their parts in order.
    """

    def __init__(self, objects: Objects, to: str, long_distance: bool) -> None:
        self._objects, self.to, self._long_distance = objects, to, long_distance
        self._object: _Object | None = None
        self._parts: list[Part] = []

    def write(self, data: bytes | memoryview) -> None:
        """Append; an object that is full becomes durable before this returns."""
        shutdown.check()
        view = memoryview(data)
        while len(view):
            self._object = self._object or self._objects.begin(self._long_distance, sealed=True)
            piece = view[: PART_RAW - self._object.raw]
            self._object.write(piece)
            view = view[len(piece) :]
            if self._object.raw == PART_RAW:
                self._store_object()

    def close(self) -> list[Part]:
        """Make the rest durable and return all parts; content of no length has one empty object."""
        if self._object is None and not self._parts:
            self._object = self._objects.begin(self._long_distance, sealed=True)
        if self._object is not None:
            self._store_object()
        return self._parts

    def _store_object(self) -> None:
        assert self._object is not None
        whole, self._object = self._object, None
        name = whole.finish(object_key)
        self._objects.count(name, whole.stored)
        self._parts.append(
            Part(object=name, raw=whole.raw, stored=whole.stored, to=self.to, codec=self._objects.codec)
        )


class Objects:
    """The objects of a repository, written in the name of one ``run``."""

    def __init__(self, store: Store, run: str, keys: EncryptionKeys | None = None) -> None:
        self._store, self.run, self._keys = store, run, keys or EncryptionKeys()
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self.written = 0

    def content(self, to: str, *, long_distance: bool = False) -> ContentWriter:
        """Return a writer for content that belongs to ``to`` (see Part)."""
        return ContentWriter(self, to, long_distance)

    @property
    def codec(self) -> Codec:
        """Return how content is stored."""
        return "zstd+age" if self._keys.recipients else "zstd"

    def begin(self, long_distance: bool, *, sealed: bool) -> _Object:
        """Return an empty object; a ``sealed`` one is encrypted if there are recipients."""
        return _Object(
            self._store,
            self.run,
            long_distance,
            self._keys.encryptor() if sealed and self._keys.recipients else None,
        )

    def object_writer(self) -> ObjectWriter:
        """Return an object to be, for a zstd file that was encoded before."""
        return ObjectWriter(self._store, self._keys.encryptor() if self._keys.recipients else None)

    def put_document(self, data: bytes) -> DocumentRef:
        """Store a document and return its name."""
        document = self.begin(long_distance=False, sealed=False)
        document.write(data)
        name = document.finish(meta_key)
        self.count(name, document.stored)
        return DocumentRef(meta=name, stored=document.stored)

    def has_written(self, key: str) -> bool:
        """Tell whether this run has stored what is under a key."""
        return key.rpartition("/")[2] in self._names

    def count(self, name: str, size: int) -> None:
        """Add to the bytes ``written`` by this run, once for the same content stored twice."""
        with self._lock:
            self.written += size if name not in self._names else 0
            self._names.add(name)

    def document(self, name: str) -> bytes:
        """Return a document; raise Damage when it is missing or damaged."""
        return b"".join(decode(self._checked(meta_key(name), name), None, name))

    def read(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Yield the content of parts in order.

        Raise Damage when an object is missing or damaged, KeyNeeded when it is encrypted and the key is not
        here; bytes that were yielded before that are not to be trusted.
        """
        for part in parts:
            yield from self.decompressed(part, self.decrypted(part))

    def decrypted(self, part: Part) -> Iterator[bytes]:
        """Yield the zstd file that an object is, as ``read`` does its content."""
        stored = self._checked(object_key(part.object), part.object)
        return self._keys.decrypt(stored, part.object) if part.codec == "zstd+age" else stored

    def decompressed(self, part: Part, opened: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the content of an object that was opened."""
        return decode(_cut(opened, DECODE_CHUNK), part.raw, part.object)

    def require_key(self, part: Part) -> None:
        """Raise KeyNeeded unless the private key opens an object, of which only the beginning is read.

        That says nothing about damage.
        """
        if part.codec != "zstd+age":
            return
        with contextlib.suppress(Damage, KeyMissing):
            for _chunk in self._keys.decrypt(
                itertools.islice(self._store.stream(object_key(part.object)), 1), part.object
            ):
                pass

    def cannot_decrypt(self, parts: Iterable[Part]) -> bool:
        """Tell whether parts are encrypted and nothing says where the key is."""
        return any(part.codec == "zstd+age" for part in parts) and not self._keys.identities

    def check(self, key: str, name: str) -> int:
        """Read an object, compare its bytes with its name, and return their number; raise Damage."""
        return sum(map(len, self._checked(key, name)))

    def _checked(self, key: str, name: str) -> Iterator[bytes]:
        digest = hashlib.sha256()
        try:
            for chunk in self._store.stream(key):
                shutdown.check()
                digest.update(chunk)
                yield chunk
        except KeyMissing:
            raise Damage(f"{key} is missing") from None
        if digest.hexdigest() != name:
            raise Damage(f"{key} is damaged: its bytes do not match its name")


def _cut(chunks: Iterable[bytes], size: int) -> Iterator[memoryview]:
    for chunk in chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), size):
            yield view[start : start + size]
