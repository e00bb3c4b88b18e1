"""How many missing blobs are a loss of the site, and how many are likelier a mistake of the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from ...errors import BlobsMissing, Damage
from ...model import canonical
from ...model import tid as tids
from ...model.blob import BlobRef, MissingBlob, MissingRow, MissingRows
from ...model.chain import Documents
from ...model.manifest import DatabaseEntry, MissingBlobs

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
            "check that this is where the blobs are, a directory mounted, a bucket the right one; "
            "`--allow-missing N` backs up what there is",
        )


def note_missing(documents: Documents, missing: Iterable[MissingBlob]) -> MissingBlobs:
    """Store the list of missing blobs, each with the place where it should be."""
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
    try:
        return msgspec.json.decode(documents.document(listed), type=MissingRows).rows
    except msgspec.MsgspecError:
        raise Damage(f"the list of missing blobs of {entry.name} cannot be read") from None
