"""Find the databases of a site in a zope.conf, a zeo.conf, or a configuration of zodbpack or zodb-convert.

Each ``<zodb_db>`` or ``<zodb>`` section is a database. In a file without them, each storage section is one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..errors import ConfigurationError
from ..model.source import Database, Option, Site, Skipped
from ..policy.scope import bucket
from .paths import absolute
from .sections import UNSET_HINT, Section, Tree
from .storages import (
    NOT_STORAGES,
    Surroundings,
    is_storage,
    left_open,
    misspelled,
    only_storage,
    read_storage,
    require_variables,
)


class DatabaseSection(NamedTuple):
    """A database of the file: its name, its mount point, and the section of its storage."""

    name: str
    mount_point: str | None
    section: Section


def read_site(path: Path, site_name: str, environment: Mapping[str, str], cwd: Path | None = None) -> Site:
    """Return the site that a zope.conf, a zeo.conf or a file of storages describes; no storage is opened.

    Raise ConfigurationError with the problems of all databases, each with file and line.
    """
    here = cwd or Path.cwd()
    file = Path(absolute(path, here))
    tree = _tree(file, environment)
    return _site(file, site_name, tree, _found(file, tree.root), environment, here)


def read_zope_conf(
    path: Path, site_name: str, environment: Mapping[str, str], cwd: Path | None = None
) -> Site:
    """Return the site of a zope.conf; a file of storages is read as well.

    Raise ConfigurationError as ``read_site``.
    """
    return read_site(path, site_name, environment, cwd)


def read_zeo_conf(
    path: Path, site_name: str, environment: Mapping[str, str], cwd: Path | None = None
) -> Site:
    """Return the site that a ZEO server serves: one database per storage, named as clients name it.

    Raise ConfigurationError as ``read_site``, and for a zope.conf.
    """
    here = cwd or Path.cwd()
    file = Path(absolute(path, here))
    tree = _tree(file, environment)
    if _databases(tree.root):
        raise ConfigurationError(
            [f"{file} is no zeo.conf: it has <zodb_db> sections"], "pass it as --zope-conf or zope_conf"
        )
    return _site(file, site_name, tree, _found(file, tree.root), environment, here)


class StorageSections(NamedTuple):
    """The storages of a file by the names of their databases, and the packages of ``%import``.

    Each storage has its surroundings, which resolve its paths.
    """

    storages: dict[str, tuple[Section, Surroundings]]
    imports: list[str]


def read_storages(path: Path, environment: Mapping[str, str], cwd: Path) -> StorageSections:
    """Return the unchanged storage sections of a file.

    Raise ConfigurationError as ``read_site``.
    """
    file = Path(absolute(path, cwd))
    tree = _tree(file, environment)
    base, reason = _base(tree, cwd)
    found = _found(file, tree.root)
    around = {
        one.name: Surroundings(one.name, one.mount_point, base, reason, environment, cwd) for one in found
    }
    return StorageSections({one.name: (one.section, around[one.name]) for one in found}, tree.imports)


def _tree(file: Path, environment: Mapping[str, str]) -> Tree:
    # imported here, because importing ZConfig takes longer than the rest of a short command
    from .sectionparser import read_tree

    return read_tree(file, environment)


def _databases(root: Section) -> list[Section]:
    return [section for section in root.sections if section.type in ("zodb_db", "zodb")]


def _found(file: Path, root: Section) -> list[DatabaseSection]:
    """Return the databases of a file.

    Raise ConfigurationError when there is none or two have the same name.
    """
    databases = _databases(root)
    found = _in_databases(databases) if databases else _on_their_own(root)
    if not found:
        raise ConfigurationError(
            [f"{file} describes no database: it has neither <zodb_db> nor <zodb> nor a storage"],
            "pass the zope.conf or zeo.conf that the site runs with",
        )
    first: dict[str, Section] = {}
    issues = [
        f"{one.section.where}: a second database is called {one.name!r}, "
        f"the first one is in {first[one.name].where}"
        for one in found
        if first.setdefault(one.name, one.section) is not one.section
    ]
    if issues:
        raise ConfigurationError(issues, "give every database a name of its own")
    return found


def _in_databases(sections: list[Section]) -> list[DatabaseSection]:
    found: list[DatabaseSection] = []
    issues: list[str] = []
    for section in sections:
        try:
            name = section.text("database-name") or section.name or "main"
            found.append(
                DatabaseSection(name, ", ".join(section.texts("mount-point")) or None, only_storage(section))
            )
        except ConfigurationError as error:
            issues += error.issues
    if issues:
        raise ConfigurationError(issues)
    return found


def _on_their_own(root: Section) -> list[DatabaseSection]:
    """Return the storages outside of database sections.

    The default name is ``1`` for a storage of a ZEO server, ``main`` for others.
    """
    served = any(section.type == "zeo" for section in root.sections)
    storages = [s for s in root.sections if s.type not in NOT_STORAGES and (served or is_storage(s.type))]
    found: list[DatabaseSection] = []
    for section in storages:
        name = section.name or ("1" if served else "main")
        taken = {one.name for one in found}
        if not section.name and name in taken and not served:
            name = next(f"{name}-{n}" for n in range(2, len(storages) + 2) if f"{name}-{n}" not in taken)
        found.append(DatabaseSection(name, None, section))
    return found


def _site(
    file: Path,
    site_name: str,
    tree: Tree,
    found: list[DatabaseSection],
    environment: Mapping[str, str],
    cwd: Path,
) -> Site:
    base, reason = _base(tree, cwd)
    databases: list[Database] = []
    skipped: list[Skipped] = []
    issues: list[str] = []
    hints: list[str] = []
    for one in found:
        around = Surroundings(one.name, one.mount_point, base, reason, environment, cwd)
        try:
            require_variables(one.section)
            result = _skipped_target(one, found) or read_storage(one.section, around)
            server = _server(tree.root, around)
        except ConfigurationError as error:
            issues += error.issues
            hints.append(error.hint)
            continue
        if isinstance(result, Skipped):
            skipped.append(result)
        else:
            databases.append(_finished(result, one, around, server))
    if shared := _shared(databases, {one.name: one.section.where for one in found}):
        issues += shared
        hints.append(
            "give every database its own Data.fs and its own blob directory: "
            "a pack of one database removes the blobs of the other"
        )
    if issues:
        raise ConfigurationError(issues, "\n".join(dict.fromkeys(filter(None, hints))))
    return Site(name=site_name, config=str(file), databases=tuple(databases), skipped=tuple(skipped))


def _shared(databases: list[Database], places: Mapping[str, str]) -> list[str]:
    """Return a problem for each thing that two databases share by mistake.

    It is a Data.fs, a blob directory (also under another path), or a bucket with the same prefix.
    """
    issues: list[str] = []
    first: dict[str, str] = {}
    for one in databases:
        blobs = one.blob_dir if one.blob_mode == "directory" else None
        objects = bucket(one) if "s3" in one.blob_mode else None
        for what, path in (
            ("Data.fs", one.data_fs),
            ("blob directory", blobs),
            ("bucket and prefix", objects),
        ):
            known = path and (path.rstrip("/") if path is objects else os.path.realpath(path))
            if known and (other := first.setdefault(known, one.name)) != one.name:
                issues.append(
                    f"{places[one.name]}: the databases {other} and {one.name} have the same {what} {path}"
                )
    return issues


def _skipped_target(one: DatabaseSection, found: list[DatabaseSection]) -> Skipped | None:
    """Skip the destination in a configuration of zodb-convert."""
    if (
        one.mount_point is None
        and {f.name for f in found} == {"source", "destination"}
        and one.name == "destination"
    ):
        return Skipped(one.name, "it is the destination of a conversion")
    return None


def _server(root: Section, around: Surroundings) -> dict[str, Option]:
    """Return the options of the ``<zeo>`` section of a server, such as its address."""
    served = [section for section in root.sections if section.type == "zeo"]
    if not served:
        return {}
    served[0].texts("address")  # raises when its variable is not set: it tells whether the server runs
    return around.options(served[0], "zeo.")


def _finished(
    database: Database, one: DatabaseSection, around: Surroundings, server: dict[str, Option]
) -> Database:
    notes = [note for section in one.section.walk() for note in section.notes]
    warnings = dict.fromkeys(
        [*database.warnings, *left_open(database), *around.notes, *misspelled(one.section), *notes]
    )
    return msgspec.structs.replace(database, options=database.options | server, warnings=tuple(warnings))


def _base(tree: Tree, cwd: Path) -> tuple[Path, str]:
    """Return the directory that relative paths are resolved in, and where it is configured."""
    home = tree.root.text("instancehome")
    if home:
        return Path(absolute(home, cwd)), "instancehome"
    runner = next(
        (section.text("directory") for section in tree.root.sections if section.type == "runner"), None
    )
    if runner:
        return Path(absolute(runner, cwd)), "directory of <runner>"
    for name in ("instancehome", "instance"):
        if name in tree.unset:
            raise ConfigurationError(list(tree.unset[name]), UNSET_HINT)
        if tree.defines.get(name):
            return Path(absolute(tree.defines[name], cwd)), f"%define {name.upper()}"
    return cwd, "the working directory"
