"""A blob revision, as a record of a storage names it."""

from __future__ import annotations

from typing import NamedTuple


class BlobRef(NamedTuple):
    """A blob revision that a record asks for; ``sure`` is False when only the existence of the file can tell."""

    oid: bytes
    tid: bytes
    sure: bool
