"""Labels: facts about a backup that were learned after it was made, one immutable file each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from ..model.manifest import Label

Level = Literal["objects", "bytes", "records", "restore"]
# Each proves what the ones before it prove, and more.
LEVELS: Final[tuple[Level, ...]] = ("objects", "bytes", "records", "restore")

SINGLE: Final = ("name", "note", "pinned", "accept-missing", "accept-history", "deleted")


class Verified(msgspec.Struct, frozen=True):
    """One verification: its level, whether it found everything well, and when."""

    level: str
    ok: bool
    at: str


class LabelFacts(msgspec.Struct, kw_only=True):
    """What all labels of a backup say together; of single facts the last one holds."""

    name: str | None = None
    note: str | None = None
    pinned: bool = False
    verified: list[Verified] = []
    restored: list[dict[str, Any]] = []
    accept_missing: bool = False
    accept_history: bool = False

    @property
    def failed(self) -> str | None:
        """Return the level of a verification that found damage, as long as it counts.

        A later verification that proves the same and found no damage clears it.
        """
        for n, one in enumerate(self.verified):
            if not one.ok and not any(
                later.ok and _proves(later.level, one.level) for later in self.verified[n + 1 :]
            ):
                return one.level
        return None


def superseded(labels: Mapping[str, Label]) -> list[str]:
    """Return the keys of labels that say nothing any more beside a later one, of those of one backup.

    What is not known stays.
    """
    last: dict[tuple[str, str], str] = {}
    gone = []
    for key in sorted(labels):
        label = labels[key]
        level = (
            str(label.value.get("level"))
            if label.fact == "verified" and isinstance(label.value, dict)
            else ""
        )
        if label.fact in SINGLE or level:
            if before := last.get((label.fact, level)):
                gone.append(before)
            last[label.fact, level] = key
    return gone


def _proves(level: str, other: str) -> bool:
    ranks: dict[str, int] = {name: rank for rank, name in enumerate(LEVELS)}
    return ranks.get(level, -1) >= ranks.get(other, len(LEVELS))


def fold(labels: Iterable[Label]) -> LabelFacts:
    """Fold labels in the order of their names.

    Facts of a kind that this version does not know are passed over.
    """
    facts = LabelFacts(verified=[], restored=[])
    for label in labels:
        field = label.fact.replace("-", "_")
        if field == "verified":
            facts.verified.append(msgspec.convert(label.value, Verified))
        elif field == "restored":
            facts.restored.append(label.value)
        elif field in LabelFacts.__struct_fields__:
            setattr(facts, field, label.value)
    return facts
