"""Rows of zodb-pgjsonb that name blobs, as COPY writes them."""

from __future__ import annotations

from typing import Final

from ...model import tid as tids
from ...model.blob import BlobRef
from ..base import CheckReport
from ..sql.snapshot import row_ref

NULL: Final = rb"\N"
BLOB_COLUMNS: Final = ("zoid", "tid", "blob_size", "data", "s3_key")
HEX_PREFIX: Final = len(rb"\\x")


def blob_row(report: CheckReport, fields: list[bytes]) -> BlobRef | None:
    """Return what a row of ``blob_state`` names in S3.

    What is in the row itself has to be as long as it says.
    """
    zoid, tid, size, data, s3_key = fields
    ref = row_ref(zoid, tid)
    if s3_key != NULL:
        return ref
    if data != NULL:
        report.count("blobs in the dump")
        length = (len(data) - HEX_PREFIX) // 2
        if length != int(size):
            why = f"it has {length} bytes in the database, which says {int(size)}"
            report.source("blob", why, oid=tids.to_hex(ref.oid), tid=tids.to_hex(ref.tid))
    return None
