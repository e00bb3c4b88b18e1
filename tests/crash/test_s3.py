"""Backups in S3 while the service fails in every way, and ``create`` killed at every write: no half of a backup is ever seen."""

from __future__ import annotations

import itertools
import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest
import seam
import vault
from factories import Site, SiteFiles, noise
from services.requests import DownFrom, EachFailsOnce, EachReadIsCut, EachWriteIsLost, Faults, KilledAt, ListedLate, behind
from services.s3 import Service

from zodb_vault.errors import StoreError
from zodb_vault.model.manifest import Manifest
from zodb_vault.repository.repository import Repository
from zodb_vault.stores import turns
from zodb_vault.stores.s3 import S3Store
from zodb_vault.strategies import packing, segments


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make several segments and packs of a few kilobytes."""
    monkeypatch.setattr(segments, "SEGMENT_LIMIT", 1500)
    monkeypatch.setattr(packing, "PACK_LIMIT", 5000)


class Remote(vault.Vault):
    """A site, and a repository in a bucket that is opened anew for every command."""

    def __init__(self, directory: Path, service: Service, files: SiteFiles, location: str = "") -> None:
        self.directory, self.files, self.blob_dir = directory, files, files.blob_dir
        self.location, self.service = location or f"s3://{service.bucket()}/place", service
        self.progress, self._numbers = vault.Quiet(), itertools.count()
        if not location:
            Repository.create(self.store)

    @property
    def store(self) -> S3Store:
        return S3Store(self.location, self.service.settings)

    @property
    def repository(self) -> Repository:  # type: ignore[override]
        return Repository.open(self.store)

    def assert_sound(self) -> None:
        """Require the newest backups that are listed to be whole."""
        for backup in self.ids[-2:]:
            assert self.verify("records", backup).ok


def change(files: SiteFiles, number: int) -> None:
    with Site(files.data_fs.parent) as site:
        site.put(text=f"text {number} " * 100, photo=noise(3000, number))


@pytest.fixture
def remote(s3: Service, tmp_path: Path) -> Remote:
    with Site(tmp_path / "site") as site:
        site.put(text="one", logo=noise(1500, 1))
        site.put(more="two" * 300, manual=noise(3000, 2))
        site.put(logo=noise(1600, 3))
        files = site.files
    return Remote(tmp_path, s3, files)


@pytest.mark.parametrize("faults", [EachFailsOnce, EachWriteIsLost, EachReadIsCut, ListedLate])
def test_what_passes_changes_nothing(remote: Remote, faults: type[Faults]) -> None:
    with behind(faults()):
        made: list[Manifest] = []
        for number in range(3):
            change(remote.files, number)
            made.append(remote.create().manifest)
        assert remote.verify("bytes", made[-1].id).ok
        assert remote.verify("records", made[-1].id).ok
        remote.assert_restores(remote.files, made[-1].id)
    assert remote.ids == sorted(manifest.id for manifest in made)
    remote.assert_sound()
    assert not [entry.key for entry in remote.store.list("sites/") if "/running/" in entry.key]


def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let who died with the turn, where there are no conditional writes, be passed over after a second."""
    monkeypatch.setattr(turns, "DEAD", timedelta(seconds=1))


def test_what_lasts_ends_the_run_and_the_next_one_does_it_right(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    soon(monkeypatch)
    remote.create()
    change(remote.files, 1)
    number, ended = 1, False
    while not ended:
        try:
            with behind(DownFrom(number)):
                remote.create()
            ended = True
        except StoreError as error:
            assert error.hint
        remote.assert_sound()
        # the marker of a run of this very process cannot be told from one that goes on
        for entry in remote.store.list("sites/"):
            if "/running/" in entry.key:
                remote.store.delete(entry.key)
        number += 5 if remote.service.conditional else 40
    assert number > 20
    remote.create()
    remote.assert_restores(remote.files)


def killed(remote: Remote, number: int, *, after: bool) -> bool:
    """Create a backup in a child that is killed at a write; tell whether it was."""

    def run() -> object:
        with behind(KilledAt(number, after=after)):
            remote.create()
        return 0

    status = seam.fork(run)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def test_killed_at_any_write_no_half_of_a_backup_is_seen_and_the_next_run_does_it_right(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    soon(monkeypatch)
    remote.create()
    number, count = 0, len(remote.ids)
    while True:
        change(remote.files, number)
        # behind a write is before the next one
        if not killed(remote, max(number, 1), after=number > 0):
            break
        assert len(remote.ids) - count in (0, 1), "a backup is there as a whole or not at all"
        remote.assert_sound()
        remote.create()
        count = len(remote.ids)
        number += 1 if remote.service.conditional else 9
    assert number > 8
    remote.assert_sound()
    remote.assert_restores(remote.files)
