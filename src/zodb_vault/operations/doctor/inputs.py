"""What the checks examine: configuration, site, repository, backups; loaded when a check first needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from ...config.settings import Settings
from ...errors import VaultError
from ...model.manifest import DatabaseEntry, Manifest
from ...model.source import Database, Method, Site
from ...repository.repository import Repository
from ...strategies.backend_lookup import backend_of
from ..catalog import Catalog
from .check import NotChecked

T = TypeVar("T")


class CheckInputs:
    """What the checks examine.

    The first check that needs an input gets the error when it cannot be loaded. Later checks get NotChecked
    with that error, so that one cause is one finding. ``method`` is the method of the backups.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        site_name: Callable[[], str],
        site: Callable[[], Site],
        repository: Callable[[], Repository],
        method: Callable[[], Method] = lambda: "native",
    ) -> None:
        self._load_settings = settings
        self._load_site_name = site_name
        self._load_site = site
        self._load_repository = repository
        self._load_method = method
        self._loaded: dict[str, object] = {}
        # Findings of their own say what is wrong with these databases. What fails for the same cause is not
        # tried: ``unanswered`` could not be read, for ``unprepared`` a package or program is missing.
        self.unanswered: set[str] = set()
        self.unprepared: set[str] = set()

    def _get(self, what: str, kind: type[T], load: Callable[[], T]) -> T:
        """Return an input, loaded at the first call; an error is kept as well."""
        if what not in self._loaded:
            try:
                self._loaded[what] = load()
            except BaseException as error:
                self._loaded[what] = error
                raise
        loaded = self._loaded[what]
        if isinstance(loaded, BaseException):
            raise NotChecked(loaded)
        assert isinstance(loaded, kind)
        return loaded

    @property
    def settings(self) -> Settings:
        """Return the configuration."""
        return self._get("configuration", Settings, self._load_settings)

    @property
    def site_name(self) -> str:
        """Return the name of the site; it can be known when the site itself cannot be read."""
        _ = self.settings
        return self._get("name of the site", str, self._load_site_name)

    @property
    def site(self) -> Site:
        """Return the site with its databases."""
        _ = self.site_name
        return self._get("site", Site, self._load_site)

    def method_of(self, database: Database) -> Method:
        """Return the method that backs up a database here."""
        _ = self.settings
        return backend_of(database).method(database, self._load_method())

    @property
    def repository(self) -> Repository:
        """Return the repository."""
        _ = self.settings
        return self._get("repository", Repository, self._load_repository)

    @property
    def catalog(self) -> Catalog:
        """Return the backups of the site."""
        repository, name = self.repository, self.site_name
        return self._get("list of backups", Catalog, lambda: Catalog(repository, name))

    @property
    def newest(self) -> Manifest | None:
        """Return the newest readable backup that has all components, None when there is none."""
        return next((one.manifest for one in self.catalog.readable() if one.manifest.whole), None)

    @contextlib.contextmanager
    def answer_of(self, database: Database) -> Iterator[None]:
        """Note a database that does not answer in this block."""
        try:
            yield
        except Exception:
            self.unanswered.add(database.name)
            raise

    def newest_entry(self, database: Database) -> DatabaseEntry | None:
        """Return what the newest backup holds of a database; None without one, or without a repository."""
        try:
            newest = self.newest
        except (NotChecked, VaultError, OSError):  # checks of the repository tell why
            return None
        entries = newest.databases if newest else []
        return next((entry for entry in entries if entry.name == database.name), None)
