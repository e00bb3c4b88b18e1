"""The known damage of the backup that a create continues, and what is stored again because of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ...errors import Damage
from ...model.chain import Documents, packs_of
from ...model.manifest import DatabaseEntry, Manifest
from ..catalog import Backup, Catalog


class KnownDamage(NamedTuple):
    """The objects of a site that are known to be damaged.

    ``needed`` are those that the continued backup needs. ``distrust`` says why nothing of it may be used
    again, None when all but the damaged objects may.
    """

    objects: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()
    distrust: str | None = None


class Healed(NamedTuple):
    """The damaged objects that a new backup does not need any more, and those that it still needs."""

    healed: frozenset[str]
    left: frozenset[str]


def known_damage(catalog: Catalog, newest: Backup | None, documents: Documents) -> KnownDamage:
    """Return what is known to be damaged, and how much of the newest backup can be used again.

    What a damaged object holds can be read from the source again, but what a damaged list names is not known.
    And content that was found not to fit together, with all its objects intact, was wrong when it was stored.
    """
    if newest is None:
        return KnownDamage()
    objects = frozenset(catalog.register.objects)
    failures = [one for one in newest.facts.open_failures if one.scope == "content"]
    distrust = f"failed its verification ({failures[0].level})" if failures else None
    if newest.damaged:
        lists = [_damaged_list(entry, objects, documents) for entry in newest.manifest.databases]
        distrust = distrust or next((why for why in lists if why), None)
    return KnownDamage(objects, newest.damaged, distrust)


def compare(catalog: Catalog, before: KnownDamage, manifest: Manifest) -> Healed:
    """Return which of the damaged objects a new manifest still needs."""
    if not before.objects:
        return Healed(frozenset(), frozenset())
    left = catalog.needed_damage.of(msgspec.to_builtins(manifest))
    return Healed(before.needed - left, left)


def _damaged_list(entry: DatabaseEntry, objects: frozenset[str], documents: Documents) -> str | None:
    """Return why the lists of a database cannot be relied on, None when they can."""
    lists: list[Any] = [ref.list for part in (entry.storage, entry.blobs) if part for ref in part.lists]
    lists += [entry.blobs.missing.list] if entry.blobs else []
    try:
        if any(one in objects for one in lists) or any(
            pack.index.meta in objects for pack in packs_of(entry, documents)
        ):
            return "has damaged lists"
    except Damage:
        return "has damaged lists"
    return None
