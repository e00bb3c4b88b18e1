"""Find the objects and documents that a manifest or a marker references, directly or through a list.

There are two rules. For a deletion (``add_names``), every text that looks like a name counts as one, also
under unknown keys: a name that counts by mistake only keeps an object, a missed name would delete one. For a
copy that renames objects (``references``), the kind of every name has to be known; unknown keys are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from ..errors import UnsupportedRepository
from ..model import canonical
from ..model.chain import Documents
from ..model.manifest import Part

NAME: Final = re.compile(r"[0-9a-f]{64}\Z")
Kind = Literal["content", "document", "list"]
KINDS: Final[Mapping[str, Kind]] = {
    "object": "content",
    "meta": "document",
    "marks": "document",
    "state": "document",
    "keys": "document",
    "list": "list",
}
# Digests of other things, and texts of users that may look like a digest.
NO_NAMES: Final = frozenset({"sha256", "tail_digest", "recovery", "self_sha256", "machine", "name", "folder"})


class Reference(NamedTuple):
    """The name of an object or document, its kind, and the other attributes of the same entry."""

    kind: Kind
    name: str
    attributes: Mapping[str, Any]


def reference(key: str, value: object, attributes: Mapping[str, Any]) -> Reference | None:
    """Return the reference of an entry, None when its value is no name.

    Raise UnsupportedRepository for a name under a key that this version does not know.
    """
    if not (isinstance(value, str) and NAME.match(value)) or key in NO_NAMES:
        return None
    if key not in KINDS:
        raise UnsupportedRepository(
            f"this version does not know what the key {key} references: {value}", "install a newer zodb-vault"
        )
    return Reference(KINDS[key], value, attributes)


def references(document: Any) -> Iterator[Reference]:
    """Yield the references of a document in their order, without those in its lists.

    Raise UnsupportedRepository for unknown keys.
    """
    if isinstance(document, Mapping):
        for key, value in document.items():
            if found := reference(key, value, document):
                yield found
            else:
                yield from references(value)
    elif isinstance(document, list):
        for value in document:
            yield from references(value)


def rewrite_references(document: Any, change: Callable[[Reference], Mapping[str, Any]]) -> Any:
    """Return a document with new values for its references.

    ``change`` returns the new values of the entry of a reference; other keys stay unchanged.
    """
    if isinstance(document, Mapping):
        new = {key: rewrite_references(value, change) for key, value in document.items()}
        for key, value in document.items():
            if found := reference(key, value, document):
                new |= change(found)
        return new
    return (
        [rewrite_references(value, change) for value in document] if isinstance(document, list) else document
    )


def part_of(found: Reference) -> Part:
    """Return the part that a reference to content describes.

    Raise UnsupportedRepository when this version cannot read it.
    """
    try:
        return msgspec.convert(found.attributes, Part)
    except msgspec.ValidationError as error:
        raise UnsupportedRepository(
            f"this version does not know how an object is stored: {error}",
            "install a newer zodb-vault",
        ) from None


def read_list(name: str, documents: Documents) -> Any:
    """Return the content of a list; raise Damage."""
    return canonical.decode(documents.document(name), object, f"the list {name}")


def add_names(document: Any, names: dict[str, int], documents: Documents) -> None:
    """Add the names that a manifest or marker needs to ``names``, with their stored bytes where known.

    Lists are read, except those whose name is in ``names`` already. Raise Damage for a list that cannot be
    read.
    """
    if isinstance(document, Mapping):
        for key, value in document.items():
            if not (isinstance(value, str) and NAME.match(value)):
                add_names(value, names, documents)
            elif key == "list" and value not in names:
                _add_list(value, document, names, documents)
            else:
                names[value] = max(
                    names.get(value, 0), _number(document.get("stored")) if key in ("object", "meta") else 0
                )
    elif isinstance(document, list):
        for value in document:
            add_names(value, names, documents)


def _add_list(name: str, reference: Mapping[str, Any], names: dict[str, int], documents: Documents) -> None:
    inner: dict[str, int] = {}
    add_names(read_list(name, documents), inner, documents)
    own = _number(reference.get("stored")) - sum(inner.values())
    names |= inner | {name: max(0, own)}


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
