"""A site that the portable method backs up from its configuration alone, with its repository and mirror."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import filestorage_vault
import independent_reader

from zodb_vault.config.zopeconf import read_site
from zodb_vault.model.source import Site
from zodb_vault.operations.catalog import Catalog
from zodb_vault.operations.create import run as creating
from zodb_vault.operations.create.options import Created, CreateOptions
from zodb_vault.operations.restore import run as restoring
from zodb_vault.operations.verify import run as verifying
from zodb_vault.operations.verify.options import VerifyOptions
from zodb_vault.operations.verify.report import VerifyReport
from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore


class Portable:
    """``create`` and what its backups give back."""

    def __init__(self, directory: Path, zope_conf: Path) -> None:
        self.directory, self.zope_conf = directory, zope_conf
        self.root = directory / "mirror"
        self.mirror = self.root / "main"
        self.repository = Repository.create(LocalStore(directory / "repository"))
        self.progress = filestorage_vault.Quiet()
        self._numbers = itertools.count()

    @property
    def site(self) -> Site:
        """Return the site as its configuration describes it."""
        return read_site(self.zope_conf, filestorage_vault.SITE, {})

    def create(self, **options: Any) -> Created:
        """Make a backup."""
        wanted: dict[str, Any] = {"method": "portable", "mirror": self.root} | options
        return creating.create(self.repository, self.site, CreateOptions(**wanted), self.progress)

    def code(self, **options: Any) -> str:
        """Make a backup and return the code of its reason."""
        return self.create(**options).manifest.reason.code

    def restored(self, backup: str | None = None, **options: Any) -> Path:
        """Restore into a new directory and return it."""
        output = self.directory / f"restored-{next(self._numbers)}"
        plan = restoring.plan(
            self.repository,
            filestorage_vault.SITE,
            None,
            restoring.RestoreOptions(backup=backup, output=output, **options),
        )
        restoring.execute(self.repository, plan, filestorage_vault.SITE, self.progress)
        return output

    def transactions(self, backup: str | None = None, **options: Any) -> list[independent_reader.Transaction]:
        """Restore and read what is there."""
        output = self.restored(backup, **options)
        return independent_reader.transactions(output / "Data.fs", output / "blobs")

    def verify(self, backup: str) -> VerifyReport:
        """Prove a backup by restoring it and loading everything."""
        found = Catalog(self.repository, filestorage_vault.SITE).backup(backup)
        return verifying.verify(
            self.repository,
            filestorage_vault.SITE,
            found,
            VerifyOptions(level="restore"),
            self.progress,
        )
