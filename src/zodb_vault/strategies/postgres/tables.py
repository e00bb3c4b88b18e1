"""Which rows of a database tell by their TIDs that they are new, which ones a pack removes or changes, and which tables it only works with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

# ``set``: one row of each object, exchanged for one with a later TID. ``revisions``: rows that stay as they
# are until a pack removes them.
# ``history``: revisions that come here from ``object_state``, with their old TIDs, when a later one takes
# their place there.
Kind = Literal["set", "revisions", "history"]


class Keyed(NamedTuple):
    """A table whose rows have a TID: their key, the small columns that a pack changes, and what is added up to know it again."""

    name: str
    kind: Kind
    key: tuple[str, ...]
    sums: tuple[str, ...]
    changed: tuple[str, ...] = ()


class Layout(NamedTuple):
    """The tables of a storage.

    ``derived`` ones hold what a pack found out, and the next one finds out again when they are empty.

    ``columns`` are all that ``object_state`` has, where others can add columns and change them without a TID.
    All tables that are not named are copied whole.
    """

    keyed: tuple[Keyed, ...]
    derived: tuple[str, ...] = ()
    columns: frozenset[str] = frozenset()


RELSTORAGE_CURRENT: Final = Layout(
    keyed=(
        Keyed("object_state", "set", ("zoid",), ("zoid", "tid")),
        Keyed("blob_chunk", "set", ("zoid",), ("zoid", "tid", "chunk")),
    ),
    derived=("object_ref", "object_refs_added", "pack_object"),
)
RELSTORAGE_HISTORY: Final = Layout(
    keyed=(
        Keyed("transaction", "revisions", ("tid",), ("tid", "packed", "is_empty"), ("packed", "is_empty")),
        Keyed("object_state", "revisions", ("zoid", "tid"), ("zoid", "tid", "prev_tid"), ("prev_tid",)),
        Keyed("blob_chunk", "revisions", ("zoid", "tid", "chunk_num"), ("zoid", "tid", "chunk")),
        Keyed("current_object", "set", ("zoid",), ("zoid", "tid")),
    ),
    derived=("object_ref", "object_refs_added", "pack_object", "pack_state", "pack_state_tid"),
)


def sum_of(column: str) -> str:
    """Return the SQL expression of the sum of a column."""
    return f"coalesce(sum({column}::{'integer' if column in ('packed', 'is_empty') else 'bigint'}), 0)"


def layout_of(backend: str, history: bool) -> Layout | None:
    """Return what the tables of a storage are, None where that is not known."""
    return LAYOUTS.get((backend, history))


PGJSONB_CURRENT: Final = Layout(
    keyed=(
        Keyed("transaction_log", "revisions", ("tid",), ("tid",)),
        Keyed("object_state", "set", ("zoid",), ("zoid", "tid")),
        Keyed("blob_state", "revisions", ("zoid", "tid"), ("zoid", "tid")),
    ),
    columns=frozenset({"zoid", "tid", "class_mod", "class_name", "state", "state_size", "refs"}),
)
PGJSONB_HISTORY: Final = PGJSONB_CURRENT._replace(
    keyed=(*PGJSONB_CURRENT.keyed, Keyed("object_history", "history", ("zoid", "tid"), ("zoid", "tid"))),
    derived=("pack_state",),
)


LAYOUTS: Final[Mapping[tuple[str, bool], Layout]] = {
    ("relstorage", False): RELSTORAGE_CURRENT,
    ("relstorage", True): RELSTORAGE_HISTORY,
    ("pgjsonb", False): PGJSONB_CURRENT,
    ("pgjsonb", True): PGJSONB_HISTORY,
}
