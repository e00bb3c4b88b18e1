"""Write the configurations of zodb-convert for a database: from a site into a FileStorage, or back.

And the one a storage is copied with.

The site's storage is taken from its configuration section by section, wrappers with it; only what one of the
two roles cannot have is changed. The files around the storages are ``convert-export.conf`` and
``convert-import.conf`` beside this module.
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
from .storages import Surroundings, data_fs_section, only_storage, section_backend, spelled
from .zopeconf import read_storages

Direction = Literal["export", "import"]

# The sections that wrap a storage; what is special about a storage itself its backend says.
WRAPPERS: Mapping[str, Conversion] = {
    "blobstorage": Conversion(packages={"blobstorage": None}),
    "s3blobstorage": Conversion(
        packages={"s3blobstorage": "zodb_s3blobs"}, not_copied=frozenset({"cache-dir", "cache-size"})
    ),
    "serverzlibstorage": Conversion(packages={"serverzlibstorage": "zc.zlibstorage"}),
    "zlibstorage": Conversion(packages={"zlibstorage": "zc.zlibstorage"}),
}
# What says where blobs are cached: a matter of the site, not of the program that copies it.
CACHED = {"blob-cache-size", "blob-cache-size-check", "blob-dir", "shared-blob-dir"}
REFUSES_S3 = (
    "zodb-convert 1.0.0b12 refuses <s3blobstorage> as a source (it does not say that it can be iterated)"
)
NEW_TIDS = (
    "<s3blobstorage> as a destination gives every transaction a new TID: backups of the source do not "
    "continue in it"
)
COMPRESSED = (
    "<serverzlibstorage> hands records on as they are: the copy is compressed, what opens it needs "
    "<zlibstorage> around it"
)
ONLY_CURRENT = (
    "a RelStorage without history has only the current revision of each object, without users and "
    "descriptions"
)


class ConvertConf(NamedTuple):
    """The text of a configuration, secrets included, and what has to be known before it is used."""

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

    Raise ConfigurationError for what ZConfig could not read back.
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
    """Return the configuration of a database's storage alone, secrets included.

    Opened for reading only, blobs cached in ``cache``.

    Wrappers that only compress records are left out, so that these are read as they are stored. A directory
    that is the authority for the blobs stays. Raise ConfigurationError for what ZConfig could not read back.
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

    A directory that is the authority for the blobs stays.
    """
    wrapper, conversion = section.type == "s3blobstorage", _conversion(section.type)
    if not conversion.read_only and not wrapper:
        return section
    dropped = conversion.not_copied | (frozenset() if authoritative else CACHED)
    changed = Section(section.type, section.name, section.where)
    changed.values = [value for value in section.values if value.key not in dropped]
    changed.sections = [_without_blobs(only_storage(section))] if wrapper else section.sections
    if wrapper:
        # larger than any blob, which would be gone before it can be copied
        changed.values += [
            _value("cache-dir", str(cache), section),
            _value("cache-size", "1048576GB", section),
        ]
    elif not authoritative:
        changed.values.append(_value("blob-dir", str(cache), section))
    changed.values += [_value(key, text, section) for key, text in conversion.added]
    return changed


def _without_blobs(section: Section) -> Section:
    """Return a storage whose blobs are with its wrapper."""
    changed = _for_copying(section, authoritative=True, cache=Path())
    changed.values = [value for value in changed.values if value.key not in CACHED]
    return changed


def _value(key: str, text: str, section: Section) -> Value:
    return Value(key, key, text, section.where)


def _storage(
    site: Site, database: Database, environment: Mapping[str, str], cwd: Path
) -> tuple[Section, Surroundings, list[str]]:
    """Return the section that a database's storage is configured with, and what its file imports.

    One is made for a bare Data.fs.
    """
    if site.config is None:
        return *data_fs_section(database.data_fs or "", database.blob_dir), []
    configured = read_storages(Path(site.config), environment, cwd)
    return *configured.storages[database.name], configured.imports


def _file_storage(directory: Path) -> tuple[Section, Surroundings]:
    return data_fs_section(str(directory / "Data.fs"), str(directory / "blobs"))


def _lines(
    section: Section, around: Surroundings, name: str | None, read_only: bool, indent: str = ""
) -> Iterator[str]:
    """Yield the lines of a storage section and of the sections in it.

    A replication is left out: it would begin when the storage is opened.
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
    """Return a value as it has to be written for ZConfig to read this text.

    Raise ConfigurationError when no way of writing does.
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
        "values are one line of UTF-8, without blanks around them; check the environment variables and "
        "paths it is made of",
    )


def _one_line(text: str) -> str:
    """Return text that stays within a comment."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def _conversion(section_type: str) -> Conversion:
    """Return what is special about a section.

    Nothing about one that is no storage, or that no package registers.
    """
    if section_type in WRAPPERS:
        return WRAPPERS[section_type]
    backend = section_backend(section_type)
    return backend.conversion(section_type) if backend else Conversion()


def _imports(section: Section, imported: list[str]) -> list[str]:
    """Return the packages that the types of sections need.

    All of the site's own where one of them is not known.
    """
    types = [inner.type for inner in section.walk() if inner.type != "zrs"]
    packages: dict[str, str | None] = {}
    for type_ in types:
        if type_ not in packages:
            packages |= _conversion(type_).packages
    needed = [] if all(type_ in packages for type_ in types) else imported
    return list(dict.fromkeys([*needed, *(package for type_ in types if (package := packages.get(type_)))]))


def _warnings(database: Database, direction: Direction) -> list[str]:
    """Return what zodb-convert is known to do wrong with a storage, or cannot do."""
    wrapped = "s3blobs" in database.wrappers
    if direction == "import":
        return [NEW_TIDS] if wrapped else []
    warnings = [COMPRESSED] if "serverzlibstorage" in database.wrappers else []
    warnings += [REFUSES_S3] if wrapped else []
    backend = section_backend(database.backend)
    return warnings + (backend.export_warnings(database) if backend else [])
