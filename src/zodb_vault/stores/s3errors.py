"""Errors of an S3 service, translated into the errors of the store contract."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from ..errors import KeyChanged, KeyMissing, StoreError, UsageError
from ..model.requirements import BOTO3
from .retry import TransientError

# A request whose answer has no body (HEAD) has the HTTP status as its code.
MISSING: Final = ("NoSuchKey", "404", "NotFound")
# InvalidRange: the range begins after the end, because the object has become shorter
REFUSED: Final = ("PreconditionFailed", "412", "InvalidRange", "416")
# ConditionalRequestConflict and OperationAborted: another process is writing the same key. IncompleteBody,
# BadDigest and XAmzContentSHA256Mismatch: the body was changed or cut on its way.
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
    "check the credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "a profile (AWS_PROFILE), or the role of this machine"
)
PERMISSIONS: Final = (
    "grant what the how-to `repository in S3` lists for this command, and check the credentials"
)
OBJECT_LOCK: Final = "object_lock needs a bucket that was created with object lock"
HINTS: Final[Mapping[str, str]] = {
    "AccessDenied": PERMISSIONS,
    "403": PERMISSIONS,
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
    "InvalidRequest": f"check [repository.s3]; {OBJECT_LOCK}",
    "ObjectLockConfigurationNotFoundError": OBJECT_LOCK,
    "MethodNotAllowed": "check the endpoint: [repository.s3] endpoint",
}


class ErrorHints(NamedTuple):
    """The hint for each kind of error; it depends on where the settings of the bucket are.

    ``hints`` by the code of the answer, ``otherwise`` for other codes, ``unreachable`` for broken
    connections, ``credentials`` for missing ones, ``correct`` for a wrong endpoint or region.
    """

    hints: Mapping[str, str] = HINTS
    otherwise: str = (
        "check the location, [repository.s3] and the service; "
        "`zodb-vault repository check` tries every request that zodb-vault makes"
    )
    unreachable: str = (
        "check the network and [repository.s3] endpoint, then run the command again; "
        "it reuses what is already stored"
    )
    credentials: str = CREDENTIALS
    correct: str = "correct [repository.s3]"


class ErrorTranslator:
    """Translates what the client library raises for one bucket.

    Texts of the service are left out: they are not under our control and may hold secrets.
    """

    def __init__(self, bucket: str, hints: ErrorHints) -> None:
        self._bucket, self._hints = bucket, hints

    @contextlib.contextmanager
    def translate_errors(self, key: str) -> Iterator[None]:
        """Raise KeyMissing, KeyChanged, StoreError or TransientError for errors of the client library."""
        exceptions = import_boto("botocore.exceptions")
        try:
            yield
        except exceptions.ClientError as error:
            raise self._refused(key, error.response) from None
        except (
            exceptions.HTTPClientError,
            exceptions.ConnectionError,
            exceptions.IncompleteReadError,
        ) as error:
            what = f"the connection failed ({type(error).__name__})"
            raise TransientError(self._message(key, what), self._hints.unreachable) from error
        except (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
        ) as error:
            what = f"there are no usable credentials ({type(error).__name__})"
            raise StoreError(self._message(key, what), self._hints.credentials) from None
        except exceptions.BotoCoreError as error:
            what = f"the request could not be sent ({type(error).__name__})"
            raise StoreError(self._message(key, what), self._hints.otherwise) from None

    def changed(self, key: str) -> KeyChanged:
        """Return the error for an object that another process replaced."""
        return KeyChanged(f"{key} in the bucket {self._bucket} was changed by another process")

    def invalid_settings(self, key: str) -> StoreError:
        """Return the error for settings from which no client can be made."""
        return StoreError(self._message(key, "the endpoint or the region is not valid"), self._hints.correct)

    def _refused(self, key: str, response: Mapping[str, Any]) -> StoreError | TransientError:
        """Return the error for an answer of the service that is not a success."""
        code = str(response.get("Error", {}).get("Code", ""))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in MISSING:
            return KeyMissing(f"{key} is not in the bucket {self._bucket}")
        if code in REFUSED or status == 412:
            return self.changed(key)
        message = self._message(key, f"the service answers {code or status}")
        if code in TRANSIENT_CODES or status in TRANSIENT_STATUS:
            return TransientError(
                message,
                "the service is overloaded or has a failure; "
                "run the command again later, it reuses what is already stored",
            )
        return StoreError(message, self._hints.hints.get(code, self._hints.otherwise))

    def _message(self, key: str, what: str) -> str:
        return f"s3://{self._bucket}/{key}: {what}"


def import_boto(module: str) -> Any:
    """Import a module of boto3 or botocore; raise UsageError when they are not installed.

    The import takes about 0.2 s, which commands on a local repository do not need.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("boto3", "botocore"):
            raise
        raise UsageError(
            "a repository in S3 needs boto3, which is not installed", BOTO3.how_to_install
        ) from None
