"""The requests of S3 that the store makes.

Transient errors are retried. All failures are raised as the errors of the contract of a store.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import IO, Any, Final, NamedTuple
from urllib.parse import urlsplit

from ..errors import KeyChanged, KeyMissing, StoreError, UsageError
from ..model.s3settings import S3Settings
from ..policy.lock_expiry import lock_expiry
from ..runtime import clock, shutdown
from .rate_limit import RateLimit, RateLimited
from .retry import RetryPolicy, TransientError

CHUNK: Final = 1 << 20
CONNECT_SECONDS: Final = 10
READ_SECONDS: Final = 60
AMAZON: Final = (".amazonaws.com", ".amazonaws.com.cn")
MISSING: Final = ("NoSuchKey", "404", "NotFound")
# InvalidRange: the range begins after the end, because the object has become shorter
REFUSED: Final = ("PreconditionFailed", "412", "InvalidRange", "416")
# ConditionalRequestConflict and OperationAborted: another process is writing the same key
TRANSIENT_CODES: Final = (
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "TooManyRequests",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "InternalError",
    "ConditionalRequestConflict",
    "OperationAborted",
    "IncompleteBody",
    "BadDigest",
    "XAmzContentSHA256Mismatch",
)
TRANSIENT_STATUS: Final = (409, 429, 500, 502, 503, 504)
CREDENTIALS: Final = (
    "check the credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE), or the "
    "role of this machine"
)
HINTS: Final[Mapping[str, str]] = {
    "AccessDenied": "grant what the how-to `repository in S3` lists for this command, and check the "
    "credentials",
    "403": "grant what the how-to `repository in S3` lists for this command, and check the credentials",
    "InvalidAccessKeyId": CREDENTIALS,
    "SignatureDoesNotMatch": CREDENTIALS,
    "ExpiredToken": "get new credentials, then run the command again; it reuses what is already stored",
    "RequestTimeTooSkewed": "set the clock of this machine (NTP)",
    "NoSuchBucket": "create the bucket, or correct the location; zodb-vault does not create buckets",
    "InvalidStorageClass": "correct [repository.s3] storage_class",
    "PermanentRedirect": "name the region of the bucket: [repository.s3] region",
    "AuthorizationHeaderMalformed": "name the region of the bucket: [repository.s3] region",
    "QuotaExceeded": "raise the quota, then run the command again; it reuses what is already stored",
    "XMinioStorageFull": "free space there, then run the command again; it reuses what is already stored",
    "InvalidRequest": "check [repository.s3]; object_lock needs a bucket that was created with object lock",
    "ObjectLockConfigurationNotFoundError": "object_lock needs a bucket that was created with object lock",
    "MethodNotAllowed": "check the endpoint: [repository.s3] endpoint",
}
ELSE: Final = (
    "check the location, [repository.s3] and the service; `zodb-vault repository check` tries every request "
    "that zodb-vault makes"
)
SESSION_LOCK: Final = threading.Lock()
UNREACHABLE: Final = (
    "check the network and [repository.s3] endpoint, then run the command again; it reuses what is already "
    "stored"
)


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


class ErrorHints(NamedTuple):
    """The hint for each kind of error.

    ``hints`` by the code of the answer, ``otherwise`` for other codes, ``unreachable`` for broken
    connections, ``credentials`` for missing ones, ``correct`` for a wrong endpoint or region.
    """

    hints: Mapping[str, str] = HINTS
    otherwise: str = ELSE
    unreachable: str = UNREACHABLE
    credentials: str = CREDENTIALS
    correct: str = "correct [repository.s3]"


class ExtraParameters(NamedTuple):
    """Parameters of every client, and of every request for an object, besides the settings.

    ``client`` holds the credentials; without them, boto3 takes those of the environment.
    """

    client: Mapping[str, Any] = {}
    request: Mapping[str, Any] = {}


class BucketClient:
    """The requests to one bucket.

    Keys are those of the bucket, with the prefix. Every thread may call; each call has a client of its own
    while it runs.
    """

    def __init__(
        self,
        bucket: str,
        settings: S3Settings,
        retry_policy: RetryPolicy | None = None,
        rate_limit: RateLimit | None = None,
        *,
        advice: ErrorHints | None = None,
        login: ExtraParameters | None = None,
    ) -> None:
        self._bucket, self._settings, self._rate_limit, self._advice, self._login = (
            bucket,
            settings,
            rate_limit,
            advice or ErrorHints(),
            login or ExtraParameters(),
        )
        self.retry_policy = retry_policy or RetryPolicy()
        self._clients: queue.LifoQueue[Any] = queue.LifoQueue()
        self._date: tuple[str, float] | None = None

    @property
    def endpoint(self) -> str:
        """Return the URL that requests go to, without secrets."""
        with self._client(self._bucket) as client:
            parts = urlsplit(str(client.meta.endpoint_url))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")

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
        condition: dict[str, Any] = (
            {"IfNoneMatch": "*"} if only_new else {"IfMatch": only_over} if only_over else {}
        )
        if self._settings.storage_class:
            condition["StorageClass"] = self._settings.storage_class
        if locked or self._is_amazon:
            condition |= {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": base64.b64encode(digest).decode()}
        if locked:
            assert self._settings.object_lock and self._settings.object_lock_for
            condition["ObjectLockMode"] = self._settings.object_lock.upper()
            condition["ObjectLockRetainUntilDate"] = lock_expiry(clock.now(), self._settings.object_lock_for)

        def attempt() -> Any:
            if not isinstance(body, bytes):
                body.seek(0)
            return self._once(key, "put_object", Key=key, Body=body, **condition, **self._login.request)

        return str(self.retry_policy.call(attempt).get("ETag", ""))

    def put_parts(self, key: str, parts: Iterable[bytes]) -> None:
        """Store an object of any length with a multipart upload.

        The object appears when the last part is stored. When ``parts`` raises, the upload is aborted.
        """
        upload = self._call(key, "create_multipart_upload", Key=key, **self._login.request)["UploadId"]
        try:
            done = []
            for number, part in enumerate(parts, 1):
                answer = self._call(
                    key,
                    "upload_part",
                    Key=key,
                    UploadId=upload,
                    PartNumber=number,
                    Body=part,
                    **self._login.request,
                )
                done.append({"PartNumber": number, "ETag": answer["ETag"]})
            self._call(
                key, "complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": done}
            )
        except BaseException:
            with contextlib.suppress(StoreError):
                self._call(key, "abort_multipart_upload", Key=key, UploadId=upload)
            raise

    def copy(self, key: str, to: str) -> None:
        """Let the service copy an object of at most 5 GiB within its bucket."""
        secret = {f"CopySource{name}": value for name, value in self._login.request.items()}
        self._call(
            key,
            "copy_object",
            Key=to,
            CopySource={"Bucket": self._bucket, "Key": key},
            **self._login.request,
            **secret,
        )

    def open(self, key: str, start: int = 0, etag: str | None = None) -> ObjectBody:
        """Begin to read an object at the position ``start``.

        Raise KeyChanged when it does not have the given ``etag``. There is one attempt only: after a broken
        connection the caller continues at its position.
        """
        options: dict[str, Any] = {"IfMatch": etag} if etag else {}
        if start:
            options["Range"] = f"bytes={start}-"
        found = self._once(key, "get_object", Key=key, **options, **self._login.request)
        # a server without support for ranges answers with the whole object
        span = str(found.get("ContentRange") or "")
        begins = int(span.partition(" ")[2].partition("-")[0]) if span else 0
        body = RateLimited(found["Body"], self._rate_limit) if self._rate_limit else found["Body"]
        return ObjectBody(body, begins, begins + int(found["ContentLength"]), str(found.get("ETag", "")))

    def chunks(self, key: str) -> Iterator[tuple[ObjectBody, bytes]]:
        """Yield an object in chunks, at least one, each with the answer it comes from.

        After a broken connection, reading continues at the same position.
        """
        policy, pos, size, etag = self.retry_policy.restarted(), 0, -1, None
        while pos != size:
            try:
                answer = self.open(key, pos, etag)
                # a service without conditional reads may answer with a newer object
                if etag not in (None, answer.etag):
                    raise self._changed(key)
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
        return self.retry_policy.call(lambda: b"".join(self._rest(key, self.open(key, start))))

    def _rest(self, key: str, answer: ObjectBody) -> Iterator[bytes]:
        with contextlib.closing(answer.body), self.translate_errors(key):
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
        self._call(key, "put_object_retention", Key=key, Retention={"Mode": mode, "RetainUntilDate": until})

    def _retained(self, key: str) -> Any:
        """Return the lock of an object, None when it has none or reading locks is not permitted."""
        with contextlib.suppress(StoreError):
            return self._call(key, "get_object_retention", Key=key).get("Retention")
        return None

    def delete(self, key: str, *, only: str | None = None) -> None:
        """Remove a key. It is no error when the key does not exist.

        With ``only``, raise KeyChanged when the object has another ETag.
        """
        condition = {"IfMatch": only} if only else {}
        with contextlib.suppress(KeyMissing):
            self._call(key, "delete_object", Key=key, **condition)

    def pages(self, prefix: str) -> Iterator[list[ListedObject]]:
        """Yield the listed objects below a prefix, page by page."""
        token: dict[str, str] = {}
        while True:
            page = self._call(prefix, "list_objects_v2", Prefix=prefix, **token)
            yield [
                ListedObject(one["Key"], int(one["Size"]), one["LastModified"])
                for one in page.get("Contents", ())
            ]
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def now(self, prefix: str) -> datetime:
        """Return the time of the service, computed from its last answer.

        Without an answer so far, list the prefix to get one.
        """
        if self._date is None:
            self._call(prefix, "list_objects_v2", Prefix=prefix, MaxKeys=1)
        if self._date is None:  # its answers have no Date header
            return clock.now()
        said, at = self._date
        return parsedate_to_datetime(said).astimezone(UTC) + timedelta(seconds=time.monotonic() - at)

    @property
    def _is_amazon(self) -> bool:
        return (urlsplit(self.endpoint).hostname or "").endswith(AMAZON)

    def _call(self, key: str, operation: str, **parameters: Any) -> Any:
        return self.retry_policy.call(lambda: self._once(key, operation, **parameters))

    def _once(self, key: str, operation: str, **parameters: Any) -> Any:
        with self._client(key) as client, self.translate_errors(key):
            answer = getattr(client, operation)(Bucket=self._bucket, **parameters)
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if "date" in headers:
            self._date = headers["date"], time.monotonic()
        return answer

    @contextlib.contextmanager
    def _client(self, key: str) -> Iterator[Any]:
        try:
            client = self._clients.get_nowait()
        except queue.Empty:
            try:
                with self.translate_errors(key):
                    client = self.new_client()
            except ValueError:
                raise StoreError(
                    self._message(key, "the endpoint or the region is not valid"), self._advice.correct
                ) from None
        try:
            yield client
        finally:
            self._clients.put(client)

    def new_client(self) -> Any:
        """Return a new client of the service with the settings of this bucket."""
        config = _library("botocore.config").Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"total_max_attempts": 1},
            # every server checks the signature; some servers refuse the checksums of newer clients
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={
                "addressing_style": self._settings.addressing_style or "auto",
                "payload_signing_enabled": True,
            },
            user_agent_extra="zodb-vault",
        )
        with SESSION_LOCK:  # a session is not safe for threads, its clients are
            session = _session(self._settings.profile, self._settings.region)
            client = session.client(
                "s3", endpoint_url=self._settings.endpoint, config=config, **self._login.client
            )
        if self._rate_limit:
            # after signing: signing reads the body, too, and must not count
            client.meta.events.register("before-send.s3.PutObject", self._slow_down)
        return client

    def _slow_down(self, request: Any, **_: Any) -> None:
        """Send the body of a request at the limited rate."""
        if self._rate_limit and request.body:
            request.body = RateLimited(
                io.BytesIO(request.body) if isinstance(request.body, bytes | bytearray) else request.body,
                self._rate_limit,
            )

    @contextlib.contextmanager
    def translate_errors(self, key: str) -> Iterator[None]:
        """Translate errors of the client library into the errors of the contract.

        Texts of the service are left out: they are not under our control and may hold secrets.
        """
        exceptions = _library("botocore.exceptions")
        try:
            yield
        except exceptions.ClientError as error:
            raise self._refused(key, error) from None
        except (
            exceptions.HTTPClientError,
            exceptions.ConnectionError,
            exceptions.IncompleteReadError,
        ) as error:
            raise TransientError(
                self._message(key, f"the connection failed ({type(error).__name__})"),
                self._advice.unreachable,
            ) from error
        except (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
        ) as error:
            raise StoreError(
                self._message(key, f"there are no usable credentials ({type(error).__name__})"),
                self._advice.credentials,
            ) from None
        except exceptions.BotoCoreError as error:
            raise StoreError(
                self._message(key, f"the request could not be sent ({type(error).__name__})"),
                self._advice.otherwise,
            ) from None

    def _refused(self, key: str, error: Any) -> StoreError | TransientError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in MISSING:
            return KeyMissing(f"{key} is not in the bucket {self._bucket}")
        if code in REFUSED or status == 412:
            return self._changed(key)
        message = self._message(key, f"the service answers {code or status}")
        if code in TRANSIENT_CODES or status in TRANSIENT_STATUS:
            return TransientError(
                message,
                "the service is overloaded or has a failure; run the command again later, it reuses what is "
                "already stored",
            )
        return StoreError(message, self._advice.hints.get(code, self._advice.otherwise))

    def _changed(self, key: str) -> KeyChanged:
        return KeyChanged(f"{key} in the bucket {self._bucket} was changed by another process")

    def _message(self, key: str, what: str) -> str:
        return f"s3://{self._bucket}/{key}: {what}"


@cache
def _session(profile: str | None, region: str | None) -> Any:
    return _library("boto3.session").Session(profile_name=profile, region_name=region)


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("boto3", "botocore"):
            raise
        raise UsageError(
            "a repository in S3 needs boto3, which is not installed", "install zodb-vault[s3]"
        ) from None
