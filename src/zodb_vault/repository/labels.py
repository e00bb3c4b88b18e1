"""Labels: facts about a backup that are stored after it was made, one immutable file each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from ..model.manifest import Label
from ..runtime import clock
from .files import ImmutableFiles, decode
from .ids import new_id
from .layout import Listing, label_key

Level = Literal["objects", "bytes", "records", "restore"]
# Each level proves what the earlier levels prove, and more.
LEVELS: Final[tuple[Level, ...]] = ("objects", "bytes", "records", "restore")

# Facts of which only the last label counts.
SINGLE: Final = ("name", "note", "pinned", "accept-missing", "accept-history", "deleted")


class Verified(msgspec.Struct, frozen=True):
    """One verification: its level, whether it found no problem, and its time (ISO 8601)."""

    level: str
    ok: bool
    at: str


class LabelFacts(msgspec.Struct, kw_only=True):
    """The facts of all labels of a backup; of a fact with one value, the last label counts."""

    name: str | None = None
    note: str | None = None
    pinned: bool = False
    verified: list[Verified] = []
    restored: list[dict[str, Any]] = []
    accept_missing: bool = False
    accept_history: bool = False

    @property
    def failed(self) -> str | None:
        """Return the level of a failed verification, None without one.

        A later verification of the same or a higher level that succeeded clears it.
        """
        for n, one in enumerate(self.verified):
            if not one.ok and not any(
                later.ok and _proves(later.level, one.level) for later in self.verified[n + 1 :]
            ):
                return one.level
        return None


def superseded(labels: Mapping[str, Label]) -> list[str]:
    """Return the keys of labels of one backup that a later label replaces.

    Labels with an unknown fact are never replaced.
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
    """Return whether a level is the same as another or higher; unknown levels prove nothing."""
    ranks: dict[str, int] = {name: rank for rank, name in enumerate(LEVELS)}
    return ranks.get(level, -1) >= ranks.get(other, len(LEVELS))


def fold(labels: Iterable[Label]) -> LabelFacts:
    """Return the facts of labels, which are given in the order of their names.

    Facts that this version does not know are ignored.
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


class Labels:
    """The labels of the backups of a repository. A listing says which labels a backup has."""

    def __init__(self, files: ImmutableFiles) -> None:
        self._files = files

    def add(self, site: str, backup: str, fact: str, value: Any, listing: Listing) -> None:
        """Store one fact about a backup; its name sorts after all listed labels of the backup."""
        taken = [key.rsplit("/", 1)[1].removesuffix(".json") for key in listing.labels.get(backup, [])]
        now = clock.now()
        key = label_key(site, backup, new_id(taken, now))
        self._files.write(key, Label(fact=fact, value=value, at=clock.iso(now)))
        listing.labels.setdefault(backup, []).append(key)

    def facts(self, listing: Listing, backup: str) -> LabelFacts:
        """Return the facts of the labels of a backup."""
        return fold(self.get(key) for key in sorted(listing.labels.get(backup, [])))

    def get(self, key: str) -> Label:
        """Return one label; raise KeyMissing or Damage."""
        return decode(self._files.read(key), Label, key)
