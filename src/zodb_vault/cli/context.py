"""What every command needs, from options, variables and configuration: repository, site, verbosity."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ..errors import BackupMissing, UsageError, VaultError
from .console import Console
from .output import print_problem

if TYPE_CHECKING:
    from ..config.settings import Settings, SiteSettings
    from ..model.source import Method, Site
    from ..operations.catalog import Backup, Catalog
    from ..policy.retention import Rules
    from ..repository.repository import Repository
    from ..stores.base import Store

VARIABLE_PREFIX: Final = "ZODB_VAULT_"
# the options that say where the databases of the site are
SOURCE_OPTIONS: Final = ("zope_conf", "zeo_conf", "data_fs", "blob_dir")


class Context(Console):
    """The shared options of a command and what follows from them; each object is made when first needed."""

    def use_cache(self) -> None:
        """Read manifests and documents of a remote repository through the local cache.

        Only for commands that neither verify nor restore: these have to read what the repository really has.
        """
        from ..repository.cache import Cache, cache_directory
        from ..stores.base import ProbesCapabilities

        if isinstance(self.repository.store, ProbesCapabilities):
            self.repository.remember(Cache(cache_directory(), self.repository.info.id))

    def _option_or_variable(self, name: str) -> str | None:
        """Return an option, else its environment variable; an empty variable counts as not set."""
        value = self.options.get(name)
        return value if value is not None else os.environ.get(VARIABLE_PREFIX + name.upper()) or None

    @cached_property
    def settings(self) -> Settings:
        """Return the configuration; raise ConfigurationError."""
        from ..config.settings import load_settings

        return load_settings(
            self.options.get("config"),
            os.environ,
            Path.cwd(),
            site_conf=self._sources()["zope_conf"] or self._sources()["zeo_conf"],
            repository=self._option_or_variable("repository"),
        )

    @property
    def location(self) -> str:
        """Return where the repository is; raise UsageError when no location is configured."""
        location = self.settings.repository.location
        if location is None:
            raise UsageError(
                f"no location of the repository is configured; {self.settings.origin}",
                "give --repository LOCATION, or set [repository] location in zodb-vault.toml",
            )
        return str(location)

    @cached_property
    def store(self) -> Store:
        """Return the store that holds the repository, or is going to."""
        return self._store_at(self.location)

    def _store_at(self, location: str) -> Store:
        from ..stores.registry import open_store

        rate = self.options.get("limit_rate") or self.settings.limits.rate
        return open_store(location, self.settings.repository.s3_at(location), rate)

    @property
    def workers(self) -> int:
        """Return the number of workers."""
        from ..policy.parallelism import workers
        from .limits import processors

        configured = self.options.get("workers") or self.settings.limits.workers
        return int(configured or workers(processors(), service=self.location.startswith("s3://")))

    def apply_priority(self) -> None:
        """Lower the priority of this process, if --nice or the configuration says so."""
        from .limits import lower_priority

        if self.options.get("nice") or self.settings.limits.nice:
            lower_priority()

    @cached_property
    def repository(self) -> Repository:
        """Open the repository; raise RepositoryMissing."""
        return self._open(self.store, self.location)

    def repository_at(self, location: str) -> Repository:
        """Open another repository with the settings for its location; raise RepositoryMissing, UsageError."""
        return self._open(self._store_at(location), location)

    def _open(self, store: Store, location: str) -> Repository:
        from ..repository.repository import Repository

        repository = Repository.open(store)
        repository.configure(self.settings.repository.recipients_at(location), self._identities)
        repository.sign_with(self.settings.repository.signing.key, self.settings.repository.signing.signers)
        return repository

    def _identities(self) -> list[str]:
        from ..operations.identity import identities

        return identities(self.settings.identity, self.ask_secret)

    @property
    def client_confs(self) -> tuple[Path, ...]:
        """Return the configuration files of the ZEO clients of the site.

        They belong to the configured site; none when the command line names other files.
        """
        site = self.settings.sites.get(self.site_name)
        return site.client_confs if site is not None and not any(self._sources().values()) else ()

    @property
    def method(self) -> Method:
        """Return the configured method of the site, native without one."""
        site = self.settings.sites.get(self.site_name)
        return site.method if site is not None else "native"

    @cached_property
    def _given(self) -> SiteSettings | None:
        """Return the source of the site that the command line names, None when it names none."""
        from ..config.sites import given_source

        return given_source(**self._sources(), cwd=Path.cwd())

    @cached_property
    def _named_site(self) -> str | None:
        """Return the site that a user or the configuration names, None when none is named."""
        from ..config.sites import choose_site

        return choose_site(self.settings, self._option_or_variable("site"), self._given)

    @cached_property
    def site_name(self) -> str:
        """Return the name of the site, configured or not.

        When nothing names a site, it is the only one that has backups in the repository, else ``default``.
        """
        from ..config.sites import DEFAULT
        from ..operations.catalog import sites_with_backups

        if self._named_site is not None:
            return self._named_site
        try:
            known = sites_with_backups(self.repository)
        except VaultError:
            return DEFAULT  # a command that needs the repository says what is wrong with it
        if len(known) != 1 or known == [DEFAULT]:
            return DEFAULT
        self.say(
            f"the site is {known[0]}: no other one has backups in the repository, and no site is configured"
        )
        return known[0]

    @cached_property
    def site(self) -> Site:
        """Return the site with its databases; raise ConfigurationError, UsageError."""
        from ..config.sites import resolve_site

        return resolve_site(
            self.settings,
            site=self._named_site or (None if self._given is None else self.site_name),
            given=self._given,
            environment=os.environ,
            cwd=Path.cwd(),
        )

    def _sources(self) -> dict[str, Path | None]:
        """Return the options that say where the databases are.

        The environment variables count only when the command line names none of them: the two are never
        mixed.
        """
        sources: dict[str, Path | None] = {name: self.options.get(name) for name in SOURCE_OPTIONS}
        if any(sources.values()):
            return sources
        for name in SOURCE_OPTIONS:
            if text := self._option_or_variable(name):
                sources[name] = Path(text)
        return sources

    def rules(self, policy: str | None = None) -> Rules:
        """Return the retention rules of this policy, or of the policy that is configured for the site."""
        from ..config.settings import zone_of
        from ..policy.retention import Rules

        settings = self.settings
        configured = settings.sites.get(self.site_name)
        chosen = settings.policy(policy or (configured.retention if configured else None))
        return Rules(
            scheduled=chosen.scheduled,
            on_demand=chosen.on_demand,
            safety=chosen.safety,
            zone=zone_of(settings.schedule.timezone),
        )

    @cached_property
    def catalog(self) -> Catalog:
        """Return the backups of the site.

        Raise BackupMissing when it has none, although other sites have, and it is not configured.
        """
        from ..operations.catalog import Catalog

        catalog = Catalog(self.repository, self.site_name)
        if not catalog.listing.backups and self.site_name not in self.settings.sites:
            self._require_no_other_site()
        return catalog

    def _require_no_other_site(self) -> None:
        from ..config.keys import suggestion
        from ..operations.catalog import sites_with_backups

        known = sites_with_backups(self.repository)
        if known:
            raise BackupMissing(
                f"there are no backups of the site {self.site_name} in {self.location}"
                f"{suggestion(self.site_name, known)}",
                f"there are backups of {', '.join(known)}; choose a site with --site {known[0]}",
            )

    def select(self, text: str, *, changes: bool = False) -> Backup:
        """Return the backup with this id, prefix or name, or ``latest``; raise UsageError or BackupMissing.

        ``changes``: see ``use_site_of``. A new history that nobody has accepted is reported with ``latest``.
        """
        from ..operations.findings import new_history
        from ..policy.selection import LATEST

        self.use_site_of(text, changes=changes)
        finding = new_history(self.catalog) if text == LATEST else None
        if finding is not None:
            print_problem(finding.message, finding.hint)
        return self.catalog.select(text)

    def use_site_of(self, text: str | None, *, changes: bool = False) -> None:
        """Use the site that a backup is of, when ``text`` is the id of one that the chosen site has not.

        A command that ``changes`` the site or its backups does not leave a site that was named: raise
        BackupMissing.
        """
        from ..operations.catalog import BEGINNING_OF_ID, site_of_backup

        if text is None or not BEGINNING_OF_ID.match(text):
            return
        if any(one.startswith(text) for one in self.repository.listing(self.site_name).backups):
            return
        site = site_of_backup(self.repository, text)
        if site in (None, self.site_name):
            return
        if changes and self._named_site is not None:
            raise BackupMissing(
                f"the backup {text} is of the site {site}, not of {self.site_name}",
                f"choose it with --site {site}",
            )
        self.say(f"the backup {text} is of the site {site}")
        for name in ("site_name", "site", "catalog"):
            self.__dict__.pop(name, None)
        self._named_site = site


pass_context = click.make_pass_decorator(Context, ensure=True)
