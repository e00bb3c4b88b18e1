"""What a copy with re-encryption has stored for a backup that is not committed yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ...model import canonical
from ...model.manifest import ListRef
from ...repository.objects import Objects
from .transfer import Transferred

# Rows of one list. A full list is never changed again.
LIST_ROWS: Final = 1024


class Notes:
    """Lists of the objects that were stored, and of which objects of the source they are copies.

    The marker of the copy names these lists. If the copy is interrupted, a sweep keeps the objects, and the
    next copy uses them: without the lists it could not know them, since the same content is encrypted to
    other bytes each time.
    """

    def __init__(self, documents: Objects) -> None:
        self._documents = documents
        self._full: list[ListRef] = []
        self._rows: list[dict[str, Any]] = []
        self._last: list[ListRef] = []  # the list of the rows as it was stored last, if it was
        self._changed = False

    def adopt(self, refs: Iterable[ListRef]) -> None:
        """Keep the lists of an interrupted copy."""
        self._full += refs

    def add(self, one: Transferred) -> None:
        """Add one object."""
        self._rows.append({"object": one.name, "stored": one.stored, "codec": one.codec, "of": one.of})
        self._changed = True

    def store(self) -> list[ListRef]:
        """Store what is new, and return references to all lists."""
        if self._changed:
            meta = self._documents.put_document(canonical.encode({"entries": self._rows}))
            stored = meta.stored + sum(row["stored"] for row in self._rows)
            self._last = [ListRef(list=meta.meta, count=len(self._rows), stored=stored, raw=0)]
            self._changed = False
        refs = [*self._full, *self._last]
        if len(self._rows) >= LIST_ROWS:
            self._full, self._rows, self._last = refs, [], []
        return refs

    def clear(self) -> None:
        """Forget everything: the objects belong to a committed backup now."""
        self._full, self._rows, self._last, self._changed = [], [], [], False
