"""Read the settings from zodb-vault.toml and the ``ZODB_VAULT_...`` variables.

The structs below are the complete file format: a key is a field, a table is a struct. Every value can also be
given as a variable that is named by its path: ``retention.scheduled.daily`` is
``ZODB_VAULT_RETENTION_SCHEDULED_DAILY``. A variable overrides the file. All problems are reported together,
each with the file or variable and the key, but without the value.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, timedelta, tzinfo
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ..errors import ConfigurationError, UsageError
from ..model.s3settings import S3Settings
from ..model.source import Method, Secret
from ..policy.parallelism import MAX_CONFIGURED
from ..policy.retention import OnDemandRetention, SafetyRetention, ScheduledRetention
from .copies import CopySettings
from .keys import (
    COPIES_S3,
    Location,
    ProblemCollector,
    ValueSource,
    kinds,
    read_struct,
    suggestion,
    variables,
)
from .paths import absolute
from .rates import Rate

FILE = "zodb-vault.toml"
SYSTEM_DIRECTORY = Path("/etc/zodb-vault")
PREFIX = "ZODB_VAULT_"
SECRET_IDENTITY = "AGE-SECRET-KEY-"
CHOICES = {"addressing_style": ("auto", "path", "virtual"), "object_lock": ("governance", "compliance")}
SIGNER = re.compile(r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?\Z")
SITE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
SITE_NAME_RULE = (
    "has to begin with a small letter or digit, then up to 62 of these, dots, dashes and underscores"
)


class EncryptionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The public keys that new content is encrypted for; without any, it is not encrypted."""

    recipients: tuple[str, ...] = ()


class SigningSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The SSH key that signs manifests, and the public keys of accepted signers.

    Empty ``signers`` means that no signature is required.
    """

    key: Path | None = None
    signers: tuple[str, ...] = ()


class RepositorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The location of the backups, an absolute directory or ``s3://bucket/prefix``, and its settings.

    The location is None when it is not configured.
    """

    location: Location | None = None
    copies: tuple[CopySettings, ...] = ()
    s3: S3Settings = S3Settings()
    encryption: EncryptionSettings = EncryptionSettings()
    signing: SigningSettings = SigningSettings()

    def recipients_at(self, location: str) -> tuple[str, ...]:
        """Return the recipients of the repository at a location, which may be a copy."""
        own = self._copy_at(location)
        return self.encryption.recipients if own is None or own.recipients is None else own.recipients

    def s3_at(self, location: str) -> S3Settings:
        """Return the bucket settings of the repository at a location, which may be a copy."""
        own = self._copy_at(location)
        return self.s3 if own is None or own.s3 is None else own.s3

    def _copy_at(self, location: str) -> CopySettings | None:
        normal = location.rstrip("/") if "://" in location else absolute(Path(location), Path.cwd())
        return next((copy for copy in self.copies if copy.location == normal), None)


class IdentitySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The source of the private key, for hosts that restore: a file, or the output of a command."""

    file: Path | None = None
    command: Secret | None = None


class SiteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The source of a site: exactly one of ``zope_conf``, ``zeo_conf`` and ``data_fs``. Paths are absolute.

    ``blob_dir`` belongs to ``data_fs``. ``retention`` is the name of the policy of its backups; without one,
    ``[retention]`` applies. ``method`` is how its databases are read, unless the command line says otherwise.
    ``mirror`` is the directory of the mirrors of the portable method.
    ``client_confs`` are the configurations of clients of its ZEO server, whose caches a restore removes.
    ``max_age`` overrides ``schedule.max_age``. ``dsn_backup`` is a replica of its PostgreSQL database, which
    is dumped instead, unless it lags by more than ``replica_lag``.
    """

    zope_conf: Path | None = None
    zeo_conf: Path | None = None
    data_fs: Path | None = None
    blob_dir: Path | None = None
    client_confs: tuple[Path, ...] = ()
    retention: str | None = None
    max_age: timedelta | None = None
    method: Method = "native"
    mirror: Path | None = None
    dsn_backup: Secret | None = None
    replica_lag: timedelta = timedelta(minutes=1)


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long backups are kept, by what triggered them."""

    scheduled: ScheduledRetention = ScheduledRetention()
    on_demand: OnDemandRetention = OnDemandRetention()
    safety: SafetyRetention = SafetyRetention()


class RetentionSettings(PolicySettings, frozen=True, kw_only=True):
    """The policy of sites without a policy of their own.

    ``grace`` is the time for which removed backups of all sites can at least be restored from the trash.
    """

    grace: timedelta = timedelta(hours=72)


class ScheduleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is expected of the scheduled backups, which cron or a systemd timer starts.

    ``max_age`` is how old the newest backup may become, without a limit when it is None. ``timezone`` is the
    time zone of calendar days.
    """

    max_age: timedelta | None = None
    timezone: str = "UTC"


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a run: bytes per second, worker threads, and low CPU and I/O priority (``nice``)."""

    rate: Rate | None = None
    workers: int | None = None
    nice: bool = False


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings; ``file`` is the file that they were read from, None without one.

    ``searched`` are the directories in which it was looked for, empty when a user named it.
    """

    file: Path | None = None
    searched: tuple[Path, ...] = ()
    repository: RepositorySettings = RepositorySettings()
    identity: IdentitySettings = IdentitySettings()
    sites: dict[str, SiteSettings] = {}
    retention: RetentionSettings = RetentionSettings()
    policies: dict[str, PolicySettings] = {}
    schedule: ScheduleSettings = ScheduleSettings()
    limits: LimitSettings = LimitSettings()

    @property
    def origin(self) -> str:
        """Return a sentence about the file that was read, or about where none was found."""
        if self.file is not None:
            return f"the configuration was read from {self.file}"
        return f"there is no {FILE} in {', '.join(map(str, self.searched))}"

    def max_age(self, site: str) -> timedelta | None:
        """Return how old the newest backup of a site may become; None: nobody has set a limit."""
        own = self.sites.get(site)
        return self.schedule.max_age if own is None or own.max_age is None else own.max_age

    def policy(self, name: str | None) -> PolicySettings:
        """Return a policy by its name, or the one of ``[retention]``.

        Raise UsageError for a name that is not configured.
        """
        if name is None:
            return self.retention
        if name not in self.policies:
            known = ", ".join(sorted(self.policies)) or "none"
            raise UsageError(
                f"there is no retention policy {name!r}{suggestion(name, self.policies)}",
                f"configured: {known}",
            )
        return self.policies[name]


TABLES: dict[str, type[msgspec.Struct]] = {
    "repository": RepositorySettings,
    "identity": IdentitySettings,
    "retention": RetentionSettings,
    "schedule": ScheduleSettings,
    "limits": LimitSettings,
}
# Tables whose names the user chooses.
NAMED_TABLES: dict[str, tuple[type[msgspec.Struct], str]] = {
    "site": (SiteSettings, "plone"),
    "policy": (PolicySettings, "long"),
}


def load_settings(
    config: Path | None,
    environment: Mapping[str, str],
    cwd: Path,
    *,
    site_conf: Path | None = None,
    repository: str | None = None,
) -> Settings:
    """Return the settings of the configuration file, of variables and of the command line. The last one wins.

    Without ``config`` and ``ZODB_VAULT_CONFIG`` the file is looked for in ``cwd``, next to ``site_conf`` (a
    zope.conf or zeo.conf) or ``etc/zope.conf``, in the directory above that, and in ``/etc/zodb-vault``; none
    at all is fine. Raise ConfigurationError with every problem, each with its file or variable and key.
    """
    named = config or (
        Path(environment["ZODB_VAULT_CONFIG"]) if environment.get("ZODB_VAULT_CONFIG") else None
    )
    searched = () if named else _searched_directories(cwd, site_conf)
    file = Path(absolute(named, cwd)) if named else _found_file(searched)
    reading = ProblemCollector(environment=environment)
    values: dict[str, Any] = {}
    if file is not None:
        values = _from_file(file, reading)
    for key, given in _from_variables(reading, cwd, values.get("site", {})).items():
        # An identity has a file or a command, so a variable for one of them replaces both.
        values[key] = given if key == "identity" else _merged(values.get(key), given)
    if repository is not None:
        location = reading.at("--repository", cwd).value("", repository, Location)
        values["repository"] = _merged(values.get("repository"), {"location": location})
    _check(values, reading, str(file) if file else "the environment")
    reading.raise_problems()
    return _settings(file, searched, values)


def _searched_directories(cwd: Path, site_conf: Path | None) -> tuple[Path, ...]:
    """Return where the file is looked for, in this order."""
    beside = Path(absolute(site_conf or Path("etc", "zope.conf"), cwd)).parent
    return tuple(dict.fromkeys((cwd, beside, beside.parent, SYSTEM_DIRECTORY)))


