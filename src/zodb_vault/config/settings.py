"""Read zodb-vault.toml and the ``ZODB_VAULT_...`` variables.

Where backups go, of which sites, and how long they stay.

The structs below are the whole file format: a key is a field, a table a struct. Every value can also be given
as a variable, named by its path: ``retention.scheduled.daily`` is ``ZODB_VAULT_RETENTION_SCHEDULED_DAILY``. A
variable wins over the file. All problems are reported at once, each with the file or variable and the key,
none with a value.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, timedelta, tzinfo
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ..errors import ConfigurationError, UsageError
from ..model.s3settings import S3Settings
from ..model.source import Secret
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
    """The public keys that new content is encrypted for; none: it is not encrypted."""

    recipients: tuple[str, ...] = ()


class SigningSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The SSH key that signs manifests, and the public keys of accepted signers.

    Empty ``signers`` means that no signature is required.
    """

    key: Path | None = None
    signers: tuple[str, ...] = ()


class RepositorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the backups live: an absolute directory or ``s3://bucket/prefix``; None when nothing says it."""

    location: Location | None = None
    copies: tuple[CopySettings, ...] = ()
    s3: S3Settings = S3Settings()
    encryption: EncryptionSettings = EncryptionSettings()
    signing: SigningSettings = SigningSettings()

    def recipients_at(self, location: str) -> tuple[str, ...]:
        """Return the recipients of a repository, which may be one of the copies."""
        own = self._copy_at(location)
        return self.encryption.recipients if own is None or own.recipients is None else own.recipients

    def s3_at(self, location: str) -> S3Settings:
        """Return how the bucket of a repository is reached, which may be that of one of the copies."""
        own = self._copy_at(location)
        return self.s3 if own is None or own.s3 is None else own.s3

    def _copy_at(self, location: str) -> CopySettings | None:
        place = location.rstrip("/") if "://" in location else absolute(Path(location), Path.cwd())
        return next((copy for copy in self.copies if copy.location == place), None)


class IdentitySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the private key comes from on hosts that restore: a file, or the output of a command."""

    file: Path | None = None
    command: Secret | None = None


class SiteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a site is read from: exactly one of the first three; ``blob_dir`` goes with ``data_fs``.

    All absolute.

    ``retention`` names the policy of its backups; without one ``[retention]`` holds. ``mirror`` is where the
    portable method keeps its copies. ``client_confs`` are the configurations of clients of its ZEO server,
    whose caches a restore removes. ``dsn_backup`` is a replica of its PostgreSQL database that is dumped
    instead, unless it lags by more than ``replica_lag``.
    """

    zope_conf: Path | None = None
    zeo_conf: Path | None = None
    data_fs: Path | None = None
    blob_dir: Path | None = None
    client_confs: tuple[Path, ...] = ()
    retention: str | None = None
    mirror: Path | None = None
    dsn_backup: Secret | None = None
    replica_lag: timedelta = timedelta(minutes=1)


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long backups stay, by what triggered them."""

    scheduled: ScheduledRetention = ScheduledRetention()
    on_demand: OnDemandRetention = OnDemandRetention()
    safety: SafetyRetention = SafetyRetention()


class RetentionSettings(PolicySettings, frozen=True, kw_only=True):
    """The policy of sites that name none.

    ``grace`` is how long removed backups of all sites can be brought back, at least.
    """

    grace: timedelta = timedelta(hours=72)


class ScheduleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When the scheduled backup runs, and the zone whose calendar days count."""

    at: str | None = None
    timezone: str = "UTC"


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the line and of the machine a run takes.

    Bytes a second, how many things at once, and whether all others go first.
    """

    rate: Rate | None = None
    workers: int | None = None
    nice: bool = False


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is configured; ``file`` is where it was read from, None without one."""

    file: Path | None = None
    repository: RepositorySettings = RepositorySettings()
    identity: IdentitySettings = IdentitySettings()
    sites: dict[str, SiteSettings] = {}
    retention: RetentionSettings = RetentionSettings()
    policies: dict[str, PolicySettings] = {}
    schedule: ScheduleSettings = ScheduleSettings()
    limits: LimitSettings = LimitSettings()

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
# Tables with names that are chosen by whoever writes the file.
NAMED_TABLES: dict[str, tuple[type[msgspec.Struct], str]] = {
    "site": (SiteSettings, "plone"),
    "policy": (PolicySettings, "long"),
}


def load_settings(
    config: Path | None,
    environment: Mapping[str, str],
    cwd: Path,
    *,
    zope_conf: Path | None = None,
    repository: str | None = None,
) -> Settings:
    """Return the settings of the configuration file, of variables and of the command line. The last one wins.

    Without ``config`` and ``ZODB_VAULT_CONFIG`` the file is looked for in ``cwd``, next to ``zope_conf`` or
    ``etc/zope.conf``, and in ``/etc/zodb-vault``; none at all is fine. Raise ConfigurationError with every
    problem, each with its file or variable and key.
    """
    named = config or (
        Path(environment["ZODB_VAULT_CONFIG"]) if environment.get("ZODB_VAULT_CONFIG") else None
    )
    file = Path(absolute(named, cwd)) if named else _found_file(cwd, zope_conf)
    reading = ProblemCollector(environment=environment)
    values: dict[str, Any] = {}
    if file is not None:
        values = _from_file(file, reading)
    for key, given in _from_variables(reading, cwd, values.get("site", {})).items():
        # Of file and command there is one, so a variable for either replaces both.
        values[key] = given if key == "identity" else _merged(values.get(key), given)
    if repository is not None:
        location = reading.at("--repository", cwd).value("", repository, Location)
        values["repository"] = _merged(values.get("repository"), {"location": location})
    _check(values, reading, str(file) if file else "the environment")
    reading.raise_problems()
    return _settings(file, values)


