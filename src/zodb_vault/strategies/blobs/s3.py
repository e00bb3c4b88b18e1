"""Blobs that a site keeps as objects in a bucket of S3.

Objects are fetched by key. The bucket is never listed, except to see whether it is used at all.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from ...errors import ConfigurationError, KeyMissing, SourceError, StoreError
from ...model import tid as tids
from ...model.blob import BlobRef
from ...model.requirements import BOTO3
from ...model.s3settings import S3Settings
from ...model.source import Database
from ...policy.scope import bucket as shown_bucket
from ...stores.retry import RetryPolicy
from ...stores.s3bucket import BucketClient
from ...stores.s3connection import ExtraParameters
from ...stores.s3errors import ErrorHints

CREDENTIALS: Final = (
    "check s3-access-key and s3-secret-key of the section in zope.conf; without these keys, check the "
    "credentials in the environment"
)
CORRECT: Final = "correct bucket, endpoint and region in zope.conf"
REFUSED: Final = (
    "grant s3:GetObject on the blobs, and s3:PutObject for a restore into the bucket; without "
    "s3:ListBucket, some services give this error for a missing object too"
)
HINTS: Final = ErrorHints(
    hints={
        "AccessDenied": REFUSED,
        "403": REFUSED,
        "InvalidAccessKeyId": CREDENTIALS,
        "SignatureDoesNotMatch": CREDENTIALS,
        "ExpiredToken": "get new credentials, then run the command again; it reuses what is already stored",
        "RequestTimeTooSkewed": "set the clock of this machine (NTP)",
        "NoSuchBucket": CORRECT,
        "PermanentRedirect": "name the region of the bucket as s3-region in zope.conf",
        "AuthorizationHeaderMalformed": "name the region of the bucket as s3-region in zope.conf",
        "InvalidRequest": "check s3-sse-customer-key in zope.conf: blobs can only be read with the key that "
        "encrypted them",
    },
    otherwise="check the S3 keys of the section in zope.conf, and the service",
    unreachable="check the network and s3-endpoint-url in zope.conf, then run the command again; it reuses "
    "what is already stored",
    credentials=CREDENTIALS,
    correct=CORRECT,
)
FALSE: Final = ("false", "no", "off", "0")


class OpenObject:
    """A blob that is an object; its time is that of its transaction."""

    def __init__(self, ref: BlobRef, chunks: Iterator[bytes], size: int) -> None:
        self._chunks, self._rest = chunks, b""
        self.size, self.mtime = size, int(tids.to_datetime(ref.tid).timestamp())

    def read(self, length: int) -> bytes:
        """Return the next bytes."""
        self._rest = self._rest or next(self._chunks, b"")
        found, self._rest = self._rest[:length], self._rest[length:]
        return found

    def close(self) -> None:
        """End the request."""
        self._chunks.close()  # type: ignore[attr-defined]


class BlobBucket:
    """The blobs of one database in its bucket.

    ``key_of`` returns the key of a blob below the prefix. ``size_of`` returns the size in bytes that its
    object must have, None when it is not known. With an object of another size, the blob counts as missing.
    """

    remote = True

    def __init__(
        self,
        database: Database,
        key_of: Callable[[BlobRef], str],
        size_of: Callable[[BlobRef], int | None] = lambda _ref: None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        self.root = shown_bucket(database)
        self._key_of, self._size_of = key_of, size_of
        option = options_of(database)
        # A prefix always ends with a slash. The prefix of one site may be the beginning of another site's
        # prefix, as in "plone" and "plone2".
        prefix = option("s3-prefix").rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = option("bucket-name") or option("s3-bucket-name")
        self._client = BucketClient(
            self._bucket,
            _settings(option),
            retry_policy,
            hints=HINTS,
            extra=_extra_parameters(database, option),
        )
        self._wrong: dict[bytes, str] = {}

    def key(self, ref: BlobRef) -> str:
        """Return the key of a blob."""
        return self._prefix + self._key_of(ref)

    def path(self, ref: BlobRef) -> str:
        """Return the address of a blob, followed by the reason when its object has the wrong size."""
        return f"s3://{self._bucket}/{self.key(ref)}{self._wrong.get(ref.oid + ref.tid, '')}"

    def open(self, ref: BlobRef) -> OpenObject | None:
        """Begin to read a blob; return None when it is missing; raise SourceError."""
        with translate_errors():
            chunks = self._client.chunks(self.key(ref))
            try:
                answer, first = next(chunks)
            except KeyMissing:
                return None
        wanted = self._size_of(ref)
        if wanted not in (None, answer.size):
            self._wrong[ref.oid + ref.tid] = f" ({answer.size} bytes, the database says {wanted})"
            chunks.close()  # type: ignore[attr-defined]
            return None
        return OpenObject(ref, _read_chunks(first, chunks), answer.size)

    # for a restore

    def holds(self, ref: BlobRef, size: int, sha256: str) -> bool | None:
        """Tell whether the object of a blob has exactly this content; None when there is no such object.

        Raise StoreError.
        """
        chunks, digest = self._client.chunks(self.key(ref)), hashlib.sha256()
        with contextlib.closing(chunks):  # type: ignore[type-var]
            try:
                for answer, chunk in chunks:
                    if answer.size != size:
                        return False
                    digest.update(chunk)
            except KeyMissing:
                return None
        return digest.hexdigest() == sha256

    def put(self, ref: BlobRef, data: bytes) -> None:
        """Store a blob in one request."""
        self._client.put(self.key(ref), data, hashlib.sha256(data).digest())

    def put_parts(self, ref: BlobRef, parts: Iterator[bytes]) -> None:
        """Store a long blob in several requests; when ``parts`` raises an error, no object is made."""
        self._client.put_parts(self.key(ref), parts)

    def keep(self, ref: BlobRef, folder: str) -> None:
        """Copy the object of a blob into a folder below the prefix."""
        self._client.copy(self.key(ref), f"{self._prefix}{folder}/{self._key_of(ref)}")

    def folder(self, name: str) -> str:
        """Return the address of a folder."""
        return f"s3://{self._bucket}/{self._prefix}{name}/"

    def is_used(self) -> bool:
        """Tell whether there is any object of a blob; raise StoreError."""
        return any(page for page in self._client.pages(f"{self._prefix}blobs/"))


def _read_chunks(first: bytes, chunks: Iterator[tuple[Any, bytes]]) -> Iterator[bytes]:
    with contextlib.closing(chunks), translate_errors():  # type: ignore[type-var]
        yield first
        try:
            for _answer, chunk in chunks:
                yield chunk
        except KeyMissing:  # deleted while it was read: the blob is too short, and the pack writer notices it
            return


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Turn a StoreError into a SourceError; KeyMissing passes."""
    try:
        yield
    except KeyMissing:
        raise
    except StoreError as error:
        raise SourceError(error.message, error.hint) from None


