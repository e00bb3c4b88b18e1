"""Blob revisions that records of a storage reference, and the document of missing ones."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec


class BlobRef(NamedTuple):
    """A blob revision that a record references.

    ``sure`` is False when the record cannot be read, such as with an encrypting wrapper. Then there is a blob
    if there is a file for it.
    """

    oid: bytes
    tid: bytes
    sure: bool


class MissingBlob(NamedTuple):
    """A referenced blob that the source has lost, and the ``path`` where it should be.

    ``large_object`` is the OID of the large object of PostgreSQL that should hold it, None for a blob that is
    kept in another way.
    """

    blob: BlobRef
    path: str
    large_object: int | None = None


class MissingRow(msgspec.Struct, frozen=True, array_like=True):
    """One row of the document of missing blobs: OID and TID in hexadecimal, path, large object."""

    oid: str
    tid: str
    path: str
    large_object: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] | None = None


class MissingRows(msgspec.Struct):
    """The document that lists missing blobs."""

    rows: list[MissingRow]
