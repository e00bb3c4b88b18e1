"""The backup that one attempt makes, with its id and time, the repository and the databases of the site."""

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
    """A backup of ``databases`` that is not committed yet; ``now`` is the time when the attempt began."""

    def __init__(
        self, repository: Repository, site: Site, databases: list[Database], options: CreateOptions
    ) -> None:
        self.repository, self.site, self.databases, self.options = repository, site, databases, options
        self.now = clock.now()
        self.catalog = Catalog(repository, site.name)
        # the newest backup may have been deleted, and its labels are still there
        self.id = new_id([*self.catalog.listing.backups, *self.catalog.listing.labels], self.now)
        self.objects: Objects = repository.objects(self.id)

    @cached_property
    def newest(self) -> Backup | None:
        """Return the newest backup that this one may continue."""
        return next(parents(self.catalog), None)

    @cached_property
    def known_damage(self) -> KnownDamage:
        """Return what is known to be damaged of the newest backup."""
        self.repository.observer.watched = frozenset(self.catalog.register.objects)
        return known_damage(self.catalog, self.newest, self.objects)

    def newest_entry(self, database: str) -> DatabaseEntry | None:
        """Return the entry of one database in the newest backup, None when it has none."""
        entries = self.newest.manifest.databases if self.newest else []
        return next((entry for entry in entries if entry.name == database), None)

    @property
    def contents(self) -> str | list[str]:
        """Return the contents of the backup: ``all``, one component, or the names of some databases."""
        if self.options.only:
            return self.options.only
        chosen = [database.name for database in self.databases]
        return "all" if len(chosen) == len(self.site.databases) else chosen
