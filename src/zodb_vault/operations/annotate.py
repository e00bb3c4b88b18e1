"""Add facts to a backup: its name, its note, a pin, an accepted loss."""

from __future__ import annotations

from typing import Any

from ..errors import UsageError
from ..repository.repository import Repository
from .catalog import Backup, Catalog

# Names that commands use for something else.
RESERVED_NAMES = ("latest",)


def annotate(repository: Repository, catalog: Catalog, backup: Backup, facts: dict[str, Any]) -> None:
    """Store facts as labels of a backup; raise UsageError for a reserved name.

    Whoever accepts the history of a backup accepts every new history that began before it, too.
    """
    if facts.get("name") in RESERVED_NAMES:
        raise UsageError(
            f"a backup cannot have the name {facts['name']!r}: it means the newest backup",
            "use another name",
        )
    for fact, value in facts.items():
        repository.labels.add(catalog.site, backup.manifest.id, fact, value, catalog.listing)
    if "accept-history" not in facts:
        return
    for earlier in catalog.intact():
        if earlier.manifest.id < backup.manifest.id and earlier.new_history:
            repository.labels.add(
                catalog.site, earlier.manifest.id, "accept-history", facts["accept-history"], catalog.listing
            )
