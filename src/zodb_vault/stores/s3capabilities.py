"""What an S3 service can do.

Services differ in conditional requests: some ignore the condition, some refuse the request. Each one is
tried once when a repository is made, and recorded in it.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Final

from ..errors import KeyChanged, StoreError
from .retry import TransientError
from .s3bucket import BucketClient

PROBE_FOLDER: Final = ".probe/"
PUT: Final = "conditional_put"
REPLACE: Final = "conditional_replace"
DELETE: Final = "conditional_delete"
RANGE: Final = "ranges"


class ServiceCapabilities:
    """What the service of one location can do. It is probed when it is needed and not known."""

    def __init__(self, client: BucketClient, prefix: str, location: str) -> None:
        self._client, self._prefix, self._location = client, prefix, location
        self._found: dict[str, str | bool] = {}
        self._lock = threading.Lock()

    def probe(self) -> dict[str, str | bool]:
        """Try conditional writes and ranges, under a key that no repository uses.

        The result includes the location and the endpoint. Raise StoreError.
        """
        client, key = self._client, f"{self._prefix}{PROBE_FOLDER}{secrets.token_hex(8)}"
        one, other = b"one", b"other"
        etag = client.put(key, one, _digest(one))
        try:
            found: dict[str, str | bool] = {"location": self._location, "endpoint": client.endpoint}
            found[RANGE] = client.tail(key, 2) == one[2:]
            found[PUT] = _refused(lambda: client.put(key, other, _digest(other), only_new=True))
            etag = client.put(key, one, _digest(one))
            second = client.put(key, other, _digest(other))
            found[REPLACE] = etag != second and _refused(
                lambda: client.put(key, one, _digest(one), only_over=etag)
            )
            # without conditional replacement, the ETag may not tell one content from another
            found[DELETE] = bool(found[REPLACE]) and _refused(lambda: client.delete(key, only=etag))
        finally:
            client.delete(key)
        self._found = found
        return found

    def use_probed(self, found: Mapping[str, str | bool]) -> None:
        """Use an earlier probe of this location and endpoint."""
        if (found.get("location"), found.get("endpoint")) == (self._location, self._client.endpoint):
            self._found = dict(found)

    def limitations(self) -> list[str]:
        """Return what a store on this service cannot guarantee, one sentence each."""
        if not self._found:
            return [
                "the capabilities of this service are not recorded, because the repository was made at "
                "another location: every run probes them again"
            ]
        if self.can_put_new and self.can_replace:
            return []
        return [
            "the service does not support all conditional writes: runs use a mutex of listed objects "
            "instead, and a run that stops for minutes during a write counts as dead"
        ]

    @property
    def can_put_new(self) -> bool:
        """Return whether an object can be stored on the condition that its key is new."""
        return self._can(PUT)

    @property
    def can_replace(self) -> bool:
        """Return whether an object can be replaced and removed on the condition that it has a given ETag."""
        return self._can(REPLACE) and self._can(DELETE)

    def _can(self, what: str) -> bool:
        with self._lock:
            if what not in self._found:
                self.probe()
        return bool(self._found[what])


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
