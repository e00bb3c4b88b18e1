"""Random histories of sites with blobs in a bucket: a restore gives what storage and bucket had.

``ZODB_VAULT_WRAPPED=500`` runs that many.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import filestorage_vault
import independent_reader
import pytest
import s3blobs_sites
from pgjsonb_sites import Place
from s3blobs_sites import WrappedSite
from services.s3 import Service
from site_factory import noise
from ZODB.POSException import POSKeyError, UndoError

from zodb_vault.config.zopeconf import read_site
from zodb_vault.operations.create import run as creating
from zodb_vault.operations.create.options import CreateOptions
from zodb_vault.operations.restore import run as restoring
from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="zodb-s3blobs needs Python 3.12")
HISTORIES = int(os.environ.get("ZODB_VAULT_WRAPPED", "4"))
STEPS = 20
BASES = {
    "filestorage": s3blobs_sites.FILESTORAGE,
    "sqlite": s3blobs_sites.RELSTORAGE.format("true", "", s3blobs_sites.SQLITE),
}


class Walk:
    """One history, its bucket, its backups."""

    def __init__(self, directory: Path, place: Place, base: str, seed: int) -> None:
        (directory / "site").mkdir(parents=True)
        self.directory, self.place, self.base, self.random = directory, place, base, random.Random(seed)
        self.site = WrappedSite(BASES[base].format(directory / "site"), directory, place)
        self.conf = self.site.write_conf(directory / "zope.conf")
        self.repository = Repository.create(LocalStore(directory / "repository"))
        self.number = 0
        self.lost: dict[str, bytes] = {}
        self.held: dict[tuple[bytes, bytes], str] = {}
        self.complete: list[str] = []
        self.happened: Counter[str] = Counter()

    def run(self) -> None:
        self.put()
        for _ in range(STEPS):
            name = self.random.choices(
                ["put", "undo", "remove", "pack", "lose", "find", "back_up", "go_back"],
                [8, 2, 1, 1, 1, 2, 5, 1],
            )[0]
            getattr(self, name)()
            self.happened[name] += 1
        self.back_up()

    def put(self) -> None:
        self.number += 1
        key, data = f"blob-{self.random.randrange(3)}", noise(self.random.randrange(1, 4000), self.number)
        with self.site.opened() as opened:
            try:
                opened.put(**{key: data}, text=str(self.number))
            except POSKeyError:  # its object is lost, and ZODB wants it before it writes another one
                opened.manager.abort()
                opened.put(**{key: None})
                opened.put(**{key: data})

    def undo(self) -> None:
        try:
            self.site.undo()
        except (UndoError, IndexError):  # packed
            self.happened["not undone"] += 1

    def remove(self) -> None:
        with self.site.opened() as opened:
            if key := next((key for key in opened.root if key.startswith("blob-")), None):
                opened.put(**{key: None})

    def pack(self) -> None:
        with self.site.opened() as opened:
            opened.pack()

    def lose(self) -> None:
        objects = self.place.objects()
        if objects:
            key = self.random.choice(sorted(objects))
            self.lost[key] = objects[key]
            self.place.delete(key)

    def find(self) -> None:
        for key, data in self.lost.items():
            self.place.put(key, data)
        self.lost.clear()

    def go_back(self) -> None:
        """Restore in place; the bucket gets back what it had lost, and keeps what is of the other future."""
        if self.complete:
            before = self.place.objects()
            self.restore(self.random.choice(self.complete), None)
            after = self.place.objects()
            assert after.items() >= before.items() and all(key.startswith("blobs/") for key in after)
            assert not [
                record for one in self.site.transactions() for record in one.records if self.is_gone(record)
            ]

    def is_gone(self, record: Any) -> bool:
        return record.blob == independent_reader.MISSING

    def restore(self, backup: str, output: Path | None) -> None:
        site = None if output else read_site(self.conf, filestorage_vault.SITE, {})
        # after a pack a small database may share no transaction with its backups
        options = restoring.RestoreOptions(
            backup=backup,
            output=output,
            allow_incomplete=output is not None,
            safety_backup=False,
            replace=True,
            replace_blobs=output is None,
        )
        restoring.execute(
            self.repository,
            restoring.plan(self.repository, filestorage_vault.SITE, site, options),
            filestorage_vault.SITE,
            filestorage_vault.Quiet(),
        )

    def back_up(self) -> None:
        site = read_site(self.conf, filestorage_vault.SITE, {})
        manifest = creating.create(
            self.repository,
            site,
            CreateOptions(workers=self.random.choice([1, 2])),
            filestorage_vault.Quiet(),
        ).manifest
        output = self.directory / f"restored-{manifest.id}"
        self.restore(manifest.id, output)
        section = BASES[self.base].format(output)
        closing = "<sqlite3>" if self.base == "sqlite" else "</filestorage>"
        where = s3blobs_sites.SHARED if self.base == "sqlite" else "blob-dir {}\n"
        found = s3blobs_sites.read_without(section.replace(closing, where.format(output / "blobs") + closing))
        theirs = self.site.transactions()
        assert [self.plain(one) for one in found] == [self.plain(one) for one in theirs]
        blobs, source = self.blobs(found), self.blobs(theirs)
        assert all(
            blobs[key] == digest for key, digest in source.items() if digest != independent_reader.MISSING
        )
        assert all(
            blobs[key] in (self.held.get(key), independent_reader.MISSING)
            for key, digest in source.items()
            if digest == independent_reader.MISSING
        )
        assert manifest.status == (
            "incomplete" if independent_reader.MISSING in blobs.values() else "complete"
        )
        self.happened |= Counter({manifest.reason.code: 1, manifest.status: 1})
        if manifest.status == "complete":
            self.complete.append(manifest.id)
            self.held |= blobs

    def plain(self, one: independent_reader.Transaction) -> Any:
        return one._replace(records=[record._replace(blob=None) for record in one.records])

    def blobs(self, transactions: list[independent_reader.Transaction]) -> dict[tuple[bytes, bytes], str]:
        return {
            (record.oid, one.tid): record.blob
            for one in transactions
            for record in one.records
            if record.blob is not None
        }


@pytest.mark.parametrize("base", BASES)
def test_backups_give_back_what_storage_and_bucket_had(tmp_path: Path, moto: Service, base: str) -> None:
    happened: Counter[str] = Counter()
    for seed in range(HISTORIES):
        walk = Walk(tmp_path / str(seed), Place(moto, moto.bucket(), "plone"), base, seed)
        try:
            walk.run()
        except BaseException as error:
            error.add_note(f"seed {seed}, after {walk.happened}")
            raise
        happened += walk.happened
    wanted = {"undo", "pack", "lose", "go_back", "incomplete", "complete", "continued", "diverged"}
    assert wanted <= happened.keys(), happened
