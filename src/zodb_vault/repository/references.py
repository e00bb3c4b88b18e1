"""Which objects and documents a manifest or a marker needs: everything that it names, directly or through a list.

Whatever looks like a name counts as one, also in keys that this version does not know: what is counted too often stays, what is not goes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ..errors import Damage
from ..model.chain import Documents

NAME: Final = re.compile(r"[0-9a-f]{64}\Z")


def add_names(document: Any, names: dict[str, int], documents: Documents) -> None:
    """Add to ``names`` what a manifest or marker needs, with the bytes stored where it says that; raise Damage at a list that cannot be read.

    A list whose name is in there already has been read.
    """
    if isinstance(document, Mapping):
        for key, value in document.items():
            if not (isinstance(value, str) and NAME.match(value)):
                add_names(value, names, documents)
            elif key == "list" and value not in names:
                _add_list(value, document, names, documents)
            else:
                names[value] = max(names.get(value, 0), _number(document.get("stored")) if key in ("object", "meta") else 0)
    elif isinstance(document, list):
        for value in document:
            add_names(value, names, documents)


def _add_list(name: str, reference: Mapping[str, Any], names: dict[str, int], documents: Documents) -> None:
    try:
        content = msgspec.json.decode(documents.document(name))
    except msgspec.MsgspecError as error:
        raise Damage(f"the list {name} does not have the form it should have: {error}") from None
    inner: dict[str, int] = {}
    add_names(content, inner, documents)
    own = _number(reference.get("stored")) - sum(inner.values())
    names |= inner | {name: max(0, own)}


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
