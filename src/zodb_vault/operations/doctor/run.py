"""Find out whether backups of a site can be made and restored here, before they have to be.

Every check runs, whatever the others found. What is not there for a check to look at is a finding of that check. Nothing is changed
but for a probe in the repository, which is removed again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from ...blobs.layout import TEMPORARY, detect
from ...config.settings import Settings
from ...errors import KeyMissing, StoreError, VaultError
from ...model.manifest import Manifest
from ...model.source import Database, Site
from ...repository import markers
from ...repository.ids import id_time
from ...repository.repository import Repository
from ...stores.base import Store
from ...strategies.blobs.probe import second_opinion
from ...strategies.blobs.s3 import BlobBucket, wrapper_key
from ...strategies.filestorage.datafile import DataFile
from ..catalog import Catalog, stored_size
from ..create.eligibility import refuse_overlap, refused
from ..create.plan import plan
from ..restore import journal as journals
from .packages import (
    ALWAYS,
    BACKENDS,
    BOTO3,
    PSYCOPG2,
    PYRAGE,
    TOOLS,
    WRAPPERS,
    Package,
    check_package,
    check_tool,
)
from .store_probe import Check, abilities, access, clocks, guarded, locks

T = TypeVar("T")

# Nobody waits for a walk over millions of blobs: after so many the answer is "at least".
MOST_BLOBS: Final = 200_000


class Patient:
    """What there is to look at, each found out when it is first asked for.

    Whoever asks first gets the error of what cannot be had; the others hear that it was not there for them.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        site_name: Callable[[], str],
        site: Callable[[], Site],
        repository: Callable[[], Repository],
    ) -> None:
        self._sources = {
            "configuration": settings,
            "name of the site": site_name,
            "site": site,
            "repository": repository,
        }
        self._found: dict[str, object] = {}

    def _get(self, what: str, kind: type[T], make: Callable[[], object]) -> T:
        if what not in self._found:
            try:
                self._found[what] = make()
            except BaseException as error:
                self._found[what] = error
                raise
        found = self._found[what]
        if isinstance(found, BaseException):
            raise VaultError(
                f"not checked: the {what} is not known",
                "correct what is said of it above, and run this again",
            )
        assert isinstance(found, kind)
        return found

    @property
    def settings(self) -> Settings:
        """Return the configuration."""
        return self._get("configuration", Settings, self._sources["configuration"])

    @property
    def site_name(self) -> str:
        """Return the name of the site, which may be known when the site is not."""
        _ = self.settings
        return self._get("name of the site", str, self._sources["name of the site"])

    @property
    def site(self) -> Site:
        """Return the site with its databases."""
        _ = self.site_name
        return self._get("site", Site, self._sources["site"])

    @property
    def repository(self) -> Repository:
        """Return the repository."""
        _ = self.settings
        return self._get("repository", Repository, self._sources["repository"])

    @property
    def catalog(self) -> Catalog:
        """Return the backups of the site."""
        repository, name = self.repository, self.site_name
        return self._get("list of backups", Catalog, lambda: Catalog(repository, name))

    @property
    def newest(self) -> Manifest | None:
        """Return the newest whole backup that can be read."""
        return next((one.manifest for one in self.catalog.readable() if one.manifest.whole), None)


def examine(patient: Patient) -> list[Check]:
    """Return the result of every check, in the order in which they depend on each other."""
    return [check for name, checks in CHECKS for check in guarded(name, partial(checks, patient))]


def _per_database(
    name: str, look: Callable[[Patient, Database], Iterable[Check]]
) -> Callable[[Patient], Iterator[Check]]:
    """Return a check of every database by itself."""

    def checks(patient: Patient) -> Iterator[Check]:
        for database in patient.site.databases:
            yield from guarded(f"{name} {database.name}", partial(look, patient, database))

    return checks


# configuration


def _configuration(patient: Patient) -> Iterator[Check]:
    file = patient.settings.file
    yield Check(
        "configuration",
        True,
        f"read from {file}" if file else "no zodb-vault.toml; options and variables say everything",
    )


def _site(patient: Patient) -> Iterator[Check]:
    site = patient.site
    if not site.databases:
        why = "; ".join(f"{one.name}: {one.why}" for one in site.skipped)
        yield Check("site", False, f"the site {site.name} has no persistent database of its own", why or None)
        return
    kinds = ", ".join(f"{one.name} ({one.backend}, blobs: {one.blob_mode})" for one in site.databases)
    yield Check("site", True, f"{site.name}: {kinds}")
    # what the reader of the configuration had doubts about
    yield from (
        Check(f"notes {one.name}", True, "; ".join(one.warnings)) for one in site.databases if one.warnings
    )


# what is installed


def _packages(patient: Patient) -> Iterator[Check]:
    for package in ALWAYS:
        yield check_package(package)
    location = patient.settings.repository.location or ""
    if location.startswith("s3://"):
        yield check_package(BOTO3)
    if patient.settings.repository.encryption.recipients:
        yield check_package(PYRAGE)


