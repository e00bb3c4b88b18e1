"""A site with several databases and a temporary one; ``create`` and ``restore`` are called like commands."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filestorage_vault
import multi_database_writer
from multi_database_writer import Together, databases, state_of
from site_factory import SiteFiles

from zodb_vault.config.zopeconf import read_site
from zodb_vault.model.source import Site
from zodb_vault.operations.catalog import Catalog
from zodb_vault.operations.create import run as creating
from zodb_vault.operations.create.options import Created, CreateOptions
from zodb_vault.operations.restore import run as restoring
from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore

NAMES = ("main", "catalog")


class Several:
    """A site of a zope.conf with several databases and a temporary one, and a repository."""

    def __init__(self, directory: Path, names: tuple[str, ...] = NAMES) -> None:
        self.directory, self.names = directory, names
        self.conf = directory / "zope.conf"
        self.write_conf(names)
        self.repository = Repository.create(LocalStore(directory / "repository"))
        self.progress = filestorage_vault.Quiet()

    def write_conf(self, names: tuple[str, ...], **elsewhere: str) -> None:
        """Write a zope.conf with these databases, some of them below another directory."""
        sections = ["%define INSTANCE " + str(self.directory), "instancehome $INSTANCE"]
        for name in names:
            files = self.files(name)
            place = Path(elsewhere.get(name, files.data_fs.parent))
            place.mkdir(parents=True, exist_ok=True)
            sections.append(
                f"<zodb_db {name}>\n  mount-point /{'' if name == 'main' else name}\n  <filestorage>\n"
                f"    path {place}/Data.fs\n"
                f"    blob-dir {place}/blobs\n  </filestorage>\n</zodb_db>"
            )
        sections.append(
            "<zodb_db temporary>\n  mount-point /temp_folder\n  <temporarystorage>\n  </temporarystorage>\n"
            "</zodb_db>"
        )
        self.conf.write_text("\n".join(sections) + "\n")

    def files(self, name: str) -> SiteFiles:
        return SiteFiles(self.directory / name / "Data.fs", self.directory / name / "blobs")

    @property
    def site(self) -> Site:
        return read_site(self.conf, filestorage_vault.SITE, os.environ)

    @contextlib.contextmanager
    def opened(self, **options: Any) -> Iterator[Together]:
        dbs = databases(self.conf)
        writer = Together(dbs, list(self.names), **options)
        try:
            yield writer
        finally:
            writer.close()
            for db in dbs.values():
                db.close()

    def create(self, **options: Any) -> Created:
        return creating.create(self.repository, self.site, CreateOptions(**options), self.progress)

    def catalog(self) -> Catalog:
        return Catalog(self.repository, filestorage_vault.SITE)

    def restore(self, site: Site | None = None, **options: Any) -> restoring.Restored:
        wanted = restoring.RestoreOptions(**({"safety_backup": False} | options))
        made = restoring.plan(
            self.repository, filestorage_vault.SITE, None if wanted.output else site or self.site, wanted
        )
        return restoring.execute(self.repository, made, filestorage_vault.SITE, self.progress)

    def restored(self, **options: Any) -> dict[str, multi_database_writer.State]:
        """Restore into a directory and return what the databases hold."""
        output = self.directory / "out"
        shutil.rmtree(output, ignore_errors=True)
        done = self.restore(output=output, **options)
        states = {step.cut.entry.name: step.state for step in done.plan.steps}
        return {name: state_of(Path(one.where), Path(one.blobs or "")) for name, one in states.items()}

    def in_place(self) -> dict[str, multi_database_writer.State]:
        return {name: state_of(*self.files(name)) for name in self.names}


def agree(states: dict[str, multi_database_writer.State]) -> int:
    """Require a complete shared commit; return its number."""
    (number,) = {state.shared for state in states.values()}
    assert all(state.blob == multi_database_writer.content(number) for state in states.values())
    return number


def grown(path: Path) -> None:
    """Wait until another process has written to a file."""
    size, end = path.stat().st_size, time.monotonic() + 30
    while path.stat().st_size == size:
        assert time.monotonic() < end, "nobody writes"
        time.sleep(0.02)
