"""A repository in a bucket of S3, or of a service with the same protocol."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import IO, Any, Final
from urllib.parse import urlsplit

from ..errors import KeyChanged, KeyExists, KeyMissing, StoreError, UsageError
from ..model.s3settings import S3Settings
from .base import KEY, ListedKey, require_key, require_prefix
from .mutex import Mutex
from .rate_limit import RateLimit
from .retry import RetryPolicy, TransientError
from .s3api import BucketClient, ObjectBody

# Staged content of up to 1 MiB stays in memory, longer content in an unnamed file. The few stagings of a run
# stay within the memory budget of 200 MB.
IN_MEMORY: Final = 1 << 20
PROBE_FOLDER: Final = ".probe/"
# Keys that are written once and kept. All other keys are replaced or removed in normal operation.
LOCKED: Final = re.compile(r"objects/|meta/|sites/[^/]+/(backups|labels)/|repository\.json\Z|RECOVERY\.md\Z")
PUT, REPLACE, DELETE, RANGE = "conditional_put", "conditional_replace", "conditional_delete", "ranges"


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
        self.api = BucketClient(bucket, self._settings, retry_policy, rate_limit)
        self._mutex = Mutex(self.api, self._prefix)
        self._found: dict[str, str | bool] = {}
        self._lock = threading.Lock()
        # digest and ETag of the last write of each key that is not named by its digest: saves a read before
        # a conditional write
        self._written: dict[str, tuple[bytes, str]] = {}

    # what the service can do

    def probe(self) -> dict[str, str | bool]:
        """Try conditional writes and ranges, under a key that no repository uses."""
        key = f"{self._prefix}{PROBE_FOLDER}{secrets.token_hex(8)}"
        one, other = b"one", b"other"
        etag = self.api.put(key, one, _digest(one))
        try:
            found: dict[str, str | bool] = {"location": self.location, "endpoint": self.api.endpoint}
            found[RANGE] = self.api.tail(key, 2) == one[2:]
            found[PUT] = _refused(lambda: self.api.put(key, other, _digest(other), only_new=True))
            etag = self.api.put(key, one, _digest(one))
            second = self.api.put(key, other, _digest(other))
            found[REPLACE] = etag != second and _refused(
                lambda: self.api.put(key, one, _digest(one), only_over=etag)
            )
            found[DELETE] = bool(found[REPLACE]) and _refused(lambda: self.api.delete(key, only=etag))
        finally:
            self.api.delete(key)
        self._found = found
        return found

    def use_probed(self, found: Mapping[str, str | bool]) -> None:
        """Use an earlier probe of this location and endpoint."""
        if (found.get("location"), found.get("endpoint")) == (self.location, self.api.endpoint):
            self._found = dict(found)

    def limitations(self) -> list[str]:
        """Return what this store cannot guarantee without conditional writes."""
        if not self._found:
            return [
                "the capabilities of this service are not recorded, because the repository was made at "
                "another location: every run probes them again"
            ]
        if self._can(PUT) and self._can_replace:
            return []
        return [
            "the service does not support all conditional writes: runs use a mutex of listed objects "
            "instead, and a run that stops for minutes during a write counts as dead"
        ]

    def _can(self, what: str) -> bool:
        with self._lock:
            if what not in self._found:
                self.probe()
        return bool(self._found[what])

    @property
    def _can_replace(self) -> bool:
        return self._can(REPLACE) and self._can(DELETE)

    # writing

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """Store under a new key; see the contract."""
        require_key(key)
        data = b"".join(chunks)
        self.store(key, data, _digest(data))
        return len(data)

    def stage(self) -> S3Staging:
        """Return an empty staging."""
        return S3Staging(self)

    def store(self, key: str, body: bytes | IO[bytes], digest: bytes) -> None:
        """Store content whose digest is known under a new key."""
        require_key(key)
        if key.rpartition("/")[2] == digest.hex() and not self._can(PUT):
            # the key is the digest of the content: every process writes the same bytes
            self._put(key, body, digest)
        elif self._can(PUT):
            self._put_new(key, body, digest)
        else:
            with self._mutex.lock(key):
                try:
                    self._require_equal(key, digest)
                except KeyMissing:
                    self._put(key, body, digest)

    def _put_new(self, key: str, body: bytes | IO[bytes], digest: bytes) -> None:
        while True:
            try:
                self._put(key, body, digest, only_new=True)
                return
            except KeyChanged:
                # the key exists, perhaps from an earlier attempt of this call whose answer was lost
                with contextlib.suppress(KeyMissing):  # deleted since: try again
                    self._require_equal(key, digest)
                    return

    def _put(self, key: str, body: bytes | IO[bytes], digest: bytes, **condition: Any) -> None:
        named = key.rpartition("/")[2] == digest.hex()
        locked = self._settings.object_lock is not None and LOCKED.match(key) is not None
        etag = self.api.put(self._prefix + key, body, digest, locked=locked, **condition)
        if not named:
            self._written[key] = digest, etag

    def _require_equal(self, key: str, digest: bytes) -> None:
        """Raise KeyExists when other content is stored, KeyMissing when the key does not exist."""
        found = hashlib.sha256()
        for chunk in self.stream(key):
            found.update(chunk)
        if found.digest() != digest:
            raise KeyExists(f"{key} exists already in {self.location} with other content")

    def replace(self, key: str, data: bytes, expected: bytes) -> None:
        """Replace exactly ``expected``; see the contract."""
        require_key(key)
        if not self._can_replace:
            with self._mutex.lock(key):
                self._etag(key, expected, fresh=True)
                self._put(key, data, _digest(data))
            return
        etag = self._etag(key, expected)
        try:
            self._put(key, data, _digest(data), only_over=etag)
        except KeyChanged:
            # perhaps changed by an earlier attempt of this call whose answer was lost
            self._written.pop(key, None)
            self._etag(key, data)
        except KeyMissing:
            raise KeyMissing(f"{key} is no longer in {self.location}") from None

    def delete(self, key: str, expected: bytes | None = None) -> None:
        """Remove a key; see the contract."""
        require_key(key)
        if expected is None:
            self.api.delete(self._prefix + key)
        elif self._can_replace:
            with contextlib.suppress(KeyMissing):
                self._delete_only(key, expected)
        else:
            with self._mutex.lock(key), contextlib.suppress(KeyMissing):
                self._etag(key, expected, fresh=True)
                self.api.delete(self._prefix + key)
        self._written.pop(key, None)

    def _delete_only(self, key: str, expected: bytes) -> None:
        try:
            self.api.delete(self._prefix + key, only=self._etag(key, expected))
        except KeyChanged:
            # the known ETag is out of date: read the object and compare its bytes
            self.api.delete(self._prefix + key, only=self._etag(key, expected, fresh=True))

    def _etag(self, key: str, expected: bytes, *, fresh: bool = False) -> str:
        """Return the ETag of the stored bytes, which have to be ``expected``; raise KeyChanged or KeyMissing.

        ``fresh``: read the object even if this store wrote it.
        """
        known = self._written.get(key)
        if known and not fresh and known[0] == _digest(expected):
            return known[1]
        answer, data = self._fetch(key)
        if data != expected:
            raise KeyChanged(f"{key} in {self.location} was changed by another run")
        self._written[key] = _digest(data), answer.etag
        return answer.etag

    # object lock

    @property
    def lock_duration(self) -> timedelta | None:
        """Return how long objects stay locked after a backup that needs them; None without object lock."""
        return self._settings.object_lock_for if self._settings.object_lock else None

    def extend_lock(self, key: str, until: datetime) -> None:
        """Lock an object at least until a time; see the contract."""
        require_key(key)
        self.api.extend_lock(self._prefix + key, until)

    # reading

    def get(self, key: str) -> bytes:
        """Return the stored bytes."""
        return self._fetch(key)[1]

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the stored bytes in chunks; after a broken connection, continue at the same position."""
        require_key(key)
        for _answer, chunk in self._chunks(key):
            if chunk:
                yield chunk

    def _fetch(self, key: str) -> tuple[ObjectBody, bytes]:
        require_key(key)
        while True:
            try:
                found = list(self._chunks(key))
            except KeyChanged:  # replaced while the connection was broken: read all of it again
                continue
            return found[0][0], b"".join(chunk for _answer, chunk in found)

    def _chunks(self, key: str) -> Iterator[tuple[ObjectBody, bytes]]:
        """Yield the content in chunks, at least one, each with the answer that brought it."""
        try:
            yield from self.api.chunks(self._prefix + key)
        except KeyMissing:
            raise KeyMissing(f"{key} is not in {self.location}") from None

    def list(self, prefix: str) -> Iterator[ListedKey]:
        """Yield the keys below a prefix, in byte order."""
        require_prefix(prefix)
        last = ""
        for page in self.api.pages(self._prefix + prefix):
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

    def clock(self) -> datetime:
        """Return the time of the service."""
        return self.api.now(self._prefix)


def _bucket_and_prefix(location: str) -> tuple[str, str]:
    parts = urlsplit(location)
    prefix = parts.path.strip("/")
    if (
        parts.scheme != "s3"
        or not parts.netloc
        or parts.query
        or parts.fragment
        or (prefix and not KEY.match(prefix))
    ):
        raise UsageError(
            f"{location} is not a location in S3",
            "write s3://bucket/prefix; the prefix has letters, digits, dots, dashes and underscores",
        )
    return parts.netloc, prefix


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _refused(attempt: Callable[[], object]) -> bool:
    """Return whether the service refuses a request because of its condition.

    Raise StoreError for an outage, which shows nothing about conditions.
    """
    try:
        attempt()
    except KeyChanged:
        return True
    except StoreError as error:
        if isinstance(error.__cause__, TransientError):
            raise
    return False
