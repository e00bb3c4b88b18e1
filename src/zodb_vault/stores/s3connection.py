"""The connection to an S3 service: clients, retries, the rate limit, and the clock of the service."""

from __future__ import annotations

import contextlib
import io
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from ..model.s3settings import S3Settings
from ..runtime import clock
from .rate_limit import RateLimit, RateLimited
from .retry import RetryPolicy
from .s3errors import ErrorTranslator, import_boto

CONNECT_SECONDS: Final = 10
READ_SECONDS: Final = 60
AMAZON: Final = (".amazonaws.com", ".amazonaws.com.cn")
# a session is not safe for threads, its clients are
SESSION_LOCK: Final = threading.Lock()


class ExtraParameters(NamedTuple):
    """Parameters of every client, and of every request for an object, besides the settings.

    ``client`` holds the credentials; without them, boto3 takes those of the environment. ``request`` holds
    the key with which the service encrypts objects (SSE-C).
    """

    client: Mapping[str, Any] = {}
    request: Mapping[str, Any] = {}


class S3Connection:
    """Sends requests for one bucket.

    Every thread may call; each call has a client of its own while it runs.
    """

    def __init__(
        self,
        bucket: str,
        settings: S3Settings,
        errors: ErrorTranslator,
        retry_policy: RetryPolicy,
        rate_limit: RateLimit | None,
        client_parameters: Mapping[str, Any],
    ) -> None:
        self._bucket, self._settings, self._errors = bucket, settings, errors
        self.retry_policy, self._rate_limit = retry_policy, rate_limit
        self._client_parameters = client_parameters
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._last_date: tuple[str, float] | None = None

    @property
    def endpoint(self) -> str:
        """Return the URL that requests go to, without secrets."""
        with self._client(self._bucket) as client:
            parts = urlsplit(str(client.meta.endpoint_url))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")

    @property
    def is_amazon(self) -> bool:
        """Return whether requests go to a service of Amazon."""
        return (urlsplit(self.endpoint).hostname or "").endswith(AMAZON)

    def call(self, key: str, operation: str, **parameters: Any) -> Any:
        """Return the answer to a request; repeat it after transient errors. Raise as ``send``."""
        return self.retry_policy.call(lambda: self.send(key, operation, **parameters))

    def send(self, key: str, operation: str, **parameters: Any) -> Any:
        """Return the answer to a request that is sent once; error messages name ``key``.

        Raise TransientError, KeyMissing, KeyChanged, or StoreError.
        """
        with self._client(key) as client, self._errors.translate_errors(key):
            answer = getattr(client, operation)(Bucket=self._bucket, **parameters)
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if "date" in headers:
            self._last_date = headers["date"], time.monotonic()
        return answer

    def now(self, prefix: str) -> datetime:
        """Return the time of the service, computed from its last answer.

        Without an answer so far, list the prefix to get one.
        """
        if self._last_date is None:
            self.call(prefix, "list_objects_v2", Prefix=prefix, MaxKeys=1)
        if self._last_date is None:  # its answers have no Date header
            return clock.now()
        date, received = self._last_date
        return parsedate_to_datetime(date).astimezone(UTC) + timedelta(seconds=time.monotonic() - received)

    @contextlib.contextmanager
    def _client(self, key: str) -> Iterator[Any]:
        """Take an idle client, or make one. It is idle again at the end."""
        try:
            client = self._idle.get_nowait()
        except queue.Empty:
            try:
                with self._errors.translate_errors(key):
                    client = self.new_client()
            except ValueError:
                raise self._errors.invalid_settings(key) from None
        try:
            yield client
        finally:
            self._idle.put(client)

    def new_client(self) -> Any:
        """Return a new client of the service with the settings of this bucket."""
        config = import_boto("botocore.config").Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            # the retry policy repeats requests: it stops for a shutdown and can continue a broken read
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
        with SESSION_LOCK:
            session = _session(self._settings.profile, self._settings.region)
            client = session.client(
                "s3", endpoint_url=self._settings.endpoint, config=config, **self._client_parameters
            )
        if self._rate_limit:
            # after signing: signing reads the body, too, and must not count
            client.meta.events.register("before-send.s3.PutObject", self._limit_body)
        return client

    def _limit_body(self, request: Any, **_: Any) -> None:
        """Send the body of a request at the limited rate."""
        if self._rate_limit and request.body:
            is_bytes = isinstance(request.body, bytes | bytearray)
            body = io.BytesIO(request.body) if is_bytes else request.body
            request.body = RateLimited(body, self._rate_limit)


@cache
def _session(profile: str | None, region: str | None) -> Any:
    return import_boto("boto3.session").Session(profile_name=profile, region_name=region)
