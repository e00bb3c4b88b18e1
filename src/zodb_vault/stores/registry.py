"""Which store a location names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from ..errors import UsageError
from ..model.place import S3Settings
from .base import Store


def open_store(location: str, s3: S3Settings | None = None) -> Store:
    """Return the store of a location, a directory or ``s3://bucket/prefix``; raise UsageError for a kind that this version does not have."""
    scheme = urlsplit(location).scheme
    if scheme == "s3":
        from .s3 import S3Store

        return S3Store(location, s3)
    if len(scheme) > 1 and "://" in location:
        raise UsageError(f"repositories on {scheme}:// are not supported by this version", "name a directory or s3://bucket/prefix")
    from .local import LocalStore

    return LocalStore(Path(location).expanduser().absolute())
