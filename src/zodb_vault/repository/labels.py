"""Labels: facts about a backup that are stored after it was made, one immutable file each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from ..model import canonical
from ..model.manifest import Label
from ..runtime import clock
from .files import ImmutableFiles
from .ids import new_id
from .layout import Listing, label_key

Level = Literal["objects", "bytes", "records", "restore"]
Scope = Literal["objects", "content", "metadata"]
# Each level proves what the earlier levels prove, and more.
LEVELS: Final[tuple[Level, ...]] = ("objects", "bytes", "records", "restore")

# Facts of which only the last label counts.
SINGLE: Final = ("name", "note", "pinned", "accept-missing", "accept-history", "deleted")


class Verified(msgspec.Struct, frozen=True, omit_defaults=True):
    """One verification: its level, whether it found no damage, and its time (ISO 8601).

    ``share`` is the part of the objects that was read. ``scope`` is what the damage is bound to: ``objects``
    are in the register of damaged objects, which says when they are good again; ``content`` of this backup
    does not fit together, so nothing of it may be used again; ``metadata`` are the files that describe it.
    """

    level: str
    ok: bool
    at: str
    share: float = 1.0
    scope: Scope = "content"


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
    def open_failures(self) -> list[Verified]:
        """Return the failed verifications that no later one cleared, without those in the register.

        Only one that succeeded, read everything, and was of the same or a higher level clears it.
        """
        return [
            one
            for n, one in enumerate(self.verified)
            if not one.ok
            and one.scope != "objects"
            and not any(_clears(later, one) for later in self.verified[n + 1 :])
        ]

    @property
    def proven(self) -> Verified | None:
        """Return the last verification of the highest level that succeeded, None without one."""
        passed = [one for one in self.verified if one.ok]
        return max(passed, key=lambda one: (_rank(one.level), one.share, one.at), default=None)


def superseded(labels: Mapping[str, Label]) -> list[str]:
    """Return the keys of labels of one backup that a later label replaces.

    Labels with an unknown fact are never replaced.
    """
    last: dict[tuple[str, str], str] = {}
    gone = []
    for key in sorted(labels):
        label = labels[key]
        level = ""
        if label.fact == "verified" and isinstance(label.value, dict):
            # a sample does not replace a verification of everything
            level = f"{label.value.get('level')} {'share' in label.value}"
        if label.fact in SINGLE or level:
            if before := last.get((label.fact, level)):
                gone.append(before)
            last[label.fact, level] = key
    return gone


def _clears(later: Verified, failure: Verified) -> bool:
    """Return whether a verification clears an earlier failure; unknown levels prove nothing."""
    known = failure.level in LEVELS and later.level in LEVELS
    return later.ok and later.share == 1 and known and _rank(later.level) >= _rank(failure.level)


def _rank(level: str) -> int:
    ranks: dict[str, int] = {name: rank for rank, name in enumerate(LEVELS)}
    return ranks.get(level, -1)


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
        return canonical.decode(self._files.read(key), Label, key)
