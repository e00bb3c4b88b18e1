"""Write configurations of zodb-convert for a site: one file per database, readable only by its owner."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from ..config.convertconf import Direction, convert_conf
from ..errors import NothingToBackUp, TargetRefused, UsageError
from ..model.source import Database, Site
from ..runtime import durable
from ..runtime.new_files import NewFiles
from ..strategies.base import folder_of

# The files contain the passwords of the storages.
NEW_FILES: Final = NewFiles(file_mode=0o600, directory_mode=0o700)


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration for one database, to be written to ``path``; the FileStorage is in ``directory``."""

    database: str
    direction: Direction
    path: Path
    directory: Path
    text: str
    warnings: list[str]


def configurations(
    site: Site,
    direction: Direction,
    names: Sequence[str],
    output: Path | None,
    directory: Path,
    environment: Mapping[str, str],
) -> list[Configuration]:
    """Return a configuration for each database, or for those with these names; nothing is written.

    Raise UsageError, NothingToBackUp, ConfigurationError.
    """
    databases = _choose(site, names)
    if output is not None and len(databases) > 1:
        known = ", ".join(database.name for database in databases)
        raise UsageError(
            f"--output names one file, but there are {len(databases)} databases: {known}",
            "choose one of them with --database NAME",
        )
    only_one = len(site.databases) == 1
    made = []
    for database in databases:
        folder = folder_of(database.name)
        target = directory if only_one else directory / folder
        name = f"convert-{direction}.conf" if only_one else f"convert-{direction}-{folder}.conf"
        _refuse_site_itself(database, target)
        conf = convert_conf(site, database, direction, target, environment, Path.cwd())
        made.append(
            Configuration(
                database=database.name,
                direction=direction,
                path=output or Path.cwd() / name,
                directory=target,
                text=conf.text,
                warnings=conf.warnings + _warnings(target, direction),
            )
        )
    return made


def write(made: Sequence[Configuration], *, force: bool) -> None:
    """Write the files with mode 0600, and create the directories for an export.

    Without ``force``, raise TargetRefused when a file exists, before anything is written.
    """
    existing = [one.path for one in made if os.path.lexists(one.path)]
    if existing and not force:
        raise _refused(existing[0])
    for one in made:
        if one.direction == "export":
            durable.make_directories(one.directory, NEW_FILES)
        _write(one.path, one.text.encode(), force)


def _write(path: Path, data: bytes, force: bool) -> None:
    """Write a file that is at no time readable for others; an existing one is replaced as a whole."""
    if force:
        durable.write_atomically(path, [data], exclusive=False, new=NEW_FILES)
        return
    # reserve the name: two commands at the same time must not both believe that the file is new
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, NEW_FILES.file_mode))
    except FileExistsError:
        raise _refused(path) from None
    try:
        durable.write_atomically(path, [data], exclusive=False, new=NEW_FILES)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def _refused(path: Path) -> TargetRefused:
    return TargetRefused(
        f"{path} already exists", "replace it with --force, or write another file with --output"
    )


def _choose(site: Site, names: Sequence[str]) -> list[Database]:
    if not site.databases:
        reasons = "; ".join(f"{one.name}: {one.why}" for one in site.skipped)
        raise NothingToBackUp(f"the site {site.name} has no persistent database", reasons)
    known = [database.name for database in site.databases]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UsageError(f"there is no database {', '.join(unknown)}", f"known: {', '.join(known)}")
    return [database for database in site.databases if not names or database.name in names]


def _refuse_site_itself(database: Database, directory: Path) -> None:
    """Raise UsageError when the FileStorage for the conversion would be that of the site."""
    pairs = ((database.data_fs, directory / "Data.fs"), (database.blob_dir, directory / "blobs"))
    for of_site, converted in pairs:
        if of_site and os.path.realpath(of_site) == os.path.realpath(converted):
            raise UsageError(
                f"{converted} belongs to the site itself", "use another directory with --directory"
            )


def _warnings(directory: Path, direction: Direction) -> list[str]:
    """Return what is wrong with the directory of the FileStorage for this direction."""
    exists = (directory / "Data.fs").exists()
    if direction == "export" and exists:
        return [
            f"{directory} already has a Data.fs: use `zodb-convert --incremental`, "
            "or another directory with --directory"
        ]
    if direction == "import" and not exists:
        return [f"there is no Data.fs in {directory} yet"]
    return []
