"""Blob revisions that records of a storage reference, and the document of missing ones."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class BlobRef(NamedTuple):
    """A blob revision that a record references.

    ``sure`` is False when the record cannot be read, such as with an encrypting wrapper. Then there is a blob
    if there is a file for it.
    """

    oid: bytes
    tid: bytes
    sure: bool


class MissingRows(msgspec.Struct):
    """The document that lists missing blobs: OID, TID, path."""

    rows: list[tuple[str, str, str]]
