"""A site before a restore in place: its old state, its new state, and which of them exists."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import filestorage_vault
import independent_reader
import random_histories
from site_factory import Site as OpenSite
from site_factory import SiteFiles, noise

from zodb_vault.errors import TargetMissing
from zodb_vault.model.restore import DestinationOptions
from zodb_vault.model.source import Database, Site
from zodb_vault.operations.create.options import CreateOptions
from zodb_vault.operations.restore import run as restoring
from zodb_vault.operations.restore.abort import abort
from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore
from zodb_vault.strategies.filestorage.restore import journal as journals
from zodb_vault.strategies.filestorage.restore.destination import DataFsDestination, of_database

OURS = (".restor", ".zodb-vault", ".replaced-", ".kept-", ".tmp-", ".probe")
SOMETHING = (".tmp", ".lock", ".index", ".tr0")


class State(NamedTuple):
    """A state of one database: the bytes of Data.fs, and the blobs that they reference."""

    data: bytes
    blobs: dict[tuple[bytes, bytes], str]


class Target:
    """The databases below a directory (each in a folder of its own) and the repository beside them."""

    def __init__(self, directory: Path, names: Sequence[str] = ("main",)) -> None:
        self.directory, self.names = directory, names
        self.repository = Repository.open(LocalStore(directory / "repository"))
        self.progress, self._numbers = filestorage_vault.Quiet(), itertools.count()

    def files(self, name: str = "main") -> SiteFiles:
        """Return the paths of a database."""
        return SiteFiles(self.directory / name / "Data.fs", self.directory / name / "blobs")

    @property
    def site(self) -> Site:
        """Return the site as a configuration would describe it."""
        return Site(
            name=filestorage_vault.SITE,
            config=None,
            databases=tuple(self._database(name) for name in self.names),
        )

    def _database(self, name: str) -> Database:
        files = self.files(name)
        return Database(
            name=name,
            backend="filestorage",
            data_fs=str(files.data_fs),
            blob_dir=str(files.blob_dir),
            blob_mode="directory",
            history=True,
            mount_point="/" if name == self.names[0] else f"/{name}",
        )

    def restore(self, **options: Any) -> restoring.Restored:
        """Restore in place, or into ``output``."""
        wanted = restoring.RestoreOptions(**({"safety_backup": False} | options))
        site = None if wanted.output else self.site
        plan = restoring.plan(self.repository, filestorage_vault.SITE, site, wanted)
        return restoring.execute(self.repository, plan, filestorage_vault.SITE, self.progress)

    def destinations(self) -> list[DataFsDestination]:
        """Return what an abort is about."""
        return [of_database(self._database(name), DestinationOptions()) for name in self.names]

    def abort(self) -> bool:
        """Put the old state back; return whether there was an interrupted restore."""
        try:
            abort(self.destinations())
        except TargetMissing:
            return False
        return True

    def interrupted(self) -> bool:
        """Return whether there is a journal."""
        return any(journals.path_of(self.files(name).data_fs).exists() for name in self.names)


def state_of(files: SiteFiles) -> State:
    """Return what is there."""
    return State(files.data_fs.read_bytes(), independent_reader.blob_files(files.data_fs, files.blob_dir))


def blob_tree(files: SiteFiles) -> dict[str, str]:
    """Return the digest of every blob file, by its relative path."""
    paths = (
        path
        for path in sorted(files.blob_dir.rglob("*"))
        if path.is_file() and not path.relative_to(files.blob_dir).parts[0].startswith(".")
    )
    return {str(path.relative_to(files.blob_dir)): independent_reader.sha256(path) for path in paths}


def ours(files: SiteFiles) -> list[str]:
    """Return the files that a restore has made and not taken away, except what it is to keep."""
    directory = files.data_fs.parent
    return sorted(
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and any(part in path.name for part in OURS)
    )


def assert_opens(files: SiteFiles, scratch: Path) -> None:
    """Open a copy, load every object and open every blob."""
    scratch.mkdir()
    shutil.copy2(files.data_fs, scratch / "Data.fs")
    shutil.copytree(files.blob_dir, scratch / "blobs", symlinks=True)
    random_histories.assert_all_references_resolve(scratch / "Data.fs", scratch / "blobs")
    shutil.rmtree(scratch)


def build(
    directory: Path, names: Sequence[str] = ("main",), *, layout: str = "bushy"
) -> tuple[Target, dict[str, State], dict[str, State]]:
    """Make a site with a backup, and let it go on; return the states that the backup has, and those in place.

    In place, one blob of the backup is missing and another one has other content; there are blobs that only
    this state needs, and the leftovers of a pack.
    """
    for name in names:
        with OpenSite(directory / name, layout) as site:
            site.put(text=f"{name} one", logo=noise(900, 1), lost=noise(800, 2))
            site.put(text=f"{name} two", logo=noise(950, 3), wrong=noise(700, 4), lost=noise(850, 5))
    repository = Repository.create(LocalStore(directory / "repository"))
    target = Target(directory, names)
    filestorage_vault.creating.create(repository, target.site, CreateOptions(), target.progress)
    new = {name: state_of(target.files(name)) for name in names}
    for name in names:
        with OpenSite(directory / name) as site:
            site.put(text=f"{name} three", logo=noise(960, 6), later=noise(600, 7))
            site.put(more="four", later=noise(650, 8))
        _damage(target.files(name))
    return target, new, {name: state_of(target.files(name)) for name in names}


def _damage(files: SiteFiles) -> None:
    by_size = {path.stat().st_size: path for path in files.blob_dir.rglob("*.blob")}
    by_size[800].unlink()
    by_size[700].chmod(0o600)
    by_size[700].write_bytes(b"another content")
    for name in ("Data.fs.old", "Data.fs.pack", "Data.fs.tr0"):
        files.data_fs.with_name(name).write_bytes(b"left by a pack")