def require_client(database: Database) -> None:
    """Raise ConfigurationError when boto3, which reads buckets, is not installed."""
    if importlib.util.find_spec("boto3") is None:
        raise ConfigurationError(
            [f"the blobs of the database {database.name} are in S3; boto3 is needed and not installed"],
            BOTO3.how_to_install,
        )


def wrapper_key(ref: BlobRef) -> str:
    """Return the key of a blob in zodb-s3blobs: OID and TID in hex without leading zeros."""
    return f"blobs/{int.from_bytes(ref.oid):x}/{int.from_bytes(ref.tid):x}.blob"


def options_of(database: Database) -> Callable[[str], str]:
    """Return a function that returns an S3 option, from the section of the wrapper if there is one."""
    prefix = "s3blobstorage." if "s3blobs" in database.wrappers else ""
    return lambda key: database.option(prefix + key)


def _settings(option: Callable[[str], str]) -> S3Settings:
    return S3Settings(
        endpoint=option("s3-endpoint-url") or None,
        region=option("s3-region") or None,
        addressing_style=option("s3-addressing-style") or None,
    )


def _extra_parameters(database: Database, option: Callable[[str], str]) -> ExtraParameters:
    client: dict[str, Any] = {"use_ssl": option("s3-use-ssl").lower() not in FALSE}
    if option("s3-access-key"):
        client |= {
            "aws_access_key_id": option("s3-access-key"),
            "aws_secret_access_key": option("s3-secret-key"),
        }
    return ExtraParameters(client, _customer_key(database, option("s3-sse-customer-key")))


def _customer_key(database: Database, text: str) -> Mapping[str, Any]:
    """Return the parameters of every request for the key that encrypts the objects.

    Raise ConfigurationError when the key is not valid.
    """
    if not text:
        return {}
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise ConfigurationError(
            [f"database {database.name}: s3-sse-customer-key is not the base64 form of 32 bytes"],
            "use the zope.conf of the running site",
        )
    return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}
