"""The objects of a store below its prefix: reads, and writes with a condition."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from typing import IO, Any, Final

from ..errors import KeyChanged, KeyExists, KeyMissing
from .s3bucket import BucketClient, ObjectBody

# Keys that are written once and kept. All other keys are replaced or removed in normal operation.
LOCKED: Final = re.compile(r"objects/|meta/|sites/[^/]+/(backups|labels)/|repository\.json\Z|RECOVERY\.md\Z")


class S3Objects:
    """Objects by the keys of the store. Error messages name the location of the store.

    With ``locks``, an object lock is set on the objects that a backup needs.
    """

    def __init__(self, client: BucketClient, prefix: str, location: str, *, locks: bool) -> None:
        self._client, self._prefix, self._location, self._locks = client, prefix, location, locks
        # digest and ETag of the last write of each key that is not named by its digest: saves a read before
        # a conditional write
        self._written: dict[str, tuple[bytes, str]] = {}

    def put(self, key: str, body: bytes | IO[bytes], digest: bytes, **condition: Any) -> None:
        """Store an object; ``condition`` as for ``BucketClient.put``."""
        locked = self._locks and LOCKED.match(key) is not None
        etag = self._client.put(self._prefix + key, body, digest, locked=locked, **condition)
        if not is_named_by(key, digest):
            self._written[key] = digest, etag

    def put_new(self, key: str, body: bytes | IO[bytes], digest: bytes) -> None:
        """Store an object with a conditional request; raise KeyExists when other content is stored."""
        while True:
            try:
                self.put(key, body, digest, only_new=True)
                return
            except KeyChanged:
                # the key exists, perhaps from an earlier attempt of this call whose answer was lost
                with contextlib.suppress(KeyMissing):  # deleted since: try again
                    self.require_equal(key, digest)
                    return

    def replace(self, key: str, data: bytes, expected: bytes) -> None:
        """Replace exactly ``expected`` with a conditional request; raise KeyChanged or KeyMissing."""
        etag = self.etag(key, expected)
        try:
            self.put(key, data, hashlib.sha256(data).digest(), only_over=etag)
        except KeyChanged:
            # perhaps changed by an earlier attempt of this call whose answer was lost
            self._written.pop(key, None)
            self.etag(key, data)
        except KeyMissing:
            raise KeyMissing(f"{key} is no longer in {self._location}") from None

    def delete(self, key: str) -> None:
        """Remove a key. It is no error when the key does not exist."""
        self._client.delete(self._prefix + key)
        self._written.pop(key, None)

    def delete_expected(self, key: str, expected: bytes) -> None:
        """Remove exactly ``expected`` with a conditional request; raise KeyChanged.

        It is no error when the key does not exist.
        """
        with contextlib.suppress(KeyMissing):
            try:
                self._client.delete(self._prefix + key, only=self.etag(key, expected))
            except KeyChanged:
                # the known ETag is out of date: read the object and compare its bytes
                self._client.delete(self._prefix + key, only=self.etag(key, expected, fresh=True))
        self._written.pop(key, None)

    def etag(self, key: str, expected: bytes, *, fresh: bool = False) -> str:
        """Return the ETag of the stored bytes, which have to be ``expected``; raise KeyChanged or KeyMissing.

        ``fresh``: read the object even if this store wrote it.
        """
        known = self._written.get(key)
        if known and not fresh and known[0] == hashlib.sha256(expected).digest():
            return known[1]
        answer, data = self.fetch(key)
        if data != expected:
            raise KeyChanged(f"{key} in {self._location} was changed by another run")
        self._written[key] = hashlib.sha256(data).digest(), answer.etag
        return answer.etag

    def require_equal(self, key: str, digest: bytes) -> None:
        """Raise KeyExists when other content is stored, KeyMissing when the key does not exist."""
        found = hashlib.sha256()
        for _answer, chunk in self.chunks(key):
            found.update(chunk)
        if found.digest() != digest:
            raise KeyExists(f"{key} exists already in {self._location} with other content")

    def fetch(self, key: str) -> tuple[ObjectBody, bytes]:
        """Return the stored bytes, and the answer that brought them; raise KeyMissing."""
        while True:
            try:
                found = list(self.chunks(key))
            except KeyChanged:  # replaced while the connection was broken: read all of it again
                continue
            return found[0][0], b"".join(chunk for _answer, chunk in found)

    def chunks(self, key: str) -> Iterator[tuple[ObjectBody, bytes]]:
        """Yield the content in chunks, at least one, each with the answer that brought it.

        Raise KeyMissing, or KeyChanged when the object is replaced while the connection is broken.
        """
        try:
            yield from self._client.chunks(self._prefix + key)
        except KeyMissing:
            raise KeyMissing(f"{key} is not in {self._location}") from None


def is_named_by(key: str, digest: bytes) -> bool:
    """Return whether the name of a key is the digest of its content."""
    return key.rpartition("/")[2] == digest.hex()
