"""Read the storage sections of a configuration, and decide what each means for a backup.

A backend reads its own section, see ``backends``. This module reads the sections of wrappers around another
storage, and of storages in memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, cast

import msgspec

from ..errors import VaultError
from ..model.source import Database, Option, Skipped
from .backend_registry import DATA_FS, ENTRY_POINTS, Registered, find_backend
from .blobmodes import directory_mode, foreign_cache
from .conversion import Conversion
from .masking import is_known, mask
from .paths import absolute, expand_home
from .sections import Section, Value, require_set

PATHS = {
    "authenticate",
    "blob-cache-dir",
    "blob-dir",
    "blob-temp-dir",
    "cache-dir",
    "cache-local-dir",
    "cache-path",
    "certificate",
    "data-dir",
    "path",
    "pid-filename",
    "read-default-file",
    "replica-conf",
    "ro-replica-conf",
    "unix-socket",
    "var",
}
ADDRESSES = {"address", "server"}
# Keys that change how the process of the site works, and not where its data are or what they mean.
PROCESS_KEYS = """
blob-cache-size blob-cache-size-check blob-cache-size-check-external blob-chunk-size cache-delta-size-limit
cache-local-compression cache-local-mb cache-local-object-max cache-per-connection-mb cache-shared-mb
cache-size cache-size-bytes cache-warm-pct commit-lock-timeout create-schema drop-cache-rather-verify
invalidation-age invalidation-queue-size max-disconnect-poll min-disconnect-poll name pack-gc pack-keep-old
pool-size pool-timeout read-only read-only-fallback server-sync wait wait-timeout
"""
OF_THE_PROCESS = frozenset(PROCESS_KEYS.split())
FOREIGN = "report this mistake to the package that registers it"
# A value of the key ``authenticate`` of ZEO that is not a path.
NO_PATHS = {"DYNAMIC"}
# Keys that their packages spell with an underscore.
UNDERSCORED = {
    "connect_timeout",
    "gevent_yield_interval",
    "named_pipe",
    "read_default_file",
    "read_default_group",
    "revert_when_stale",
    "unix_socket",
}


# Paths in which the package does not expand ``~``.
LITERAL = {"cache-path", "var"}
# Paths in which the package expands variables of the environment.
WITH_VARIABLES = {"cache-local-dir"}
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


class Surroundings:
    """The context of a storage section: the name of its database, and how paths in it are resolved.

    ``notes`` become warnings of the database.
    """

    def __init__(
        self,
        name: str,
        mount_point: str | None,
        base: Path,
        base_reason: str,
        environment: Mapping[str, str],
        here: Path | None = None,
    ) -> None:
        self.name = name
        self.mount_point = mount_point
        self.notes: list[str] = []
        self._base = base
        self._base_reason = base_reason
        self._environment = environment
        self._here = here or base

    def path(self, section: Section, key: str) -> str | None:
        """Return the absolute path in a key, None when the section does not have the key.

        A note tells from which directory a relative path is resolved.
        """
        text = section.text(key)
        return None if text is None else self._resolved(key, text)

    def options(self, section: Section, prefix: str = "") -> dict[str, Option]:
        """Return the keys and values of a section, with absolute paths and concealed secrets."""
        found: dict[str, list[str]] = {}
        for value in section.values:
            if value.unset:  # nothing that a backup needs, see require_variables
                continue
            found.setdefault(prefix + spelled(section, value), []).append(self.text(value))
        return {key: mask(key, "\n".join(texts)) for key, texts in found.items()}

    def all_options(self, section: Section, prefix: str = "") -> dict[str, Option]:
        """Return the keys and values of a section and of those in it, whose keys begin with their types."""
        found = self.options(section, prefix)
        for inner in section.sections:
            found |= self.all_options(inner, f"{prefix}{inner.type}.")
        return found

    def text(self, value: Value) -> str:
        """Return the text of a value; a path is made absolute."""
        is_path = (value.key in PATHS and value.text not in NO_PATHS) or (
            value.key in ADDRESSES and "/" in value.text
        )
        return self._resolved(value.key, value.text) if is_path and value.text else value.text

    def _resolved(self, key: str, text: str) -> str:
        path = text if key in LITERAL else expand_home(self._with_variables(key, text), self._environment)
        if not Path(path).is_absolute():
            self.notes.append(
                f"{key} is the relative path {text}: it is taken from {self._base} "
                f"({self._base_reason}){self._other(path)}"
            )
        elif path != text and not text.startswith("~"):
            self.notes.append(f"{key} is {text}: it is taken as {path}")
        elif path != text:
            self.notes.append(f"{key} is {text}: ~ is taken as {self._environment['HOME']}")
        return absolute(path, self._base)

    def _with_variables(self, key: str, text: str) -> str:
        if key not in WITH_VARIABLES:
            return text
        return VARIABLE.sub(lambda one: self._environment.get(one[1] or one[2], one[0]), text)

    def _other(self, path: str) -> str:
        """Return a note about a relative path that exists only in the working directory."""
        there = os.path.lexists(self._here / path) and not os.path.lexists(self._base / path)
        if not there:
            return ""
        return (
            f"; it does not exist there, but in the working directory {self._here}, where a Zope that is "
            "started here would find it"
        )


# Types of sections outside of databases that are not storages.
NOT_STORAGES = {
    "environment",
    "eventlog",
    "logger",
    "product-config",
    "runner",
    "ssl",
    "warnfilter",
    "zeo",
}


class SectionBackend(Protocol):
    """The methods of a backend that read its configuration; see ``Backend`` for all others."""

    def read_section(self, section: Section, around: Surroundings) -> Database | Skipped:
        """Return the database that a section describes, or why there is none; raise ConfigurationError."""
        ...

    def config_warnings(self, database: Database) -> list[str]:
        """Return warnings about what a configuration, including its wrappers, does not tell."""
        ...

    def conversion(self, section_type: str) -> Conversion:
        """Return what another program needs to open such a section and copy the storage."""
        ...

    def export_warnings(self, database: Database) -> list[str]:
        """Return the known mistakes of zodb-convert with such a storage, as warnings."""
        ...


def section_backend(name: str) -> SectionBackend | None:
    """Return the backend of a section type or of a database; None when no package registers it.

    Raise ConfigurationError.
    """
    registered = find_backend(name)
    return cast(SectionBackend, registered.backend) if registered else None


def read_storage(section: Section, around: Surroundings) -> Database | Skipped:
    """Return the database in a storage section.

    Raise ConfigurationError when its storage is unknown or refused, or when it has a mistake.
    """
    if reader := READERS.get(section.type):
        return reader(section, around)
    registered = None if section.type in NOT_STORAGES else find_backend(section.type)
    if registered is None:
        raise section.error(
            f"{section.label} is a storage that zodb-vault does not know",
            hint=f"install the package that registers {section.type!r} under the entry points "
            f"{ENTRY_POINTS}; or copy the database into a FileStorage with zodb-convert, and back that up",
        )
    if registered.ours:
        return cast(SectionBackend, registered.backend).read_section(section, around)
    return _read_by_another_package(registered, section, around)


def require_variables(section: Section) -> None:
    """Raise ConfigurationError for keys that a backup may need and whose variables are not set.

    All keys count except those that are known to matter to the running site only.
    """
    if READERS.get(section.type) is in_memory:
        return
    values = (value for inner in section.walk() for value in inner.values)
    require_set(value for value in values if value.key not in OF_THE_PROCESS)


def data_fs_section(path: str, blob_dir: str | None) -> tuple[Section, Surroundings]:
    """Return a section for a Data.fs without a configuration, and its surroundings; paths are absolute."""
    section = Section(DATA_FS, None, path)
    for key, text in (("path", path), ("blob-dir", blob_dir)):
        if text is not None:
            section.values.append(Value(key, key, text, path))
    return section, Surroundings("main", None, Path("/"), "", {})


def _read_by_another_package(
    registered: Registered, section: Section, around: Surroundings
) -> Database | Skipped:
    """Return what a backend of another package reads; turn its mistakes into errors that name the package."""
    source = f"{registered.source}, registered for {section.label}"
    try:
        found = cast(SectionBackend, registered.backend).read_section(section, around)
    except VaultError:
        raise
    except Exception as error:  # noqa: BLE001  the text of an unknown error may contain a secret
        raise section.error(f"{source}, failed ({type(error).__name__})", hint=FOREIGN) from None
    if not isinstance(found, (Database, Skipped)):
        raise section.error(f"{source}, returned neither a Database nor a Skipped", hint=FOREIGN)
    return found


def is_storage(type_: str) -> bool:
    """Tell whether a section type is a storage; if no package registers it, its name decides."""
    if type_ in NOT_STORAGES:
        return False
    return type_ in READERS or type_.endswith("storage") or find_backend(type_) is not None


def blobstorage(section: Section, around: Surroundings) -> Database | Skipped:
    """Return the storage inside the wrapper, with its blobs in the directory of the wrapper."""
    inner = read_storage(only_storage(section), around)
    if isinstance(inner, Skipped):
        return inner
    if inner.blob_dir is not None:
        raise section.error(
            f"{section.label} and the storage in it both have a blob-dir",
            hint="ZODB accepts only one of them; remove the other",
        )
    section.required("blob-dir")
    blob_dir = around.path(section, "blob-dir")
    mode, warnings = directory_mode(section, blob_dir)
    return _wrapped(
        section, around, msgspec.structs.replace(inner, blob_dir=blob_dir, blob_mode=mode), warnings
    )


def zlibstorage(section: Section, around: Surroundings) -> Database | Skipped:
    """Return the storage inside the wrapper: compression does not change where the data are."""
    inner = read_storage(only_storage(section), around)
    return inner if isinstance(inner, Skipped) else _wrapped(section, around, inner, [])


def zrs(section: Section, around: Surroundings) -> Database | Skipped:
    """Return the storage inside the wrapper, with a warning for a secondary.

    Replication does not change where the data are, but a secondary may lack the newest transactions.
    """
    inner = read_storage(only_storage(section), around)
    if isinstance(inner, Skipped):
        return inner
    primary = section.text("replicate-from")
    warnings = []
    if primary:
        warnings.append(
            f"{section.label} is a replica of {primary}: a backup has only the transactions that arrived "
            "here before it began"
        )
    return _wrapped(section, around, inner, warnings)


def s3blobstorage(section: Section, around: Surroundings) -> Database | Skipped:
    """Return the storage inside the wrapper, with its blobs in a bucket."""
    section.required("bucket-name")
    section.required("cache-dir")
    inner = read_storage(only_storage(section), around)
    if isinstance(inner, Skipped):
        return inner
    warnings = foreign_cache(section, "cache-dir", around.path(section, "cache-dir"))
    if inner.blob_mode == "directory":
        warnings.append(
            f"blobs that were stored in {inner.blob_dir} before {section.label} was added "
            "are not in the bucket"
        )
    return _wrapped(section, around, msgspec.structs.replace(inner, blob_mode="s3"), warnings)


def demostorage(section: Section, around: Surroundings) -> Database | Skipped:
    """Skip a DemoStorage without a storage in it, which is in memory; refuse any other DemoStorage.

    Its data are in two storages at the same time.
    """
    if not section.sections:
        return Skipped(around.name, f"{section.label} without a storage in it is only in memory")
    changes = next((inner for inner in section.sections if inner.name == "changes"), None)
    place = (
        "in memory, and are lost when the process ends"
        if changes is None
        else f"in the storage of {changes.where}"
    )
    raise section.error(
        f"{section.label} has its data in two storages, a base and changes; the changes are {place}",
        hint="back up the base with a configuration that has only the base; if the changes are in a storage, "
        "back them up with another configuration",
    )


def before(section: Section, around: Surroundings) -> Database:
    """Refuse a storage that shows a state of the past."""
    raise section.error(
        f"{section.label} shows the state of a database at one point in time: a backup of it would leave out "
        "everything newer",
        hint="use a configuration with the storage alone, without this wrapper; choose a point in time when "
        "you restore, with --at",
    )


def in_memory(section: Section, around: Surroundings) -> Skipped:
    """Skip a storage in memory."""
    return Skipped(around.name, f"{section.label} is only in memory: its data are lost when the process ends")


def _wrapped(section: Section, around: Surroundings, inner: Database, warnings: list[str]) -> Database:
    return msgspec.structs.replace(
        inner,
        wrappers=(WRAPPER_NAMES.get(section.type, section.type), *inner.wrappers),
        options=inner.options | around.options(section, f"{section.type}."),
        warnings=(*inner.warnings, *warnings),
    )


def only_storage(section: Section) -> Section:
    """Return the section of the only storage in a wrapper.

    Raise ConfigurationError when there is no storage or more than one.
    """
    if len(section.sections) != 1:
        raise section.error(
            f"{section.label} contains {len(section.sections) or 'no'} storages, but must contain one"
        )
    return section.sections[0]


def misspelled(section: Section) -> list[str]:
    """Return warnings about keys with a wrong spelling, such as ``data_dir``.

    zodb-vault accepts them; the package of the storage refuses them.
    """
    return [
        f"{value.where}: {value.written} is read as {value.key}; Zope refuses this spelling in {inner.label}"
        for inner in section.walk()
        for value in inner.values
        if is_known(value.key) and value.written.lower() != spelled(inner, value)
    ]


def left_open(database: Database) -> list[str]:
    """Return warnings about what the configuration of a database, including its wrappers, does not tell."""
    backend = section_backend(database.backend)
    return backend.config_warnings(database) if backend else []


def spelled(section: Section, value: Value) -> str:
    """Return a key in the spelling of its package."""
    if section.type == "pragmas":
        return value.written.lower()
    underscored = value.key.replace("-", "_")
    return underscored if underscored in UNDERSCORED else value.key


WRAPPER_NAMES = {"s3blobstorage": "s3blobs"}
READERS: Mapping[str, Callable[[Section, Surroundings], Database | Skipped]] = {
    "blobstorage": blobstorage,
    "zlibstorage": zlibstorage,
    "serverzlibstorage": zlibstorage,
    "zrs": zrs,
    "s3blobstorage": s3blobstorage,
    "demostorage": demostorage,
    "before": before,
    "beforestorage": before,
    "temporarystorage": in_memory,
    "mappingstorage": in_memory,
}
