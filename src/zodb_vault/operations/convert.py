"""Write the configurations of zodb-convert for a site: one file per database, for nobody else to read."""

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
from ..strategies.base import folder_of

MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """What copies one database: ``text`` goes to ``path``, the FileStorage on the other side is in ``directory``."""

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
    """Return a configuration per database (``names``: of these only); nothing is written.

    Raise UsageError, NothingToBackUp, ConfigurationError.
    """
    databases = _chosen(site, names)
    if output is not None and len(databases) > 1:
        known = ", ".join(database.name for database in databases)
        raise UsageError(
            f"one file describes one database, and there are {len(databases)}: {known}",
            "choose one with --database NAME",
        )
    alone = len(site.databases) == 1
    made = []
    for database in databases:
        folder = folder_of(database.name)
        place = directory if alone else directory / folder
        _refuse_itself(database, place)
        conf = convert_conf(site, database, direction, place, environment, Path.cwd())
        path = output or Path.cwd() / (
            f"convert-{direction}.conf" if alone else f"convert-{direction}-{folder}.conf"
        )
        made.append(
            Configuration(
                database=database.name,
                direction=direction,
                path=path,
                directory=place,
                text=conf.text,
                warnings=conf.warnings + _doubts(place, direction),
            )
        )
    return made


def write(made: Sequence[Configuration], *, force: bool) -> None:
    """Write the files with mode 0600, and make the directories that an export goes to.

    Raise TargetRefused, before anything is written, when a file is there already, unless ``force``.
    """
    there = [one.path for one in made if os.path.lexists(one.path)]
    if there and not force:
        raise _refused(there[0])
    for one in made:
        if one.direction == "export":
            durable.make_directories(one.directory, DIRECTORY_MODE)
        _write(one.path, one.text.encode(), force)


def _write(path: Path, data: bytes, force: bool) -> None:
    """Write a file that never is readable for others; what was under its name keeps its own mode and is let go."""
    if force:
        durable.write_atomically(path, [data], exclusive=False, mode=MODE)
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE))
    except FileExistsError:
        raise _refused(path) from None
    try:
        durable.write_atomically(path, [data], exclusive=False, mode=MODE)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def _refused(path: Path) -> TargetRefused:
    return TargetRefused(
        f"{path} exists already", "give --force to replace it, or another name with --output"
    )


def _chosen(site: Site, names: Sequence[str]) -> list[Database]:
    if not site.databases:
        raise NothingToBackUp(
            f"the site {site.name} has no persistent database",
            "; ".join(f"{one.name}: {one.why}" for one in site.skipped),
        )
    known = [database.name for database in site.databases]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UsageError(f"there is no database {', '.join(unknown)}", f"known: {', '.join(known)}")
    return [database for database in site.databases if not names or database.name in names]


def _refuse_itself(database: Database, directory: Path) -> None:
    """Raise UsageError when the FileStorage on the other side would be the site's own."""
    pairs = ((database.data_fs, directory / "Data.fs"), (database.blob_dir, directory / "blobs"))
    for theirs, ours in pairs:
        if theirs and os.path.realpath(theirs) == os.path.realpath(ours):
            raise UsageError(f"{ours} belongs to the site itself", "name another directory with --directory")


def _doubts(directory: Path, direction: Direction) -> list[str]:
    """Return what stands in the way of the conversion on the side of the FileStorage."""
    exists = (directory / "Data.fs").exists()
    if direction == "export" and exists:
        return [
            f"{directory} holds a Data.fs already: use `zodb-convert --incremental`, or another directory with --directory"
        ]
    if direction == "import" and not exists:
        return [f"there is no Data.fs in {directory} yet"]
    return []
