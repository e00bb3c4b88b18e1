"""Open the store of a location."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..model.location import SUPPORTED, unsupported_kind
from ..model.s3settings import S3Settings
from .base import Store
from .rate_limit import RateLimit, rate_limited


def open_store(location: str, s3: S3Settings | None = None, rate: int | None = None) -> Store:
    """Return the store of a location: a directory or ``s3://bucket/prefix``.

    ``rate`` is in bytes per second. Raise UsageError for another kind of location.
    """
    if kind := unsupported_kind(location):
        raise UsageError(f"the location of the repository is {kind}, which is not supported", SUPPORTED)
    rate_limit = RateLimit(rate) if rate else None
    if location.startswith("s3://"):
        from .s3 import S3Store

        # it limits the rate itself: staged content is sent later, when its key is known
        return S3Store(location, s3, rate_limit=rate_limit)
    from .local import LocalStore

    store = LocalStore(Path(location).expanduser().absolute())
    return rate_limited(store, rate_limit) if rate_limit else store
