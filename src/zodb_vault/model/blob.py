"""A blob revision, as a record of a storage names it, and those that are missing."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class BlobRef(NamedTuple):
    """A blob revision that a record asks for.

    ``sure`` is False when only the existence of the file can tell.
    """

    oid: bytes
    tid: bytes
    sure: bool


class MissingRows(msgspec.Struct):
    """The document that lists missing blobs: OID, TID, path."""

    rows: list[tuple[str, str, str]]