def _found_file(cwd: Path, zope_conf: Path | None) -> Path | None:
    beside = (cwd / zope_conf).parent if zope_conf else cwd / "etc"
    for directory in (cwd, beside, SYSTEM_DIRECTORY):
        file = directory / FILE
        try:
            if file.exists():
                return Path(absolute(file, cwd))
        except PermissionError:
            # sudo in somebody else's home: a directory that may not be entered holds nothing for this user
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
    """Return the site and key of ``PLONE_ZOPE_CONF``.

    A site of the file is recognised whatever its punctuation.
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
    """Note what is wrong with values that are right by themselves."""
    told = reading.at(source, Path())
    for name, site in values.get("site", {}).items():
        if not SITE_NAME.fullmatch(name):
            told.problem(f"site.{name}", SITE_NAME_RULE)
        sources = [key for key in ("zope_conf", "zeo_conf", "data_fs") if key in site]
        if len(sources) != 1:
            told.problem(
                f"site.{name}",
                "has to say exactly one of zope_conf, zeo_conf and data_fs, it says "
                f"{' and '.join(sources) or 'none'}",
            )
        if "blob_dir" in site and "data_fs" not in site:
            told.problem(
                f"site.{name}.blob_dir", "goes with data_fs only, a zope_conf or zeo_conf says it itself"
            )
        if site.get("retention") and site["retention"] not in values.get("policy", {}):
            known = values.get("policy", {})
            told.problem(
                f"site.{name}.retention",
                f"names no policy{suggestion(site['retention'], known)}; a policy is a table [policy.NAME]",
            )
    identity = values.get("identity", {})
    if identity.get("file") and identity.get("command"):
        told.problem("identity", "has to say file or command, not both")
    _check_s3(values.get("repository", {}).get("s3", {}), told)
    for copy in values.get("repository", {}).get("copies", ()):
        _check_s3(msgspec.structs.asdict(copy.s3) if copy.s3 else {}, told, COPIES_S3)
    _check_keys(values.get("repository", {}), told)
    if not 1 <= values.get("limits", {}).get("workers", 1) <= MAX_CONFIGURED:
        told.problem("limits.workers", f"has to be 1 to {MAX_CONFIGURED}")
    zone = values.get("schedule", {}).get("timezone")
    if zone and not _is_zone(zone):
        told.problem("schedule.timezone", "is not a zone of the time zone database, such as Europe/Vienna")


def zone_of(name: str) -> tzinfo:
    """Return a time zone.

    Raise ZoneInfoNotFoundError, ValueError or OSError when there is none of that name.
    """
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def _check_keys(repository: Mapping[str, Any], told: ValueSource) -> None:
    ours = repository.get("encryption", {}).get("recipients") or ()
    theirs = [recipient for copy in repository.get("copies", ()) for recipient in copy.recipients or ()]
    for key, recipients in (("encryption.recipients", ours), ("copies", theirs)):
        if any(recipient.strip().upper().startswith(SECRET_IDENTITY) for recipient in recipients):
            told.problem(
                f"repository.{key}",
                "holds a private key, only public ones belong here; take it out and replace that key",
            )
    signers = repository.get("signing", {}).get("signers") or ()
    if not all(SIGNER.match(signer) for signer in signers):
        told.problem(
            "repository.signing.signers", "has to hold public keys of SSH, such as ssh-ed25519 AAAA..."
        )


def _check_s3(s3: Mapping[str, Any], told: ValueSource, path: str = "repository.s3") -> None:
    for key, known in CHOICES.items():
        if s3.get(key) is not None and s3[key] not in known:
            told.problem(f"{path}.{key}", f"has to be one of {', '.join(known)}")
    try:
        endpoint = urlsplit(s3.get("endpoint") or "https://none")
        good = endpoint.scheme in ("http", "https") and bool(endpoint.hostname) and not endpoint.query
    except ValueError:
        endpoint, good = urlsplit(""), False
    if not good:
        told.problem(f"{path}.endpoint", "has to be a URL such as https://s3.example.com")
    elif "@" in endpoint.netloc:
        told.problem(
            f"{path}.endpoint",
            "holds credentials, they belong into the environment or the configuration of the S3 client",
        )
    if (s3.get("object_lock") is None) != (s3.get("object_lock_for") is None):
        told.problem(path, "has to say both object_lock and object_lock_for, or neither")


def _is_zone(name: str) -> bool:
    from zoneinfo import ZoneInfoNotFoundError

    try:
        zone_of(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _settings(file: Path | None, values: dict[str, Any]) -> Settings:
    """Return the structs of values that were all found right."""
    repository = dict(values.get("repository", {}))
    encryption = EncryptionSettings(**repository.pop("encryption", {}))
    s3 = S3Settings(**repository.pop("s3", {}))
    signing = SigningSettings(**repository.pop("signing", {}))
    return Settings(
        file=file,
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
