"""A repository in a bucket of S3, or of a service with the same protocol."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import IO, Final
from urllib.parse import urlsplit

from ..errors import KeyMissing, StoreError, UsageError
from ..model.s3settings import S3Settings
from .base import KEY, ListedKey, require_key, require_prefix
from .mutex import Mutex
from .rate_limit import RateLimit
from .retry import RetryPolicy
from .s3bucket import BucketClient
from .s3capabilities import ServiceCapabilities
from .s3objects import S3Objects, is_named_by

# Staged content of up to 1 MiB stays in memory, longer content in an unnamed file. The few stagings of a run
# stay within the memory budget of 200 MB.
IN_MEMORY: Final = 1 << 20


class S3Staging:
    """Content whose key is not known yet: in memory, or in an unnamed temporary file if it is long."""

    def __init__(self, store: S3Store) -> None:
        self._store = store
        # closed by discard, or by the finalizer when the staging is dropped
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._end = weakref.finalize(self, self._file.close)
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        try:
            self._file.write(data)
        except OSError as error:
            what = f"{tempfile.gettempdir()}: {error.strerror} (content for {self._store.location})"
            raise StoreError(what, "free space there, or set TMPDIR") from error
        self._digest.update(data)

    def store(self, key: str) -> None:
        """Store the content under its key; see the contract."""
        self._store.store(key, self._file, self._digest.digest())
        self.discard()

    def discard(self) -> None:
        """Drop the content."""
        self._end()


class S3Store:
    """A store whose keys are objects below a prefix of a bucket.

    Exclusive writes are conditional requests, or use a mutex where the service has none.
    """

    def __init__(
        self,
        location: str,
        settings: S3Settings | None = None,
        retry_policy: RetryPolicy | None = None,
        rate_limit: RateLimit | None = None,
    ) -> None:
        bucket, prefix = _bucket_and_prefix(location)
        self.location = f"s3://{bucket}/{prefix}".rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._settings = settings or S3Settings()
        self._client = BucketClient(bucket, self._settings, retry_policy, rate_limit)
        self._objects = S3Objects(
            self._client, self._prefix, self.location, locks=self._settings.object_lock is not None
        )
        self._capabilities = ServiceCapabilities(self._client, self._prefix, self.location)
        self._mutex = Mutex(self._client, self._prefix)

    # what the service can do

    def probe(self) -> dict[str, str | bool]:
        """Try conditional writes and ranges, under a key that no repository uses."""
        return self._capabilities.probe()

    def use_probed(self, found: Mapping[str, str | bool]) -> None:
        """Use an earlier probe of this location and endpoint."""
        self._capabilities.use_probed(found)

    def limitations(self) -> list[str]:
        """Return what this store cannot guarantee without conditional writes."""
        return self._capabilities.limitations()

    # writing

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """Store under a new key; see the contract."""
        require_key(key)
        data = b"".join(chunks)
        self.store(key, data, hashlib.sha256(data).digest())
        return len(data)

    def stage(self) -> S3Staging:
        """Return an empty staging."""
        return S3Staging(self)

    def store(self, key: str, body: bytes | IO[bytes], digest: bytes) -> None:
        """Store content whose digest is known under a new key."""
        require_key(key)
        if self._capabilities.can_put_new:
            self._objects.put_new(key, body, digest)
        elif is_named_by(key, digest):
            # the key is the digest of the content: every process writes the same bytes
            self._objects.put(key, body, digest)
        else:
            with self._mutex.lock(key):
                try:
                    self._objects.require_equal(key, digest)
                except KeyMissing:
                    self._objects.put(key, body, digest)

    def replace(self, key: str, data: bytes, expected: bytes) -> None:
        """Replace exactly ``expected``; see the contract."""
        require_key(key)
        if self._capabilities.can_replace:
            self._objects.replace(key, data, expected)
            return
        with self._mutex.lock(key):
            self._objects.etag(key, expected, fresh=True)
            self._objects.put(key, data, hashlib.sha256(data).digest())

    def delete(self, key: str, expected: bytes | None = None) -> None:
        """Remove a key; see the contract."""
        require_key(key)
        if expected is None:
            self._objects.delete(key)
        elif self._capabilities.can_replace:
            self._objects.delete_expected(key, expected)
        else:
            with self._mutex.lock(key), contextlib.suppress(KeyMissing):
                self._objects.etag(key, expected, fresh=True)
                self._objects.delete(key)

    # object lock

    @property
    def lock_duration(self) -> timedelta | None:
        """Return how long objects stay locked after a backup that needs them; None without object lock."""
        return self._settings.object_lock_for if self._settings.object_lock else None

    def extend_lock(self, key: str, until: datetime) -> None:
        """Lock an object at least until a time; see the contract."""
        require_key(key)
        self._client.extend_lock(self._prefix + key, until)

    # reading

    def get(self, key: str) -> bytes:
        """Return the stored bytes."""
        require_key(key)
        return self._objects.fetch(key)[1]

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the stored bytes in chunks; after a broken connection, continue at the same position."""
        require_key(key)
        for _answer, chunk in self._objects.chunks(key):
            if chunk:
                yield chunk

    def list(self, prefix: str) -> Iterator[ListedKey]:
        """Yield the keys below a prefix, in byte order."""
        require_prefix(prefix)
        last = ""
        for page in self._client.pages(self._prefix + prefix):
            for found in page:
                key = found.key.removeprefix(self._prefix)
                if not KEY.match(key) or key == last:
                    # lock objects, probes and foreign objects; some services list a new object twice
                    continue
                if key < last:
                    raise StoreError(
                        f"the service does not list {self.location} in order",
                        "use a general purpose bucket; directory buckets have no order",
                    )
                last = key
                yield ListedKey(key, found.size)

    def stored_at(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Yield the keys below a prefix with the times that the service has recorded."""
        require_prefix(prefix)
        for page in self._client.pages(self._prefix + prefix):
            for found in page:
                yield found.key.removeprefix(self._prefix), found.modified

    def clock(self) -> datetime:
        """Return the time of the service."""
        return self._client.now(self._prefix)


def _bucket_and_prefix(location: str) -> tuple[str, str]:
    """Return the bucket and the prefix that a location names; raise UsageError for another location."""
    parts = urlsplit(location)
    prefix = parts.path.strip("/")
    names_bucket = parts.scheme == "s3" and parts.netloc and not parts.query and not parts.fragment
    if not names_bucket or (prefix and not KEY.match(prefix)):
        raise UsageError(
            f"{location} is not a location in S3",
            "write s3://bucket/prefix; the prefix has letters, digits, dots, dashes and underscores",
        )
    return parts.netloc, prefix
