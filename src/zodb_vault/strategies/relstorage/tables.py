"""The tables of RelStorage: which rows a dump and its deltas have, and how its history is truncated."""

from __future__ import annotations

from typing import Final

from ...datafs.records import BLOB_RECORD_LIMIT, CLASS_NAME_LIMIT
from ..postgres.tables import Keyed, StorageTables
from ..sql.history import Revisions

# The condition for a row that may be the record of a blob; only the head of its pickle tells for sure.
# ``position`` is the expression of each server for where CLASS_NAME begins in ``state``, counted from 1.
BLOB_RECORDS: Final = (
    f"state_size BETWEEN 1 AND {BLOB_RECORD_LIMIT} AND {{position}} BETWEEN 1 AND {CLASS_NAME_LIMIT}"
)
CLASS_NAME: Final = b"ZODB.blob".hex()
IN_POSTGRESQL: Final = BLOB_RECORDS.format(position=f"position('\\x{CLASS_NAME}'::bytea in state)")
_NEWEST: Final = "(SELECT max(o.tid) FROM object_state o WHERE o.zoid = current_object.zoid AND o.tid <= %s)"
# A pack that was interrupted has removed revisions, from the oldest transaction on, and left the rest to the
# next run.
_BEGUN: Final = """
SELECT max(keep_tid) FROM pack_object WHERE EXISTS (
  SELECT 1 FROM pack_state p
  WHERE NOT EXISTS (SELECT 1 FROM object_state o WHERE o.zoid = p.zoid AND o.tid = p.tid)
)
"""
_NO_CURRENT: Final = """
SELECT count(*) FROM object_state o
WHERE NOT EXISTS (SELECT 1 FROM object_state n WHERE n.zoid = o.zoid AND n.tid > o.tid)
AND NOT EXISTS (SELECT 1 FROM current_object c WHERE c.zoid = o.zoid AND c.tid = o.tid)
"""


def revisions_of(blob_records: str) -> Revisions:
    """Return how RelStorage keeps history; ``blob_records`` is the condition for the record of a blob.

    A truncation also removes what a pack has prepared, because that describes a later state.
    """
    return Revisions(
        transactions='"transaction"',
        states="object_state",
        blob_records=blob_records,
        packed=('SELECT max(tid) FROM "transaction" WHERE packed', _BEGUN),
        truncate=(
            "DELETE FROM object_ref WHERE tid > %s",
            "DELETE FROM object_refs_added WHERE tid > %s",
            "DELETE FROM pack_object",
            "DELETE FROM pack_state",
            "DELETE FROM pack_state_tid",
            "DELETE FROM blob_chunk WHERE tid > %s",
            f"UPDATE current_object SET tid = {_NEWEST} WHERE tid > %s AND {_NEWEST} IS NOT NULL",
            "DELETE FROM current_object WHERE tid > %s",
            "DELETE FROM object_state WHERE tid > %s",
            'DELETE FROM "transaction" WHERE tid > %s',
        ),
        check=(("objects whose newest revision is not the current one", _NO_CURRENT),),
    )


CURRENT: Final = StorageTables(
    keyed=(
        Keyed("object_state", "set", ("zoid",), ("zoid", "tid")),
        Keyed("blob_chunk", "set", ("zoid",), ("zoid", "tid", "chunk")),
    ),
    derived=("object_ref", "object_refs_added", "pack_object"),
    chunks="blob_chunk",
    revisions=revisions_of(IN_POSTGRESQL),
)
HISTORY: Final = StorageTables(
    keyed=(
        Keyed("transaction", "revisions", ("tid",), ("tid", "packed", "is_empty"), ("packed", "is_empty")),
        Keyed("object_state", "revisions", ("zoid", "tid"), ("zoid", "tid", "prev_tid"), ("prev_tid",)),
        Keyed("blob_chunk", "revisions", ("zoid", "tid", "chunk_num"), ("zoid", "tid", "chunk")),
        Keyed("current_object", "set", ("zoid",), ("zoid", "tid")),
    ),
    derived=("object_ref", "object_refs_added", "pack_object", "pack_state", "pack_state_tid"),
    chunks="blob_chunk",
    revisions=revisions_of(IN_POSTGRESQL),
)


def tables_of(history: bool) -> StorageTables:
    """Return the tables of a RelStorage in PostgreSQL."""
    return HISTORY if history else CURRENT
