"""Which objects and documents a manifest or a marker needs.

Everything that it names, directly or through a list.

For who deletes, whatever looks like a name counts as one, also in keys that this version does not know: what
is counted too often stays, what is not goes. Who gives objects new names has to know of each name what it
stands for, and refuses what it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from ..errors import Damage, UnsupportedRepository
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
# Digests of something else, and words of people that may look like one.
NO_NAMES: Final = frozenset({"sha256", "tail_digest", "recovery", "self_sha256", "machine", "name", "folder"})


class Reference(NamedTuple):
    """A name, what it stands for, and what else is said of it where it stands."""

    kind: Kind
    name: str
    attributes: Mapping[str, Any]


def reference(key: str, value: object, said: Mapping[str, Any]) -> Reference | None:
    """Return what an entry refers to, None when it is no name.

    Raise UnsupportedRepository for a name that this version does not know.
    """
    if not (isinstance(value, str) and NAME.match(value)) or key in NO_NAMES:
        return None
    if key not in KINDS:
        raise UnsupportedRepository(
            f"what {key} refers to is not known to this version: {value}", "install a newer zodb-vault"
        )
    return Reference(KINDS[key], value, said)


def references(document: Any) -> Iterator[Reference]:
    """Yield what a document names itself, in the order in which it stands there.

    Raise UnsupportedRepository.
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
    """Return a document with every reference replaced by what ``change`` returns for it.

    Keys that ``change`` does not return stay as they are.
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
    """Return a reference to content as what it is.

    Raise UnsupportedRepository when this version does not know how to read it.
    """
    try:
        return msgspec.convert(found.attributes, Part)
    except msgspec.ValidationError as error:
        raise UnsupportedRepository(
            f"an object is stored in a way that this version does not know: {error}",
            "install a newer zodb-vault",
        ) from None


def read_list(name: str, documents: Documents) -> Any:
    """Return the content of a list; raise Damage."""
    try:
        return msgspec.json.decode(documents.document(name))
    except msgspec.MsgspecError as error:
        raise Damage(f"the list {name} does not have the form it should have: {error}") from None


def add_names(document: Any, names: dict[str, int], documents: Documents) -> None:
    """Add to ``names`` what a manifest or marker needs, with the bytes stored where it says that.

    Raise Damage at a list that cannot be read.

    A list whose name is in there already has been read.
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
