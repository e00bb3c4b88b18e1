"""The requests of S3 that the store and the blobs in a bucket make.

Transient errors are retried. All failures are raised as the errors of the contract of a store.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import IO, Any, Final, NamedTuple

from ..errors import KeyMissing, StoreError
from ..model.s3settings import S3Settings
from ..policy.lock_expiry import lock_expiry
from ..runtime import clock, shutdown
from .rate_limit import RateLimit, RateLimited
from .retry import RetryPolicy, TransientError
from .s3connection import ExtraParameters, S3Connection
from .s3errors import ErrorHints, ErrorTranslator

CHUNK: Final = 1 << 20


class ObjectBody(NamedTuple):
    """The answer to a read.

    ``body`` is the content from ``start`` on, ``size`` the length of the whole object in bytes.
    """

    body: Any
    start: int
    size: int
    etag: str


class ListedObject(NamedTuple):
    """A listed key; ``modified`` is the time of its last write by the clock of the service."""

    key: str
    size: int
    modified: datetime


class BucketClient:
    """The requests to one bucket. Keys are those of the bucket, with the prefix. Every thread may call."""

    def __init__(
        self,
        bucket: str,
        settings: S3Settings,
        retry_policy: RetryPolicy | None = None,
        rate_limit: RateLimit | None = None,
        *,
        hints: ErrorHints | None = None,
        extra: ExtraParameters | None = None,
    ) -> None:
        extra = extra or ExtraParameters()
        self._bucket, self._settings, self._rate_limit = bucket, settings, rate_limit
        self._extra = extra.request
        self._retry_policy = retry_policy or RetryPolicy()
        self._errors = ErrorTranslator(bucket, hints or ErrorHints())
        self._connection = S3Connection(
            bucket, settings, self._errors, self._retry_policy, rate_limit, extra.client
        )

    @property
    def endpoint(self) -> str:
        """Return the URL that requests go to, without secrets."""
        return self._connection.endpoint

    def put(
        self,
        key: str,
        body: bytes | IO[bytes],
        digest: bytes,
        *,
        only_new: bool = False,
        only_over: str | None = None,
        locked: bool = False,
    ) -> str:
        """Store an object with one request and return its ETag.

        Servers that check the signature of the content compare its SHA-256, ``digest``.

        ``only_new``: raise KeyChanged when the key exists. ``only_over``: raise KeyChanged unless the object
        has this ETag, KeyMissing when the key does not exist. ``locked``: set an object lock.
        """
        parameters: dict[str, Any] = {}
        if only_new:
            parameters["IfNoneMatch"] = "*"
        elif only_over:
            parameters["IfMatch"] = only_over
        if self._settings.storage_class:
            parameters["StorageClass"] = self._settings.storage_class
        # Amazon requires a checksum for a locked object, besides the signature. Some services do not know it.
        if locked or self._connection.is_amazon:
            checksum = base64.b64encode(digest).decode()
            parameters |= {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": checksum}
        if locked:
            assert self._settings.object_lock and self._settings.object_lock_for
            parameters["ObjectLockMode"] = self._settings.object_lock.upper()
            parameters["ObjectLockRetainUntilDate"] = lock_expiry(clock.now(), self._settings.object_lock_for)

        def attempt() -> Any:
            if not isinstance(body, bytes):
                body.seek(0)
            return self._connection.send(key, "put_object", Key=key, Body=body, **parameters, **self._extra)

        return str(self._retry_policy.call(attempt).get("ETag", ""))

    def put_parts(self, key: str, parts: Iterable[bytes]) -> None:
        """Store an object of any length with a multipart upload.

        The object appears when the last part is stored. When ``parts`` raises, the upload is aborted.
        """
        call = self._connection.call
        upload = call(key, "create_multipart_upload", Key=key, **self._extra)["UploadId"]
        try:
            done = []
            for number, part in enumerate(parts, 1):
                parameters = {"UploadId": upload, "PartNumber": number, "Body": part}
                answer = call(key, "upload_part", Key=key, **parameters, **self._extra)
                done.append({"PartNumber": number, "ETag": answer["ETag"]})
            call(key, "complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": done})
        except BaseException:
            # at Ctrl-C, too: parts of an unfinished upload are never listed, but they cost money
            with contextlib.suppress(StoreError):
                call(key, "abort_multipart_upload", Key=key, UploadId=upload)
            raise

    def copy(self, key: str, to: str) -> None:
        """Let the service copy an object of at most 5 GiB within its bucket."""
        secret = {f"CopySource{name}": value for name, value in self._extra.items()}
        source = {"Bucket": self._bucket, "Key": key}
        self._connection.call(key, "copy_object", Key=to, CopySource=source, **self._extra, **secret)

    def open(self, key: str, start: int = 0, etag: str | None = None) -> ObjectBody:
        """Begin to read an object at the position ``start``.

        Raise KeyChanged when it does not have the given ``etag``. There is one attempt only: after a broken
        connection the caller continues at its position.
        """
        options: dict[str, Any] = {"IfMatch": etag} if etag else {}
        if start:
            options["Range"] = f"bytes={start}-"
        found = self._connection.send(key, "get_object", Key=key, **options, **self._extra)
        # a server without support for ranges answers with the whole object
        span = str(found.get("ContentRange") or "")
        begins = int(span.partition(" ")[2].partition("-")[0]) if span else 0
        body = RateLimited(found["Body"], self._rate_limit) if self._rate_limit else found["Body"]
        return ObjectBody(body, begins, begins + int(found["ContentLength"]), str(found.get("ETag", "")))

    def chunks(self, key: str) -> Iterator[tuple[ObjectBody, bytes]]:
        """Yield an object in chunks, at least one, each with the answer it comes from.

        After a broken connection, reading continues at the same position.
        """
        policy, pos, size, etag = self._retry_policy.restarted(), 0, -1, None
        while pos != size:
            try:
                answer = self.open(key, pos, etag)
                # a service without conditional reads may answer with a newer object
                if etag not in (None, answer.etag):
                    raise self._errors.changed(key)
                # without ranges the answer begins with ``known`` bytes that were yielded before
                size, etag, known = answer.size, answer.etag, pos - answer.start
                for chunk in self._rest(key, answer):
                    known, new = max(0, known - len(chunk)), chunk[known:]
                    pos += len(new)
                    policy.reset()
                    if new:
                        yield answer, new
                if not size:
                    yield answer, b""
            except TransientError as failure:
                policy.wait(failure)

    def tail(self, key: str, start: int) -> bytes:
        """Return the answer to a request for an object from ``start`` on, as the service sends it."""
        return self._retry_policy.call(lambda: b"".join(self._rest(key, self.open(key, start))))

    def _rest(self, key: str, answer: ObjectBody) -> Iterator[bytes]:
        with contextlib.closing(answer.body), self._errors.translate_errors(key):
            while chunk := answer.body.read(CHUNK):
                shutdown.check()
                yield chunk

    def extend_lock(self, key: str, until: datetime) -> None:
        """Lock an object at least until a time.

        A lock cannot be shortened by mistake: that needs a permission (bypass governance) which no request
        here uses.
        """
        assert self._settings.object_lock
        mode = self._settings.object_lock.upper()
        try:
            self._retain(key, mode, until)
        except KeyMissing:
            raise
        except StoreError:
            # the service may refuse because the object has a longer or a stricter lock
            found = self._retained(key)
            if found is None or (found["Mode"] == mode and found["RetainUntilDate"] < until):
                raise
            if found["RetainUntilDate"] < until:
                self._retain(key, str(found["Mode"]), until)

    def _retain(self, key: str, mode: str, until: datetime) -> None:
        retention = {"Mode": mode, "RetainUntilDate": until}
        self._connection.call(key, "put_object_retention", Key=key, Retention=retention)

    def _retained(self, key: str) -> Any:
        """Return the lock of an object, None when it has none or reading locks is not permitted."""
        with contextlib.suppress(StoreError):
            return self._connection.call(key, "get_object_retention", Key=key).get("Retention")
        return None

    def delete(self, key: str, *, only: str | None = None) -> None:
        """Remove a key. It is no error when the key does not exist.

        With ``only``, raise KeyChanged when the object has another ETag.
        """
        condition = {"IfMatch": only} if only else {}
        with contextlib.suppress(KeyMissing):
            self._connection.call(key, "delete_object", Key=key, **condition)

    def pages(self, prefix: str) -> Iterator[list[ListedObject]]:
        """Yield the listed objects below a prefix, page by page."""
        token: dict[str, str] = {}
        while True:
            page = self._connection.call(prefix, "list_objects_v2", Prefix=prefix, **token)
            contents = page.get("Contents", ())
            yield [ListedObject(one["Key"], int(one["Size"]), one["LastModified"]) for one in contents]
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def now(self, prefix: str) -> datetime:
        """Return the time of the service; see ``S3Connection.now``."""
        return self._connection.now(prefix)
