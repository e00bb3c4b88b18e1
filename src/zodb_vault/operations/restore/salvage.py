"""Salvage: bring back everything that is good of a damaged backup, into a new directory, and list the rest.

It never writes into a site. The result is not the state of any moment: objects can be older than others, or
missing. An administrator has to look at it before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from ...errors import Damage, TargetRefused
from ...model.chain import FILE_NAME, file_name, files_of
from ...model.manifest import DatabaseEntry, Part
from ...repository.objects import Objects
from ...repository.repository import Repository
from ...runtime import durable
from ...runtime.progress import Progress
from ...strategies.blobs.salvage import LostBlob, salvage_blobs
from ...strategies.filestorage.salvage import LostRange, salvage_data_fs
from ..catalog import Backup
from ..damage import damage_recorded
from ..identity import require_key

LOST_NAME: Final = "LOST.json"
# What is cut off at the damage must not be taken for a whole file.
CUT_OFF: Final = ".cut-off"


class LostFile(msgspec.Struct, frozen=True):
    """A file of a dump of which only the first ``kept`` bytes are left, as ``path``."""

    path: str
    kept: int
    why: str


class SalvagedDatabase(msgspec.Struct, kw_only=True):
    """What was brought back of one database: where it is, and what is lost of it."""

    name: str
    where: str
    ranges: list[LostRange] = []
    blobs: list[LostBlob] = []
    files: list[LostFile] = []

    @property
    def complete(self) -> bool:
        """Tell whether nothing is lost."""
        return not (self.ranges or self.blobs or self.files)


def salvage(
    repository: Repository, site: str, backup: Backup, output: Path, progress: Progress
) -> list[SalvagedDatabase]:
    """Write what is good of a backup into ``output``, which has to be empty or new.

    The result is also in the file ``LOST.json`` there. Raise TargetRefused, KeyNeeded, Damage for a
    manifest that cannot be used at all, OSError.
    """
    objects, entries = repository.objects(""), backup.manifest.databases
    output = output.absolute()
    if output.exists() and any(output.iterdir()):
        raise TargetRefused(f"{output} is not empty", "name an empty or a new directory")
    repository.signatures.require(backup.manifest)
    require_key(entries, objects)
    output.mkdir(parents=True, exist_ok=True)
    with damage_recorded(repository, site, "restore", progress.note):
        done = [_salvage(entry, objects, _place(entry, output, len(entries)), progress) for entry in entries]
    durable.write_atomically(
        output / LOST_NAME, [msgspec.json.format(msgspec.json.encode(done))], exclusive=False
    )
    return done


def _place(entry: DatabaseEntry, output: Path, databases: int) -> Path:
    if databases == 1:
        return output
    if not FILE_NAME.fullmatch(entry.folder):
        raise Damage(f"the backup names a folder {entry.folder[:100]!r}, which is no safe name")
    (output / entry.folder).mkdir()
    return output / entry.folder


def _salvage(entry: DatabaseEntry, objects: Objects, place: Path, progress: Progress) -> SalvagedDatabase:
    found = SalvagedDatabase(name=entry.name, where=str(place), ranges=[], blobs=[], files=[])
    if entry.data_fs is not None:
        progress.begin("storage", entry.data_fs.size)
        found.ranges = salvage_data_fs(entry, objects, place / "Data.fs", progress)
    elif entry.dump is not None:
        progress.begin("storage", entry.dump.size)
        found.files = list(_salvage_files(entry, objects, place, progress))
    if entry.blobs is not None and entry.blobs.count:
        progress.begin("blobs", entry.blobs.size)
        found.blobs = salvage_blobs(entry, objects, place / "blobs", progress)
    return found


def _salvage_files(
    entry: DatabaseEntry, objects: Objects, place: Path, progress: Progress
) -> Iterator[LostFile]:
    """Write the files of a dump, each up to its first damage; yield what is lost."""
    by_name: dict[str, list[Part]] = {}
    problem = None
    try:
        for part in files_of(entry, objects):
            by_name.setdefault(file_name(part), []).append(part)
    except Damage as error:
        problem = error.message
    for name, parts in by_name.items():
        path, kept, why = place / name, 0, None
        with path.open("xb") as file:
            try:
                for part in parts:
                    for chunk in objects.read([part]):
                        file.write(chunk)
                        progress.advance(len(chunk))
                    kept += part.raw  # only now is the digest of the object known to be right
            except Damage as error:
                why = error.message
                file.truncate(kept)
        # the names of later parts are in a list that is lost: no file is known to be whole
        if why or problem:
            cut_off = path.rename(path.with_name(name + CUT_OFF))
            yield LostFile(str(cut_off), kept, why or problem or "")
