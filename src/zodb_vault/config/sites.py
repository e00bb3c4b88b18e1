"""Find the site that a command works on, and its databases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ..errors import ConfigurationError, UsageError
from ..model.source import REPLICA_DSN, REPLICA_LAG, Database, Site
from .keys import suggestion
from .paths import absolute
from .settings import SITE_NAME, SITE_NAME_RULE, Settings, SiteSettings
from .storages import data_fs_section, read_storage
from .zopeconf import read_zeo_conf, read_zope_conf

DEFAULT = "default"
# When the configuration is below /etc, mirrors go below /var/lib: large files do not belong into /etc.
SYSTEM, STATE_DIRECTORY = Path("/etc"), Path("/var/lib/zodb-vault")


def choose_site(settings: Settings, site: str | None, given: SiteSettings | None = None) -> str | None:
    """Return the name of the chosen site; nothing else of the site is read.

    ``site`` is the name that a user chose. It need not be in the configuration: a repository may have backups
    of former sites. ``given`` is the source that the command line names. Return None when neither a user nor
    the configuration names a site.

    Raise UsageError for an invalid name, when several sites are configured and none was chosen, and when
    ``given`` is the source of none of the configured sites.
    """
    if site is not None:
        if not SITE_NAME.fullmatch(site):
            raise UsageError(f"{site!r} is not a valid name of a site", f"a name {SITE_NAME_RULE}")
        return site
    if given is not None and settings.sites:
        return _site_with_source(settings, given)
    if len(settings.sites) > 1:
        raise UsageError(
            f"several sites are configured: {', '.join(sorted(settings.sites))}",
            "choose one with --site NAME",
        )
    return next(iter(settings.sites), None)


def _site_with_source(settings: Settings, given: SiteSettings) -> str:
    """Return the configured site that is read from a source; raise UsageError when none is."""
    for name, configured in settings.sites.items():
        if _source_paths(configured) == _source_paths(given):
            return name
    known = ", ".join(sorted(settings.sites))
    raise UsageError(
        f"{settings.file or 'the environment'} configures {known}, and the command line names another "
        f"source: {', '.join(_source_paths(given))}",
        "say which site this is with --site NAME",
    )


def _source_paths(source: SiteSettings) -> list[str]:
    return [
        os.path.realpath(path)
        for path in (source.zope_conf, source.zeo_conf, source.data_fs)
        if path is not None
    ]


def resolve_site(
    settings: Settings,
    *,
    site: str | None,
    given: SiteSettings | None,
    environment: Mapping[str, str],
    cwd: Path,
) -> Site:
    """Return the chosen site with its databases; a ``given`` source has priority over the configuration.

    Raise UsageError when no site or no source of its databases is named, ConfigurationError when the
    configuration has a mistake.
    """
    name = choose_site(settings, site, given) or DEFAULT
    source = given or _configured(settings, name)
    return msgspec.structs.replace(
        _read(name, source, environment, cwd), mirror=str(_mirror(settings, name, source, cwd))
    )


def _mirror(settings: Settings, name: str, source: SiteSettings, cwd: Path) -> Path:
    """Return the directory of mirrors of a site: the configured one, or one beside the configuration."""
    configured = settings.sites.get(name, source).mirror
    if configured is not None:
        return configured
    file = settings.file or source.zope_conf or source.zeo_conf
    beside = file.parent if file else cwd
    return (STATE_DIRECTORY if beside.is_relative_to(SYSTEM) else beside) / f"mirror-{name}"


def given_source(
    *,
    zope_conf: Path | None,
    zeo_conf: Path | None,
    data_fs: Path | None,
    blob_dir: Path | None,
    cwd: Path,
) -> SiteSettings | None:
    """Return the source that the command line names, None when it names none.

    Raise UsageError for options that exclude each other.
    """
    options = {"--zope-conf": zope_conf, "--zeo-conf": zeo_conf, "--data-fs": data_fs}
    named = [option for option, path in options.items() if path is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} exclude each other", "give one of them")
    if blob_dir is not None and data_fs is None:
        raise UsageError("--blob-dir needs --data-fs", "a zope.conf or zeo.conf has the blob directory in it")
    if not named:
        return None
    paths = [
        None if path is None else Path(absolute(path, cwd))
        for path in (zope_conf, zeo_conf, data_fs, blob_dir)
    ]
    return SiteSettings(zope_conf=paths[0], zeo_conf=paths[1], data_fs=paths[2], blob_dir=paths[3])


def _configured(settings: Settings, name: str) -> SiteSettings:
    if name in settings.sites:
        return settings.sites[name]
    if settings.sites:
        known = sorted(settings.sites)
        raise UsageError(
            f"no site {name!r} is configured{suggestion(name, known)}",
            f"configured in {settings.file or 'the environment'}: {', '.join(known)}",
        )
    raise UsageError(
        f"no site is given or configured: {settings.origin}"
        if settings.file is None
        else f"{settings.file} has no site",
        "give --zope-conf FILE, --zeo-conf FILE, or --data-fs FILE with --blob-dir DIR; or write a "
        "zodb-vault.toml with [site.NAME]",
    )


def _read(name: str, source: SiteSettings, environment: Mapping[str, str], cwd: Path) -> Site:
    if source.zope_conf is not None:
        return _dumped_elsewhere(read_zope_conf(source.zope_conf, name, environment, cwd), source)
    if source.zeo_conf is not None:
        return read_zeo_conf(source.zeo_conf, name, environment, cwd)
    blob_dir = None if source.blob_dir is None else str(source.blob_dir)
    database = read_storage(*data_fs_section(str(source.data_fs), blob_dir))
    assert isinstance(database, Database)
    return Site(name=name, config=None, databases=(database,))


def _dumped_elsewhere(site: Site, source: SiteSettings) -> Site:
    """Return the site with the DSN of the replica from which its PostgreSQL database is dumped.

    Raise ConfigurationError unless the site has exactly one database in PostgreSQL.
    """
    if source.dsn_backup is None:
        return site
    known = [database.name for database in site.databases if database.dsn_option is not None]
    if len(known) != 1:
        raise ConfigurationError(
            [
                f"site.{site.name}.dsn_backup needs exactly one database in PostgreSQL, but {site.config} "
                f"has {len(known)}"
            ]
        )
    more = {REPLICA_DSN: source.dsn_backup, REPLICA_LAG: str(source.replica_lag.total_seconds())}
    databases = [
        msgspec.structs.replace(one, options=one.options | more) if one.name in known else one
        for one in site.databases
    ]
    return msgspec.structs.replace(site, databases=tuple(databases))
