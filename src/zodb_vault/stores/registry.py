"""Which store a location names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from ..errors import UsageError
from .base import Store


def open_store(location: str) -> Store:
    """Return the store of a location, a directory; raise UsageError for a kind that this version does not have."""
    scheme = urlsplit(location).scheme
    if len(scheme) > 1 and "://" in location:
        raise UsageError(f"repositories on {scheme}:// are not supported by this version", "name a directory")
    from .local import LocalStore

    return LocalStore(Path(location).expanduser().absolute())
