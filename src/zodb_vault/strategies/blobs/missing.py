"""How many missing blobs are a loss of the site, and how many are likelier a mistake of the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from ...errors import BlobsMissing
from ...model import canonical
from ...model import tid as tids
from ...model.blob import BlobRef
from ...model.manifest import MissingBlobs
from ..base import Sink

TOLERATED_MISSING: Final = 20
TOLERATED_SHARE: Final = 0.01


def limit_missing(missing: Sequence[BlobRef], count: int, allowed: int | None, where: str) -> None:
    """Raise BlobsMissing when more blobs are missing beside ``count`` others than a site may have lost."""
    limit = (
        max(TOLERATED_MISSING, int((count + len(missing)) * TOLERATED_SHARE)) if allowed is None else allowed
    )
    if len(missing) > limit:
        first = missing[0]
        raise BlobsMissing(
            f"{len(missing)} of {count + len(missing)} blobs are missing in {where}, the first has "
            f"OID {tids.to_hex(first.oid)}, TID {tids.to_hex(first.tid)}",
            "check that this is where the blobs are, a directory mounted, a bucket the right one; `--allow-missing N` backs up what there is",
        )


def note_missing(sink: Sink, missing: Iterable[tuple[BlobRef, str]]) -> MissingBlobs:
    """Store the list of missing blobs, each with the place where it should be."""
    rows = [
        msgspec.json.encode([tids.to_hex(blob.oid), tids.to_hex(blob.tid), place]) for blob, place in missing
    ]
    return MissingBlobs(
        count=len(rows), list=sink.put_document(canonical.rows("missing", rows)).meta if rows else None
    )
