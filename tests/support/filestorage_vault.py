"""A repository and a site in one directory; ``create``, ``restore`` and ``verify`` are called like commands.

``Vault.assert_restores`` compares a restored backup with what ZODB reads from the source.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import independent_reader
from site_factory import SiteFiles

from zodb_vault.blobs.packs import member_ref, pack_members
from zodb_vault.model.blob import BlobRef
from zodb_vault.model.chain import packs_of, segments_of
from zodb_vault.model.manifest import DatabaseEntry, Manifest, Pack, Segment
from zodb_vault.model.source import Database, Site
from zodb_vault.operations.catalog import Catalog
from zodb_vault.operations.create import run as creating
from zodb_vault.operations.create.options import Created, CreateOptions
from zodb_vault.operations.restore import run as restoring
from zodb_vault.operations.verify import run as verifying
from zodb_vault.operations.verify.options import VerifyOptions
from zodb_vault.operations.verify.report import VerifyReport
from zodb_vault.policy.recovery import ToTid
from zodb_vault.repository.labels import Level
from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore

SITE = "plone"


class Quiet:
    """Records the progress, and calls ``on_phase`` with the name of each phase before it begins."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.on_phase: Any = lambda what: None

    def begin(self, what: str, total: int | None) -> None:
        self.on_phase(what)

    def expect(self, total: int, unit: str) -> None:
        pass

    def advance(self, count: int) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


class Vault:
    """A repository for the site with these files: the given one, or a new one below ``directory``."""

    def __init__(
        self,
        directory: Path,
        files: SiteFiles,
        blob_mode: str = "directory",
        repository: Repository | None = None,
    ) -> None:
        self.directory, self.files = directory, files
        self.repository = repository or Repository.create(LocalStore(directory / "repository"))
        self.blob_dir: Path | None = files.blob_dir if blob_mode == "directory" else None
        self.progress = Quiet()
        self._numbers = itertools.count()

    @property
    def site(self) -> Site:
        """Return the site as a configuration would describe it."""
        database = Database(
            name="main",
            backend="filestorage",
            data_fs=str(self.files.data_fs),
            blob_dir=str(self.blob_dir) if self.blob_dir else None,
            blob_mode="directory" if self.blob_dir else "none",
            history=True,
        )
        return Site(name=SITE, config=None, databases=(database,))

    def create(self, **options: Any) -> Created:
        """Make a backup."""
        return creating.create(self.repository, self.site, CreateOptions(**options), self.progress)

    def code(self, **options: Any) -> str:
        """Make a backup and return the code of its reason."""
        return self.create(**options).manifest.reason.code

    @property
    def catalog(self) -> Catalog:
        """Return the backups as they are listed now."""
        return Catalog(self.repository, SITE)

    @property
    def newest(self) -> Manifest:
        """Return the manifest of the newest backup."""
        return next(self.catalog.newest_first()).manifest

    @property
    def ids(self) -> list[str]:
        """Return the ids of all backups, oldest first."""
        return self.catalog.listing.backups

    def segments(self, manifest: Manifest | None = None) -> list[Segment]:
        """Return the segments of a backup."""
        return list(segments_of(entry_of(manifest or self.newest), self.repository.objects("")))

    def packs(self, manifest: Manifest | None = None) -> list[Pack]:
        """Return the packs of a backup."""
        return list(packs_of(entry_of(manifest or self.newest), self.repository.objects("")))

    def blobs(self, manifest: Manifest | None = None) -> list[BlobRef]:
        """Return the live blobs of all packs of a backup, in the order of the packs."""
        objects = self.repository.objects("")
        return [member_ref(member) for pack in self.packs(manifest) for member in pack_members(objects, pack)]

    def restore(
        self, backup: str | None = None, tid: bytes | None = None, *, allow_incomplete: bool = False
    ) -> SiteFiles:
        """Restore into a new directory."""
        output = self.directory / f"restored-{next(self._numbers)}"
        request = ToTid("0x" + tid.hex()) if tid else None
        options = restoring.RestoreOptions(
            backup=backup, request=request, output=output, allow_incomplete=allow_incomplete
        )
        restoring.execute(
            self.repository, restoring.plan(self.repository, SITE, None, options), SITE, self.progress
        )
        return SiteFiles(output / "Data.fs", output / "blobs")

    def assert_restores(
        self, source: SiteFiles, backup: str | None = None, tid: bytes | None = None, **options: bool
    ) -> None:
        """Require the exact Data.fs up to the last transaction (or ``tid``), and every referenced blob."""
        restored = self.restore(backup, tid, **options)
        end = independent_reader.end_of(source.data_fs, tid) if tid else committed_end(source.data_fs)
        assert restored.data_fs.read_bytes() == source.data_fs.read_bytes()[:end]
        wanted = independent_reader.blob_files(restored.data_fs, source.blob_dir)
        found = {key: _digest(independent_reader.blob_path(restored.blob_dir, *key)) for key in wanted}
        assert found == wanted
        shutil.rmtree(restored.data_fs.parent)

    def verify(self, level: Level = "records", backup: str | None = None) -> VerifyReport:
        """Verify a backup."""
        catalog = self.catalog
        return verifying.verify(
            self.repository,
            SITE,
            catalog.backup(backup or self.newest.id),
            VerifyOptions(level=level),
            self.progress,
        )

    def label(self, fact: str, value: Any = True, backup: str | None = None) -> None:
        """Note a fact about a backup."""
        self.repository.labels.add(SITE, backup or self.newest.id, fact, value, self.repository.listing(SITE))


class ExistingVault(Vault):
    """The repository and the site that exist below a directory."""

    def __init__(self, directory: Path) -> None:
        files = SiteFiles(directory / "site" / "Data.fs", directory / "site" / "blobs")
        super().__init__(directory, files, repository=Repository.open(LocalStore(directory / "repository")))


def entry_of(manifest: Manifest) -> DatabaseEntry:
    """Return the one database of a backup."""
    (entry,) = manifest.databases
    return entry


def committed_end(data_fs: Path) -> int:
    """Return the end of the last finished transaction."""
    return max(
        (header.end for header in independent_reader.headers(data_fs) if header.status != "c"), default=4
    )


def blob_paths(files: SiteFiles) -> Iterator[Path]:
    """Yield the files of all blobs in a blob directory."""
    return iter(sorted(files.blob_dir.rglob("*.blob")))


def _digest(path: Path) -> str:
    return independent_reader.sha256(path) if path.exists() else independent_reader.MISSING