def _found_file(directories: Iterable[Path]) -> Path | None:
    for directory in directories:
        file = directory / FILE
        try:
            if file.exists():
                return file
        except PermissionError:
            # sudo in the home of another user: a directory without permission counts as empty
            continue
        except OSError as error:
            raise ConfigurationError([f"{file} cannot be read: {error.strerror}"]) from None
    return None


def _from_file(file: Path, reading: ProblemCollector) -> dict[str, Any]:
    """Return the values of a file, nested by table; problems are noted in ``reading``."""
    document = _document(file)
    inside = reading.at(str(file), file.parent)
    inside.unknown("", document, [*TABLES, *NAMED_TABLES])
    values = {
        name: read_struct(inside, name, document[name], struct)
        for name, struct in TABLES.items()
        if name in document
    }
    for kind, (struct, example) in NAMED_TABLES.items():
        named = document.get(kind, {})
        if not isinstance(named, dict):
            inside.problem(kind, f"has to be a table for each {kind}, such as [{kind}.{example}]")
            named = {}
        values[kind] = {
            name: read_struct(inside, f"{kind}.{name}", table, struct) for name, table in named.items()
        }
    return values


def _document(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(
            [f"{file} cannot be read: {error.strerror or 'input/output error'}"]
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{file} is not a text in UTF-8 (at byte {error.start})"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"{file}: {error}"]) from None
    except (RecursionError, ValueError):
        raise ConfigurationError([f"{file} is not a TOML file"]) from None


def _from_variables(reading: ProblemCollector, cwd: Path, sites: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the variables, nested by table."""
    values: dict[str, Any] = {}
    for name, struct in TABLES.items():
        found = variables(reading, f"{PREFIX}{name.upper()}_", struct, cwd)
        if found:
            values[name] = found
    named: dict[str, Any] = {}
    prefix = f"{PREFIX}SITE_"
    for variable in reading.named(prefix):
        site, key = _site_variable(variable.removeprefix(prefix), sites)
        if site is None or key is None:
            reading.at(variable, cwd).problem(
                "", f"has to be named {prefix}<SITE>_<KEY>, the key one of {', '.join(_site_keys())}"
            )
            continue
        named.setdefault(site, {})[key] = reading.at(variable, cwd).value(
            "", reading.environment[variable], kinds(SiteSettings)[key]
        )
    if named:
        values["site"] = named
    return values


def _site_keys() -> list[str]:
    return [key.upper() for key in SiteSettings.__struct_fields__]


def _site_variable(rest: str, sites: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the site and key of a text such as ``PLONE_ZOPE_CONF``.

    A site of the file is recognised with any punctuation in its name.
    """
    key = next((key for key in _site_keys() if rest.endswith(f"_{key}")), None)
    if key is None:
        return None, None
    spelled = rest.removesuffix(f"_{key}")
    known = [name for name in sites if "".join(c if c.isalnum() else "_" for c in name.upper()) == spelled]
    if len(known) > 1:
        return None, None
    return known[0] if known else spelled.lower(), key.lower()


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: _merged(below.get(key), value) for key, value in above.items()}
    return above


def _check(values: dict[str, Any], reading: ProblemCollector, source: str) -> None:
    """Note the problems of values that are valid alone, but not together."""
    values_given = reading.at(source, Path())
    for name, site in values.get("site", {}).items():
        if not SITE_NAME.fullmatch(name):
            values_given.problem(f"site.{name}", SITE_NAME_RULE)
        sources = [key for key in ("zope_conf", "zeo_conf", "data_fs") if key in site]
        if len(sources) != 1:
            values_given.problem(
                f"site.{name}",
                "has to have exactly one of zope_conf, zeo_conf and data_fs, it has "
                f"{' and '.join(sources) or 'none'}",
            )
        if "blob_dir" in site and "data_fs" not in site:
            values_given.problem(
                f"site.{name}.blob_dir", "belongs to data_fs; zope_conf and zeo_conf contain it themselves"
            )
        _check_replica(name, site, values_given)
        if site.get("retention") and site["retention"] not in values.get("policy", {}):
            known = values.get("policy", {})
            values_given.problem(
                f"site.{name}.retention",
                f"is not the name of a policy{suggestion(site['retention'], known)}; "
                "a policy is a table [policy.NAME]",
            )
    identity = values.get("identity", {})
    if identity.get("file") and identity.get("command"):
        values_given.problem("identity", "has to have file or command, not both")
    _check_s3(values.get("repository", {}).get("s3", {}), values_given)
    for copy in values.get("repository", {}).get("copies", ()):
        _check_s3(msgspec.structs.asdict(copy.s3) if copy.s3 else {}, values_given, COPIES_S3)
    _check_keys(values.get("repository", {}), values_given)
    if not 1 <= values.get("limits", {}).get("workers", 1) <= MAX_CONFIGURED:
        values_given.problem("limits.workers", f"has to be 1 to {MAX_CONFIGURED}")
    zone = values.get("schedule", {}).get("timezone")
    if zone and not _is_zone(zone):
        values_given.problem(
            "schedule.timezone", "is not a zone of the time zone database, such as Europe/Vienna"
        )


def zone_of(name: str) -> tzinfo:
    """Return a time zone.

    Raise ZoneInfoNotFoundError, ValueError or OSError when there is none of that name.
    """
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def _check_replica(name: str, site: Mapping[str, Any], values_given: ValueSource) -> None:
    """Note the keys of a replica that would do nothing."""
    if "dsn_backup" in site and "zope_conf" not in site:
        values_given.problem(
            f"site.{name}.dsn_backup", "belongs to zope_conf: only that names a PostgreSQL database"
        )
    if "replica_lag" in site and "dsn_backup" not in site:
        values_given.problem(f"site.{name}.replica_lag", "belongs to dsn_backup, which is not configured")


def _check_keys(repository: Mapping[str, Any], values_given: ValueSource) -> None:
    ours = repository.get("encryption", {}).get("recipients") or ()
    theirs = [recipient for copy in repository.get("copies", ()) for recipient in copy.recipients or ()]
    for key, recipients in (("encryption.recipients", ours), ("copies", theirs)):
        if any(recipient.strip().upper().startswith(SECRET_IDENTITY) for recipient in recipients):
            values_given.problem(
                f"repository.{key}",
                "contains a private key; only public keys belong here: remove it, and replace the key pair",
            )
    signers = repository.get("signing", {}).get("signers") or ()
    if not all(SIGNER.match(signer) for signer in signers):
        values_given.problem(
            "repository.signing.signers", "has to contain public SSH keys, such as ssh-ed25519 AAAA..."
        )


def _check_s3(s3: Mapping[str, Any], values_given: ValueSource, path: str = "repository.s3") -> None:
    for key, known in CHOICES.items():
        if s3.get(key) is not None and s3[key] not in known:
            values_given.problem(f"{path}.{key}", f"has to be one of {', '.join(known)}")
    try:
        endpoint = urlsplit(s3.get("endpoint") or "https://none")
        good = endpoint.scheme in ("http", "https") and bool(endpoint.hostname) and not endpoint.query
    except ValueError:
        endpoint, good = urlsplit(""), False
    if not good:
        values_given.problem(f"{path}.endpoint", "has to be a URL such as https://s3.example.com")
    elif "@" in endpoint.netloc:
        values_given.problem(
            f"{path}.endpoint",
            "contains credentials; put them into the environment or the configuration of the S3 client",
        )
    if (s3.get("object_lock") is None) != (s3.get("object_lock_for") is None):
        values_given.problem(path, "has to have both object_lock and object_lock_for, or neither")


def _is_zone(name: str) -> bool:
    from zoneinfo import ZoneInfoNotFoundError

    try:
        zone_of(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _settings(file: Path | None, searched: tuple[Path, ...], values: dict[str, Any]) -> Settings:
    """Return the settings as structs; all values were checked before."""
    repository = dict(values.get("repository", {}))
    encryption = EncryptionSettings(**repository.pop("encryption", {}))
    s3 = S3Settings(**repository.pop("s3", {}))
    signing = SigningSettings(**repository.pop("signing", {}))
    return Settings(
        file=file,
        searched=searched,
        repository=RepositorySettings(encryption=encryption, s3=s3, signing=signing, **repository),
        identity=IdentitySettings(**values.get("identity", {})),
        sites={name: SiteSettings(**site) for name, site in values.get("site", {}).items()},
        retention=RetentionSettings(**_policy(values.get("retention", {}))),
        policies={
            name: PolicySettings(**_policy(policy)) for name, policy in values.get("policy", {}).items()
        },
        schedule=ScheduleSettings(**values.get("schedule", {})),
        limits=LimitSettings(**values.get("limits", {})),
    )


def _policy(values: dict[str, Any]) -> dict[str, Any]:
    kinds_of_backups = {
        "scheduled": ScheduledRetention,
        "on_demand": OnDemandRetention,
        "safety": SafetyRetention,
    }
    return values | {name: struct(**values.get(name, {})) for name, struct in kinds_of_backups.items()}
