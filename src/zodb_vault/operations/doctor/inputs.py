"""What the checks examine: configuration, site, repository, backups; loaded when a check first needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ...config.settings import Settings
from ...errors import VaultError
from ...model.manifest import Manifest
from ...model.source import Site
from ...repository.repository import Repository
from ..catalog import Catalog

T = TypeVar("T")


class CheckInputs:
    """What the checks examine.

    The first check that needs an input gets the error when it cannot be loaded. Later checks get a short
    VaultError that refers to the first one, so that one cause is described once.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        site_name: Callable[[], str],
        site: Callable[[], Site],
        repository: Callable[[], Repository],
    ) -> None:
        self._load_settings = settings
        self._load_site_name = site_name
        self._load_site = site
        self._load_repository = repository
        self._loaded: dict[str, object] = {}

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
            raise VaultError(
                f"not checked: the {what} could not be read",
                "correct the finding above that names the cause, and run this command again",
            )
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
