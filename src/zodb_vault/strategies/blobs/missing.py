"""Decide how many missing blobs a backup accepts, and store the list of them.

A site may have lost a few blobs. When many are missing, the configuration is probably wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from ...errors import BlobsMissing
from ...model import canonical
from ...model import tid as tids
from ...model.blob import BlobRef, MissingBlob, MissingRow, MissingRows
from ...model.chain import Documents
from ...model.manifest import DatabaseEntry, MissingBlobs

# A backup accepts 20 missing blobs, or 1 percent of all blobs if that is more.
TOLERATED_MISSING: Final = 20
TOLERATED_SHARE: Final = 0.01


def limit_missing(missing: Sequence[BlobRef], count: int, allowed: int | None, where: str) -> None:
    """Raise BlobsMissing when too many blobs are missing; ``count`` blobs were found.

    ``allowed`` is the number of the user, None for the usual limit.
    """
    limit = (
        max(TOLERATED_MISSING, int((count + len(missing)) * TOLERATED_SHARE)) if allowed is None else allowed
    )
    if len(missing) > limit:
        first = missing[0]
        raise BlobsMissing(
            f"{len(missing)} of {count + len(missing)} blobs are missing in {where}, the first has "
            f"OID {tids.to_hex(first.oid)}, TID {tids.to_hex(first.tid)}",
            "check that this is the place of the blobs: the directory is mounted, the bucket is the right "
            "one; `--allow-missing N` makes a backup without them",
        )


def note_missing(documents: Documents, missing: Iterable[MissingBlob]) -> MissingBlobs:
    """Store the list of missing blobs, each with the path or address where it should be."""
    rows = [
        msgspec.json.encode(
            MissingRow(tids.to_hex(one.blob.oid), tids.to_hex(one.blob.tid), one.path, one.large_object)
        )
        for one in missing
    ]
    return MissingBlobs(
        count=len(rows), list=documents.put_document(canonical.rows("missing", rows)).meta if rows else None
    )


def missing_rows(entry: DatabaseEntry, documents: Documents) -> list[MissingRow]:
    """Return the blobs that were missing when a backup was made; raise Damage."""
    listed = entry.blobs.missing.list if entry.blobs else None
    if listed is None:
        return []
    name = f"the list of missing blobs of {entry.name}"
    return canonical.decode(documents.document(listed), MissingRows, name).rows
