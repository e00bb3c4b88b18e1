"""Write configurations that copy a database: those of zodb-convert, and that of the portable method.

zodb-convert copies from the site into a FileStorage, or back. The storage of the site is taken from its
configuration section by section, with its wrappers. Only options that a source or a destination cannot have
are changed. The templates around the storages are ``convert-export.conf`` and ``convert-import.conf`` beside
this module.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Literal, NamedTuple

from ..errors import ConfigurationError
from ..model.source import Database, Site
from .conversion import Conversion
from .masking import may_be_named
from .sections import Section, Value
from .storages import Surroundings, data_fs_section, only_storage, require_variables, section_backend, spelled
from .zopeconf import read_storages

Direction = Literal["export", "import"]

# The sections that wrap a storage. The backend of a storage has the conversion of its own section.
WRAPPERS: Mapping[str, Conversion] = {
    "blobstorage": Conversion(packages={"blobstorage": None}),
    "s3blobstorage": Conversion(
        packages={"s3blobstorage": "zodb_s3blobs"}, not_copied=frozenset({"cache-dir", "cache-size"})
    ),
    "serverzlibstorage": Conversion(packages={"serverzlibstorage": "zc.zlibstorage"}),
    "zlibstorage": Conversion(packages={"zlibstorage": "zc.zlibstorage"}),
}
# The options of a blob cache: they belong to the site, not to the program that copies it.
CACHED = {"blob-cache-size", "blob-cache-size-check", "blob-dir", "shared-blob-dir"}
REFUSES_S3 = (
    "zodb-convert 1.0.0b12 refuses <s3blobstorage> as a source, because it does not provide IStorageIteration"
)
NEW_TIDS = (
    "<s3blobstorage> as a destination gives every transaction a new TID: "
    "backups of the source do not continue in it"
)
COMPRESSED = (
    "<serverzlibstorage> returns records unchanged: "
    "the copy is compressed, so open it with <zlibstorage> around it"
)
ONLY_CURRENT = (
    "a storage without history has only the current revision of each object, without users and descriptions"
)


class ConvertConf(NamedTuple):
    """The text of a configuration, secrets included, and warnings for the user."""

    text: str
    warnings: list[str]


def convert_conf(
    site: Site,
    database: Database,
    direction: Direction,
    directory: Path,
    environment: Mapping[str, str],
    cwd: Path,
) -> ConvertConf:
    """Return the configuration that copies a database into the FileStorage of a directory, or back.

    Raise ConfigurationError for values that ZConfig could not read back.
    """
    section, around, imported = _storage(site, database, environment, cwd)
    reads = direction == "export"
    theirs = list(_lines(section, around, "source" if reads else "destination", reads))
    ours = list(_lines(*_file_storage(directory), "destination" if reads else "source", not reads))
    warnings = _warnings(database, direction)
    template = (
        importlib.resources.files(__package__)
        .joinpath(f"convert-{direction}.conf")
        .read_text(encoding="utf-8")
    )
    text = Template(template).substitute(
        database=_one_line(database.name),
        origin=_one_line(site.config or database.data_fs or ""),
        directory=_one_line(str(directory)),
        notes="".join(f"#\n# {warning}\n" for warning in warnings).rstrip("\n") or "#",
        imports="\n".join(f"%import {package}" for package in _imports(section, imported)),
        source="\n".join(theirs if reads else ours),
        destination="\n".join(ours if reads else theirs),
    )
    return ConvertConf(text, warnings)


def source_conf(
    site: Site, database: Database, environment: Mapping[str, str], cwd: Path, cache: Path
) -> str:
    """Return the configuration that opens only the storage of a database, secrets included.

    The storage is opened for reading only, with its blobs cached in ``cache``. Wrappers that only compress
    records are left out, so that records are read as they are stored. A directory that contains all blobs
    stays. Raise ConfigurationError for values that ZConfig could not read back.
    """
    section, around, imported = _storage(site, database, environment, cwd)
    while section.type in ("zlibstorage", "serverzlibstorage"):
        section = only_storage(section)
    section = _for_copying(section, database.blob_mode == "directory", cache)
    lines = [f"%import {package}" for package in _imports(section, imported)] + list(
        _lines(section, around, None, read_only=True)
    )
    return "\n".join(lines) + "\n"


def _for_copying(section: Section, authoritative: bool, cache: Path) -> Section:
    """Return a section with the caches of the site replaced by ``cache``.

    ``authoritative``: the blob directory contains all blobs and stays.
    """
    wrapper, conversion = section.type == "s3blobstorage", _conversion(section.type)
    if not conversion.read_only and not wrapper:
        return section
    dropped = conversion.not_copied | (frozenset() if authoritative else CACHED)
    changed = Section(section.type, section.name, section.where)
    changed.values = [value for value in section.values if value.key not in dropped]
    changed.sections = [_without_blobs(only_storage(section))] if wrapper else section.sections
    if wrapper:
        # larger than all blobs together: a blob must not leave the cache before it is copied
        changed.values += [
            _value("cache-dir", str(cache), section),
            _value("cache-size", "1048576GB", section),
        ]
    elif not authoritative:
        changed.values.append(_value("blob-dir", str(cache), section))
    changed.values += [_value(key, text, section) for key, text in conversion.added]
    return changed


def _without_blobs(section: Section) -> Section:
    """Return a storage without blob options, because its wrapper has the blobs."""
    changed = _for_copying(section, authoritative=True, cache=Path())
    changed.values = [value for value in changed.values if value.key not in CACHED]
    return changed


def _value(key: str, text: str, section: Section) -> Value:
    return Value(key, key, text, section.where)


def _storage(
    site: Site, database: Database, environment: Mapping[str, str], cwd: Path
) -> tuple[Section, Surroundings, list[str]]:
    """Return the section of the storage of a database, and the imports of its file.

    For a Data.fs without a configuration, a section is made.
    """
    if site.config is None:
        return *data_fs_section(database.data_fs or "", database.blob_dir), []
    configured = read_storages(Path(site.config), environment, cwd)
    require_variables(configured.storages[database.name][0])
    return *configured.storages[database.name], configured.imports


def _file_storage(directory: Path) -> tuple[Section, Surroundings]:
    return data_fs_section(str(directory / "Data.fs"), str(directory / "blobs"))


def _lines(
    section: Section, around: Surroundings, name: str | None, read_only: bool, indent: str = ""
) -> Iterator[str]:
    """Yield the lines of a storage section and of the sections in it.

    A ``<zrs>`` section is left out: replication would begin when the storage is opened.
    """
    if section.type == "zrs":
        yield from _lines(only_storage(section), around, name, read_only, indent)
        return
    yield f"{indent}<{section.type}{f' {name}' if name else ''}>"
    conversion = _conversion(section.type)
    for value in section.values:
        key, text = spelled(section, value), around.text(value)
        if text and key not in conversion.dropped:
            yield f"{indent}  {key} {_quoted(text, key, value.where)}"
    if read_only and conversion.read_only:
        yield f"{indent}  read-only true"
    for inner in section.sections:
        yield from _lines(inner, around, inner.name, read_only, indent + "  ")
    yield f"{indent}</{section.type}>"


def _quoted(text: str, key: str, where: str) -> str:
    """Return a value in the notation that ZConfig reads as this text.

    Raise ConfigurationError when there is no such notation.
    """
    try:
        text.encode()
        if text.strip() == text and len(text.splitlines()) == 1:
            return text.replace("$", "$$")
    except UnicodeEncodeError:
        pass
    what = f"the value of {key}" if may_be_named(key) else "the value of a key"
    raise ConfigurationError(
        [f"{where}: {what} cannot be written to a configuration file"],
        "values are one line of UTF-8, without blanks around them; "
        "check the environment variables and paths it is made of",
    )


def _one_line(text: str) -> str:
    """Return text without line breaks and control characters, for a comment."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def _conversion(section_type: str) -> Conversion:
    """Return the conversion of a section.

    It is empty for a section that is no storage, or that no package registers.
    """
    if section_type in WRAPPERS:
        return WRAPPERS[section_type]
    backend = section_backend(section_type)
    return backend.conversion(section_type) if backend else Conversion()


def _imports(section: Section, imported: list[str]) -> list[str]:
    """Return the packages that the section types need.

    If a type is unknown, all imports of the site are added.
    """
    types = [inner.type for inner in section.walk() if inner.type != "zrs"]
    packages: dict[str, str | None] = {}
    for type_ in types:
        if type_ not in packages:
            packages |= _conversion(type_).packages
    needed = [] if all(type_ in packages for type_ in types) else imported
    return list(dict.fromkeys([*needed, *(package for type_ in types if (package := packages.get(type_)))]))


def _warnings(database: Database, direction: Direction) -> list[str]:
    """Return the known defects and limits of zodb-convert for a storage."""
    wrapped = "s3blobs" in database.wrappers
    if direction == "import":
        return [NEW_TIDS] if wrapped else []
    warnings = [COMPRESSED] if "serverzlibstorage" in database.wrappers else []
    warnings += [REFUSES_S3] if wrapped else []
    backend = section_backend(database.backend)
    return warnings + (backend.export_warnings(database) if backend else [])
