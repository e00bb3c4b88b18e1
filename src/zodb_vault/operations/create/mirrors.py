"""Bring the mirrors of the portable method up to date, and lock them until the backup is made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from ...config.convertconf import ONLY_CURRENT, source_conf
from ...errors import ConfigurationError, SourceChanged, UsageError
from ...model.source import Database, Method, Site
from ...repository.repository import Repository
from ...runtime.progress import Progress
from ...strategies.backend_lookup import backend_of
from ...strategies.base import folder_of
from ...strategies.portable.mirror import Checked, Mirror, held
from ...strategies.portable.reader import Source
from ...strategies.portable.sync import Renew, Update, Updated

ATTEMPTS: Final = 4
PASSES: Final = 5


class Mirrored(NamedTuple):
    """The databases to back up, with mirrors in place of their sources.

    ``outdated`` tells whether the source of a mirror has newer transactions than the mirror.
    """

    databases: list[Database]
    outdated: Callable[[], bool]


class MirrorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How mirrors are brought up to date.

    ``directory`` is where they are, None for the directory in the configuration of the site. ``afresh``
    copies everything again. ``take_over`` allows another source for an existing mirror.
    """

    directory: Path | None = None
    afresh: bool = False
    take_over: bool = False
    machine: str


def is_mirrored(database: Database, method: Method) -> bool:
    """Tell whether a method copies a database into a mirror; a FileStorage with its blobs needs no mirror."""
    return backend_of(database).method(database, method) == "portable"


def mirror_of(site: Site, database: Database, directory: Path | None) -> Path:
    """Return the directory of the mirror of one database; raise UsageError when there is none."""
    root = directory or (Path(site.mirror) if site.mirror else None)
    if root is None:
        raise UsageError("no directory is given for the mirror of the database", "give --mirror DIR")
    return root.absolute() / folder_of(database.name)


def as_mirrored(database: Database, mirror: Mirror) -> Database:
    """Return a database with the paths of its mirror."""
    notes = (ONLY_CURRENT,) if database.history is False else ()
    return msgspec.structs.replace(
        database,
        data_fs=str(mirror.data_fs),
        blob_dir=str(mirror.blob_dir),
        method="portable",
        warnings=(*database.warnings, *notes),
        blob_mode="database" if database.blob_mode == "none" else database.blob_mode,
    )


@contextlib.contextmanager
def mirrored(
    repository: Repository,
    site: Site,
    databases: list[Database],
    method: Method,
    wanted: MirrorOptions,
    progress: Progress,
) -> Iterator[Mirrored]:
    """Give the databases to back up, after their mirrors were locked and brought up to date.

    Raise UsageError, InUse, TargetRefused, SourceError, SourceChanged, WrongSource. After an error, the next
    run uses what was copied.
    """
    chosen = [database for database in databases if is_mirrored(database, method)]
    directories = {database.name: mirror_of(site, database, wanted.directory) for database in chosen}
    for database in chosen:
        refuse_directory(directories[database.name], repository, site)
    with contextlib.ExitStack() as stack:
        copies = [
            _DatabaseMirror(
                site, database, stack.enter_context(held(directories[database.name])), wanted, progress
            )
            for database in chosen
        ]
        checked = _bring_up_to_date(copies, len(databases))
        seen = {copy.database.name: as_mirrored(copy.database, copy.mirror) for copy in copies}
        yield Mirrored(
            [seen.get(database.name, database) for database in databases],
            lambda: any(copy.is_outdated(one) for copy, one in zip(copies, checked, strict=True)),
        )


def _bring_up_to_date(copies: list[_DatabaseMirror], databases: int) -> list[Checked]:
    """Copy what is new; with several databases, until a pass finds nothing new, at most ``PASSES`` times.

    After a pass without anything new, the mirrors belong to one point in time.
    """
    updated = [copy.update(first=True) for copy in copies]
    for _ in range(PASSES if databases > 1 else 0):
        updated = [copy.update(first=False) for copy in copies]
        if not any(one.transactions for one in updated):
            break
    return [one.checked for one in updated]


def refuse_directory(directory: Path, repository: Repository, site: Site) -> None:
    """Raise ConfigurationError when a mirror contains the repository or a path of the site, or is in it."""
    own = directory.resolve()
    others = {} if "://" in repository.store.location else {"the repository": repository.store.location}
    for database in site.databases:
        others |= {
            f"the blob directory of {database.name}": database.blob_dir or "",
            f"the Data.fs of {database.name}": database.data_fs or "",
        }
    for what, path in others.items():
        other = Path(path).resolve()
        if path and (own == other or own in other.parents or other in own.parents):
            raise ConfigurationError(
                [f"one of the mirror {own} and {what} ({other}) contains the other"],
                "name another directory with --mirror",
            )


class _DatabaseMirror:
    """One database and its mirror."""

    def __init__(
        self, site: Site, database: Database, mirror: Mirror, wanted: MirrorOptions, progress: Progress
    ) -> None:
        self.database, self.mirror = database, mirror
        self._site, self._wanted, self._progress = site, wanted, progress

    def update(self, *, first: bool) -> Updated:
        """Bring the mirror up to date.

        When the source is packed during the copy, the copy starts again.
        """
        renew: Renew = "everything" if first and self._wanted.afresh else None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._once(renew)
            except SourceChanged as error:
                if attempt == ATTEMPTS:
                    raise
                renew = "records"
                self._progress.note(f"{error.message}; starting over ({attempt} of {ATTEMPTS - 1})")
        raise AssertionError("unreachable")

    def _once(self, renew: Renew) -> Updated:
        with self._open() as source:
            update = Update(self.mirror, source, self._wanted.machine, self._progress)
            return update.run(renew=renew, take_over=self._wanted.take_over)

    def is_outdated(self, checked: Checked) -> bool:
        """Tell whether the source has newer transactions than the mirror, whose checked part is given."""
        last = int(checked.last_tid or "0", 16)
        with self._open() as source:
            return int.from_bytes(source.last_tid(), "big") != last

    def _open(self) -> AbstractContextManager[Source]:
        return opened(self._site, self.database, self.mirror.cache)


@contextlib.contextmanager
def opened(site: Site, database: Database, cache: Path) -> Iterator[Source]:
    """Give the open storage of a database, as the portable method reads it; ``cache`` is for its blobs.

    Raise ConfigurationError, SourceError.
    """
    text = source_conf(site, database, os.environ, Path.cwd(), cache)
    with contextlib.closing(Source(database, backend_of(database), text, cache)) as source:
        yield source
