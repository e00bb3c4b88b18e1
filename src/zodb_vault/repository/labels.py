"""Labels: facts about a backup that were learned after it was made, one immutable file each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ..model.manifest import Label


class Verified(msgspec.Struct, frozen=True):
    """One verification: its level, whether it found everything well, and when."""

    level: str
    ok: bool
    at: str


class Facts(msgspec.Struct, kw_only=True):
    """What all labels of a backup say together; of single facts the last one holds."""

    name: str | None = None
    note: str | None = None
    pinned: bool = False
    tier: str | None = None
    verified: list[Verified] = []
    restored: list[dict[str, Any]] = []
    accept_missing: bool = False
    accept_history: bool = False


def fold(labels: Iterable[Label]) -> Facts:
    """Fold labels in the order of their names; facts of a kind that this version does not know are passed over."""
    facts = Facts(verified=[], restored=[])
    for label in labels:
        field = label.fact.replace("-", "_")
        if field == "verified":
            facts.verified.append(msgspec.convert(label.value, Verified))
        elif field == "restored":
            facts.restored.append(label.value)
        elif field in Facts.__struct_fields__:
            setattr(facts, field, label.value)
    return facts
