"""Which objects and documents a manifest or a marker needs: everything that it names, directly or through a list.

Whatever looks like a name counts as one, also in keys that this version does not know: what is counted too often stays, what is not goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from ..errors import Damage
from ..model.chain import Documents

NAME: Final = re.compile(r"[0-9a-f]{64}\Z")


class References:
    """Reads the lists of a repository, each once however many backups share it."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._lists: dict[str, dict[str, int]] = {}

    def of(self, document: Mapping[str, Any]) -> dict[str, int]:
        """Return the names that a manifest or marker needs, with the bytes stored where it says that; raise Damage at a list that cannot be read."""
        found: dict[str, int] = {}
        self._collect(document, found)
        return found

    def _collect(self, value: Any, found: dict[str, int]) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if isinstance(inner, str) and NAME.match(inner):
                    found[inner] = max(found.get(inner, 0), _stored(key, value))
                    if key == "list":
                        found |= self._of_list(inner, value)
                else:
                    self._collect(inner, found)
        elif isinstance(value, list):
            for inner in value:
                self._collect(inner, found)

    def _of_list(self, name: str, reference: Mapping[str, Any]) -> dict[str, int]:
        if name not in self._lists:
            try:
                content = msgspec.json.decode(self._documents.document(name))
            except msgspec.MsgspecError as error:
                raise Damage(f"the list {name} does not have the form it should have: {error}") from None
            inner: dict[str, int] = {}
            self._collect(content, inner)
            inner[name] = max(0, _number(reference.get("stored")) - sum(inner.values()))
            self._lists[name] = inner
        return self._lists[name]


def _stored(key: str, value: Mapping[str, Any]) -> int:
    return _number(value.get("stored")) if key in ("object", "meta") else 0


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def names(documents: Iterator[dict[str, int]]) -> set[str]:
    """Return all names of several."""
    return {name for document in documents for name in document}
