"""The backup that one attempt makes.

Its id and time, and what of the repository and of the site it works with.
"""

from __future__ import annotations

from functools import cached_property

from ...model.manifest import DatabaseEntry
from ...model.source import Database, Site
from ...repository.ids import new_id
from ...repository.objects import Objects
from ...repository.repository import Repository
from ...runtime import clock
from ..catalog import Backup, Catalog, parents
from .healing import KnownDamage, known_damage
from .options import CreateOptions


class Draft:
    """A backup of ``databases`` that is not committed yet.

    The time is that of the clock when the attempt begins.
    """

    def __init__(
        self, repository: Repository, site: Site, databases: list[Database], options: CreateOptions
    ) -> None:
        self.repository, self.site, self.databases, self.options = repository, site, databases, options
        self.now = clock.now()
        self.catalog = Catalog(repository, site.name)
        # the newest one may have been deleted, which its labels outlive
        self.id = new_id([*self.catalog.listing.backups, *self.catalog.listing.labels], self.now)
        self.objects: Objects = repository.objects(self.id)

    @cached_property
    def newest(self) -> Backup | None:
        """Return the newest backup that this one may continue."""
        return next(parents(self.catalog), None)

    @cached_property
    def known_damage(self) -> KnownDamage:
        """Return what is known to be damaged of the newest backup."""
        return known_damage(self.catalog, self.newest, self.objects)

    def newest_entry(self, database: str) -> DatabaseEntry | None:
        """Return what the newest backup says of one database."""
        entries = self.newest.manifest.databases if self.newest else []
        return next((entry for entry in entries if entry.name == database), None)

    @property
    def contents(self) -> str | list[str]:
        """Return what the backup holds: ``all``, one component, or the names of some databases."""
        if self.options.only:
            return self.options.only
        chosen = [database.name for database in self.databases]
        return "all" if len(chosen) == len(self.site.databases) else chosen
