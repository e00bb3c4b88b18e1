"""The tables of zodb-pgjsonb: which rows a dump and its deltas have, and how its history is truncated."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ..postgres.tables import BlobRows, Keyed, StorageTables
from ..sql.history import Revisions
from .blob_rows import BLOB_COLUMNS, blob_row

NO_HISTORY: Final = (
    "columns that other packages keep in object_state, as a catalog does, have no history: "
    "have them computed again after the restore"
)
_COLUMNS: Final = "zoid, tid, class_mod, class_name, state, state_size, refs"
# Of each object that has no current revision any more: its newest former one, unless that has no state, which
# says that the object was deleted.
_BACK: Final = f"""
SELECT {_COLUMNS} FROM (
  SELECT DISTINCT ON (zoid) {_COLUMNS} FROM object_history h
  WHERE NOT EXISTS (SELECT 1 FROM object_state o WHERE o.zoid = h.zoid)
  ORDER BY zoid, tid DESC
) n WHERE n.state IS NOT NULL
"""
_UNLOGGED: Final = "NOT EXISTS (SELECT 1 FROM transaction_log l WHERE l.tid = h.tid)"
_LOST: Final = """
WITH RECURSIVE reached AS (
  SELECT 0::bigint AS zoid UNION SELECT unnest(o.refs) FROM object_state o JOIN reached r ON o.zoid = r.zoid
) SELECT count(*) FROM reached r WHERE NOT EXISTS (SELECT 1 FROM object_state o WHERE o.zoid = r.zoid)
"""
# A pack removes transactions, though older revisions of them are left. It also removes objects that are not
# reachable now, but may have been reachable at the transaction that is restored.
REVISIONS: Final = Revisions(
    transactions=f"""(
      SELECT tid, username, description, extension FROM transaction_log
      UNION ALL SELECT DISTINCT h.tid, '', '', ''::bytea FROM object_history h WHERE {_UNLOGGED}
    )""",
    states="""(
      SELECT zoid, tid, class_mod, class_name, state_size FROM object_state
      UNION ALL SELECT zoid, tid, class_mod, class_name, state_size FROM object_history h
      WHERE NOT EXISTS (SELECT 1 FROM object_state o WHERE o.zoid = h.zoid AND o.tid = h.tid)
    )""",
    blob_records="class_mod = 'ZODB.blob' AND class_name = 'Blob'",
    packed=(f"SELECT max(tid) FROM object_history h WHERE {_UNLOGGED}",),
    truncate=(
        "DELETE FROM pack_state",
        "DELETE FROM blob_state WHERE tid > %s",
        "DELETE FROM object_history WHERE tid > %s",
        "DELETE FROM object_state WHERE tid > %s",
        f"INSERT INTO transaction_log (tid) SELECT DISTINCT h.tid FROM ({_BACK}) h WHERE {_UNLOGGED}",
        f"INSERT INTO object_state ({_COLUMNS}) {_BACK}",
        "DELETE FROM object_history h USING object_state o WHERE o.zoid = h.zoid AND o.tid = h.tid",
        "DELETE FROM transaction_log WHERE tid > %s",
    ),
    check=(("objects that are referred to and that a pack has removed", _LOST),),
    marks_packs=False,
)

CURRENT: Final = StorageTables(
    keyed=(
        Keyed("transaction_log", "revisions", ("tid",), ("tid",)),
        Keyed("object_state", "set", ("zoid",), ("zoid", "tid")),
        Keyed("blob_state", "revisions", ("zoid", "tid"), ("zoid", "tid")),
    ),
    columns=frozenset({"zoid", "tid", "class_mod", "class_name", "state", "state_size", "refs"}),
    blob_rows=BlobRows("blob_state", BLOB_COLUMNS, "s3_key", blob_row),
    revisions=REVISIONS,
    truncation_note=NO_HISTORY,
)
HISTORY: Final = replace(
    CURRENT,
    keyed=(*CURRENT.keyed, Keyed("object_history", "history", ("zoid", "tid"), ("zoid", "tid"))),
    derived=("pack_state",),
)


def tables_of(history: bool) -> StorageTables:
    """Return the tables of a zodb-pgjsonb."""
    return HISTORY if history else CURRENT


def revision_tables(history: bool) -> tuple[str, ...]:
    """Return the tables that hold revisions of objects."""
    return ("object_state", "object_history") if history else ("object_state",)