def _packages_of_site(patient: Patient) -> Iterator[Check]:
    needed: dict[Package, None] = {}
    for database in patient.site.databases:
        needed |= dict.fromkeys(BACKENDS.get(database.backend, ()))
        needed |= dict.fromkeys(WRAPPERS[wrapper] for wrapper in database.wrappers if wrapper in WRAPPERS)
        if database.adapter == "postgresql":
            needed[PSYCOPG2] = None
        if "s3" in database.blob_mode:
            needed[BOTO3] = None
    for package in needed:
        yield check_package(package)


def _tools(patient: Patient) -> Iterator[Check]:
    adapters = dict.fromkeys(database.adapter for database in patient.site.databases if database.adapter)
    for names in dict.fromkeys(names for adapter in adapters for names in TOOLS.get(adapter, ())):
        yield from guarded(f"tool {names[0]}", partial(check_tool, names))


# the site


def _source(patient: Patient, database: Database) -> Iterator[Check]:
    name = f"source {database.name}"
    if refusal := refused(database):
        yield Check(name, False, refusal.message, refusal.hint)
        return
    if database.data_fs is None:  # whether a database in a server answers is a check of its own
        return
    data_fs = Path(database.data_fs)
    file = DataFile(data_fs)
    file.close()
    journal = journals.read(journals.path_of(data_fs))
    if journal is not None:
        hint = f"run `zodb-vault restore {journal.backup}` again, which finishes it, or `zodb-vault restore --abort`"
        yield Check(
            name,
            False,
            f"a restore of {journal.backup} into {data_fs} has begun and not ended ({journal.phase})",
            hint,
        )
        return
    yield Check(name, True, f"{data_fs} can be read, {_bytes(data_fs.stat().st_size)}")


def _database(_patient: Patient, database: Database) -> Iterator[Check]:
    """Ask a database in a server whether it is there, and holds its blobs where the configuration says."""
    opinion = second_opinion(database)
    if opinion is None:
        return
    hint = "run this where and as whom backups are made; the database has to be up, and to let that user read"
    yield Check(
        f"database {database.name}",
        opinion.asked,
        "; ".join(opinion.warnings) or "it answers, and its blobs are where they should be",
        hint,
    )


def _blobs(patient: Patient, database: Database) -> Iterator[Check]:
    if "s3" in database.blob_mode:
        yield _bucket(database)
    if database.blob_mode != "directory" or database.blob_dir is None:
        return
    name, path = f"blobs {database.name}", Path(database.blob_dir)
    layout = detect(path)
    sample = next(_blob_files(path), None)
    if sample is None:
        yield Check(name, True, f"{path}: layout {layout}, no blobs")
        return
    with sample.open("rb") as file:
        file.read(1)
    yield Check(name, True, f"{path}: layout {layout}, can be read")


def _bucket(database: Database) -> Check:
    name, bucket = f"blobs {database.name}", BlobBucket(database, wrapper_key)
    try:
        used = bucket.is_used()
    except StoreError as error:
        return Check(name, False, error.message, error.hint)
    return Check(name, True, f"{bucket.root}: {'there are objects of blobs' if used else 'no blobs'}")


