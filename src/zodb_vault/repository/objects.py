"""Immutable objects, named by the SHA-256 of their stored bytes.

Content is under ``objects/``, documents (lists of the manifests) are under ``meta/``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ..errors import Damage, KeyMissing, StoreError
from ..model.manifest import Codec, DocumentRef, Part
from ..runtime import shutdown
from ..stores.base import Store
from .codec import Encoder, decode
from .damage import ObjectObserver
from .encryption import EncryptionKeys, Encryptor

PART_RAW: Final = 64 << 20
DECODE_CHUNK: Final = 256 << 10


def object_key(name: str) -> str:
    """Return the key of an object with content."""
    return f"objects/{name[:2]}/{name}"


def meta_key(name: str) -> str:
    """Return the key of a document."""
    return f"meta/{name[:2]}/{name}"


class ObjectWriter:
    """Writes one object from its zstd file, encrypted if there are recipients.

    Its name is known when all of it is written.
    """

    def __init__(self, store: Store, encryptor: Encryptor | None = None) -> None:
        self._encryptor = encryptor
        self._digest = hashlib.sha256()
        self._staging = store.stage()
        self.stored = 0

    def write_encoded(self, encoded: bytes) -> None:
        """Append bytes of the zstd file."""
        self._store(self._encryptor.encode(encoded) if self._encryptor else encoded)

    def store(self, key_of: Callable[[str], str]) -> str:
        """Store the object and return its name."""
        if self._encryptor:
            self._store(self._encryptor.finish())
        name = self._digest.hexdigest()
        self._staging.store(key_of(name))
        return name

    def discard(self) -> None:
        """Drop the object."""
        self._staging.discard()

    def _store(self, data: bytes) -> None:
        if data:
            self._digest.update(data)
            self._staging.write(data)
            self.stored += len(data)


class _Object(ObjectWriter):
    """Writes one object from content, which it encodes."""

    def __init__(
        self, store: Store, run: str, long_distance: bool, encryptor: Encryptor | None = None
    ) -> None:
        super().__init__(store, encryptor)
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
    """Stores a stream of content as objects of at most 64 MiB of content each.

    ``close`` returns their parts in order.
    """

    def __init__(self, objects: Objects, to: str, long_distance: bool) -> None:
        self._objects, self.to, self._long_distance = objects, to, long_distance
        self._object: _Object | None = None
        self._parts: list[Part] = []

    def write(self, data: bytes | memoryview) -> None:
        """Append content. A full object is durable when this returns."""
        shutdown.check()
        view = memoryview(data)
        while len(view):
            self._object = self._object or self._objects.begin(self._long_distance, encrypted=True)
            piece = view[: PART_RAW - self._object.raw]
            self._object.write(piece)
            view = view[len(piece) :]
            if self._object.raw == PART_RAW:
                self._store_object()

    def close(self) -> list[Part]:
        """Make the rest durable and return all parts; empty content has one empty object."""
        if self._object is None and not self._parts:
            self._object = self._objects.begin(self._long_distance, encrypted=True)
        if self._object is not None:
            self._store_object()
        return self._parts

    def _store_object(self) -> None:
        assert self._object is not None
        full, self._object = self._object, None
        name = full.finish(object_key)
        self._objects.count(name, full.stored)
        self._parts.append(
            Part(object=name, raw=full.raw, stored=full.stored, to=self.to, codec=self._objects.codec)
        )


class Objects:
    """Reads the objects of a repository, and writes those of one ``run``.

    The ``observer`` notes which objects are damaged, and which could be read.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        keys: EncryptionKeys | None = None,
        observer: ObjectObserver | None = None,
    ) -> None:
        self._store, self.run, self._keys = store, run, keys or EncryptionKeys()
        self.observer = observer or ObjectObserver()
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self.written = 0

    def content(self, to: str, *, long_distance: bool = False) -> ContentWriter:
        """Return a writer for content that belongs to ``to`` (see Part)."""
        return ContentWriter(self, to, long_distance)

    @property
    def codec(self) -> Codec:
        """Return the codec of new content."""
        return "zstd+age" if self._keys.recipients else "zstd"

    def begin(self, long_distance: bool, *, encrypted: bool) -> _Object:
        """Return a writer for a new object; an ``encrypted`` one is encrypted if there are recipients."""
        return _Object(
            self._store,
            self.run,
            long_distance,
            self._keys.encryptor() if encrypted and self._keys.recipients else None,
        )

    def object_writer(self) -> ObjectWriter:
        """Return a writer for an object whose zstd file exists already."""
        return ObjectWriter(self._store, self._keys.encryptor() if self._keys.recipients else None)

    def put_document(self, data: bytes) -> DocumentRef:
        """Store a document and return its name."""
        document = self.begin(long_distance=False, encrypted=False)
        document.write(data)
        name = document.finish(meta_key)
        self.count(name, document.stored)
        return DocumentRef(meta=name, stored=document.stored)

    def has_written(self, key: str) -> bool:
        """Return whether this run has stored the object of a key."""
        return key.rpartition("/")[2] in self._names

    def count(self, name: str, size: int) -> None:
        """Add an object to the bytes ``written`` by this run; the same object counts once."""
        with self._lock:
            self.written += size if name not in self._names else 0
            self._names.add(name)

    def document(self, name: str) -> bytes:
        """Return a document; raise Damage when it is missing or damaged."""
        return b"".join(self._decoded(self.stored_bytes(meta_key(name), name), None, meta_key(name)))

    def read(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Yield the content of parts in order.

        Raise Damage when an object is missing or damaged, KeyNeeded when it is encrypted and there is no key.
        Do not use the bytes that were yielded before the error.
        """
        for part in parts:
            yield from self.decompressed(part, self.decrypted(part))

    def decrypted(self, part: Part) -> Iterator[bytes]:
        """Yield the zstd file of an object; raise as ``read`` does."""
        stored = self.stored_bytes(object_key(part.object), part.object)
        return self._keys.decrypt(stored, part.object) if part.codec == "zstd+age" else stored

    def decompressed(self, part: Part, encoded: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the content of an object, given its zstd file."""
        return self._decoded(_split(encoded, DECODE_CHUNK), part.raw, object_key(part.object))

    def _decoded(self, encoded: Iterable[bytes | memoryview], raw: int | None, key: str) -> Iterator[bytes]:
        """Decode an object.

        Damaged bytes mostly fail to decode before their digest is known, so all of them are read again. An
        object whose bytes match its name and do not decode was damaged before it was stored.
        """
        name = key.rpartition("/")[2]
        try:
            yield from decode(encoded, raw, name)
        except Damage as error:
            if error.object_name:
                raise
            self.check(key, name)
            self.observer.note_damaged(name, error.message, "records")
            raise Damage(error.message, object_name=name) from None
        self.observer.note_intact(name, "records")

    def require_key(self, part: Part) -> None:
        """Raise KeyNeeded unless the private key decrypts an object.

        Only the beginning is read, so this does not find damage.
        """
        if part.codec != "zstd+age":
            return
        with contextlib.suppress(Damage, KeyMissing):
            for _chunk in self._keys.decrypt(
                itertools.islice(self._store.stream(object_key(part.object)), 1), part.object
            ):
                pass

    def cannot_decrypt(self, parts: Iterable[Part]) -> bool:
        """Return whether some parts are encrypted and no private key is configured."""
        return any(part.codec == "zstd+age" for part in parts) and not self._keys.identities

    def check(self, key: str, name: str) -> int:
        """Read an object, compare its digest with its name, and return its length in bytes; raise Damage."""
        return sum(map(len, self.stored_bytes(key, name)))

    def stored_bytes(self, key: str, name: str) -> Iterator[bytes]:
        """Yield the stored bytes of an object.

        Raise Damage when it is missing, and at its end when the digest of its bytes is not its name.
        """
        digest = hashlib.sha256()
        try:
            for chunk in self._store.stream(key):
                shutdown.check()
                digest.update(chunk)
                yield chunk
        except KeyMissing:
            raise self._damage(f"{key} is missing", name) from None
        except StoreError as error:
            if self.observer.judges_disk and _is_bad_sector(error.__cause__):
                raise self._damage(f"{key} cannot be read: {error.message}", name) from error
            raise
        if digest.hexdigest() != name:
            raise self._damage(f"{key} is damaged: its bytes do not match its name", name)
        self.observer.note_intact(name, "bytes")

    def _damage(self, why: str, name: str) -> Damage:
        self.observer.note_damaged(name, why)
        return Damage(why, object_name=name)


def _is_bad_sector(cause: BaseException | None) -> bool:
    """Tell whether the disk or the file system cannot give the bytes of a file that it has."""
    return isinstance(cause, OSError) and cause.errno in (errno.EIO, errno.EBADMSG, errno.EUCLEAN)


def _split(chunks: Iterable[bytes], size: int) -> Iterator[memoryview]:
    for chunk in chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), size):
            yield view[start : start + size]
