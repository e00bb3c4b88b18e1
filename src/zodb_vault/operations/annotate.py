"""What is known of a backup: facts that are added, and its transactions."""

from __future__ import annotations

from typing import Any

from ..errors import UsageError
from ..repository.repository import Repository
from .catalog import Backup, Catalog

RESERVED = ("latest",)


def annotate(repository: Repository, catalog: Catalog, backup: Backup, facts: dict[str, Any]) -> None:
    """Store facts about a backup; raise UsageError for a name that means something else."""
    if facts.get("name") in RESERVED:
        raise UsageError(
            f"a backup cannot be named {facts['name']!r}: the word means the newest one",
            "choose another name",
        )
    for fact, value in facts.items():
        repository.add_label(catalog.site, backup.manifest.id, fact, value, catalog.listing)