def _blob_files(path: Path) -> Iterator[Path]:
    """Yield the blobs of a directory, in no order; raise OSError where it may not be read."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # packed away meanwhile
            raise error

    for folder, folders, names in os.walk(path, onerror=refuse):
        if Path(folder) == path:
            folders[:] = [one for one in folders if one != TEMPORARY and one.startswith("0x")]
        yield from (Path(folder, one) for one in names if one.endswith(".blob"))


# space


class Needs(NamedTuple):
    """Bytes that the next backup and a full one add to the repository, at most or about; None where it cannot be told."""

    coming: int
    full: int
    how: str


def _space_of_repository(patient: Patient) -> Iterator[Check]:
    repository, site = patient.repository, patient.site
    root = Path(repository.store.location)
    if not root.is_dir() or not any(database.backend == "filestorage" for database in site.databases):
        return
    needs = [_needs(patient, database) for database in site.databases if database.backend == "filestorage"]
    coming, full = sum(one.coming for one in needs), sum(one.full for one in needs)
    free = shutil.disk_usage(root).free
    message = f"{_bytes(free)} free in {root}; the next backup needs about {_bytes(coming)}, a full one {_bytes(full)}{needs[0].how}"
    if coming <= free < full:
        message += ", which would not fit"
    yield Check(
        "space repository",
        free >= coming,
        message,
        "free space there, delete backups, or move the repository to a larger file system",
    )


def _needs(patient: Patient, database: Database) -> Needs:
    """Estimate: a full backup as large as the newest one, of the next the share of Data.fs that is new; without any, all bytes there are."""
    size = Path(database.data_fs or "").stat().st_size
    manifest = patient.newest
    entry = next((one for one in manifest.databases if one.name == database.name), None) if manifest else None
    if entry is None or entry.data_fs is None or not entry.data_fs.end:
        blobs, more = _blob_bytes(database)
        return Needs(size + blobs, size + blobs, f" (before compression{', at least' if more else ''})")
    full = int(stored_size(entry) * max(1.0, size / entry.data_fs.end))
    decision = plan(
        msgspec.structs.replace(patient.site, databases=(database,)), patient.repository, None
    ).databases[0]
    if decision.how != "incremental":
        return Needs(full, full, "")
    return Needs(int(full * max(0, size - entry.data_fs.end) / size), full, "")


def _blob_bytes(database: Database) -> tuple[int, bool]:
    """Return the size of the blobs in a directory, and whether there are more than were counted."""
    total = 0
    if database.blob_mode != "directory" or database.blob_dir is None:
        return 0, False
    for number, path in enumerate(_blob_files(Path(database.blob_dir))):
        if number == MOST_BLOBS:
            return total, True
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total, False


def _space_of_site(patient: Patient, database: Database) -> Iterator[Check]:
    """Tell whether a restore into the site would find room: the new Data.fs is written beside the old one."""
    if database.backend != "filestorage":
        return
    data_fs = Path(database.data_fs or "")
    sizes = [data_fs.stat().st_size if data_fs.exists() else 0]
    with contextlib.suppress(VaultError):
        entries = newest.databases if (newest := patient.newest) else []
        sizes += [one.data_fs.end for one in entries if one.name == database.name and one.data_fs]
    needed = max(sizes)
    free = shutil.disk_usage(next(folder for folder in data_fs.parents if folder.is_dir())).free
    message = f"{_bytes(free)} free beside {data_fs}; a restore in place needs {_bytes(needed)}, and the blobs that are not there any more"
    yield Check(
        f"space {database.name}",
        free >= needed,
        message,
        "free space there; until then restore into another file system with --output DIR",
    )


def _bytes(count: int) -> str:
    value, units = float(count), ["B", "kB", "MB", "GB", "TB", "PB"]
    while value >= 999.95 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


# the repository


def _repository(patient: Patient) -> Iterator[Check]:
    repository = patient.repository
    yield Check("repository", True, f"{repository.info.id} in {repository.store.location}")


def _newest(patient: Patient) -> Iterator[Check]:
    newest, damaged = patient.newest, patient.catalog.damaged
    if damaged:
        names = ", ".join(f"{one}: {why}" for one, why in damaged.items())
        yield Check(
            "newest backup",
            False,
            f"newer backups cannot be read: {names}",
            "`zodb-vault verify --all --level bytes` shows what is damaged",
        )
    else:
        what = f"{newest.id}, {newest.status}" if newest else "none yet"
        yield Check(
            "newest backup",
            True,
            f"{what}; backups of {patient.site_name}: {len(patient.catalog.listing.backups)}",
        )


def _overlap(patient: Patient) -> Iterator[Check]:
    refuse_overlap(patient.repository, list(patient.site.databases))
    yield Check("repository place", True, "the repository and the blob directories are apart")


def _clock(patient: Patient) -> Iterator[Check]:
    newest = max((time for one in patient.catalog.listing.backups if (time := id_time(one))), default=None)
    yield from clocks(patient.repository.store, newest)


def _locks(patient: Patient) -> Iterator[Check]:
    keys = patient.catalog.listing.markers
    if not keys:
        yield Check("locks", True, "nothing is running")
    for key in keys:
        name = f"lock {key.rpartition('/')[2].removesuffix('.json')}"
        yield from guarded(name, partial(_lock, patient.repository.store, key, name))


def _lock(store: Store, key: str, name: str) -> Iterator[Check]:
    """Tell whose a marker is: one of a live run is as it should be, one of a dead run says that a run died."""
    try:
        marker, _data = markers.read(store, key)
    except KeyMissing:
        yield Check(name, True, "a run has just ended")
        return
    whose = f"{marker.what} {marker.run}, host {marker.host}, pid {marker.pid}, since {marker.started}"
    if markers.alive(marker, store):
        yield Check(name, True, f"running: {whose}")
        return
    ended = "was interrupted" if marker.ended else f"has died, last seen at {marker.heartbeat}"
    hint = f"the next {marker.what} of the site takes over what it stored; find out what ended it"
    yield Check(name, False, f"{ended}: {whose}", hint)


def _access(patient: Patient) -> Iterator[Check]:
    repository = patient.repository
    yield from access(repository.store)
    yield from abilities(repository.store, repository.info)
    yield from locks(repository.store)


CHECKS: Final[tuple[tuple[str, Callable[[Patient], Iterable[Check]]], ...]] = (
    ("configuration", _configuration),
    ("site", _site),
    ("packages", _packages),
    ("packages of the site", _packages_of_site),
    ("tools", _tools),
    ("source", _per_database("source", _source)),
    ("database", _per_database("database", _database)),
    ("blobs", _per_database("blobs", _blobs)),
    ("repository", _repository),
    ("repository place", _overlap),
    ("repository access", _access),
    ("newest backup", _newest),
    ("space of the site", _per_database("space", _space_of_site)),
    ("space repository", _space_of_repository),
    ("clock", _clock),
    ("locks", _locks),
)
