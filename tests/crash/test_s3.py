"""Backups in S3 while the service fails in every way; ``create``, ``prune`` and ``copy`` killed at writes.

A partial backup is never seen.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, timedelta
from pathlib import Path

import fault_injection
import filestorage_vault
import pytest
from services.s3 import Service
from services.s3_requests import (
    DownFrom,
    EachFailsOnce,
    EachReadIsCut,
    EachWriteIsLost,
    Faults,
    KilledAt,
    ListedLate,
    Slow,
    behind,
)
from site_factory import Site, SiteFiles, noise

from zodb_vault.errors import StoreError, VaultError
from zodb_vault.model.manifest import Manifest
from zodb_vault.operations.copy.run import copy as copy_backups
from zodb_vault.operations.object_lock import needed_keys
from zodb_vault.operations.prune import run as pruning
from zodb_vault.policy.retention import OnDemandRetention, Rules, SafetyRetention, ScheduledRetention
from zodb_vault.repository.repository import Repository
from zodb_vault.stores import mutex
from zodb_vault.stores.s3 import S3Store
from zodb_vault.strategies.blobs import packer
from zodb_vault.strategies.filestorage import cut


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make several segments and packs of a few kilobytes."""
    monkeypatch.setattr(cut, "SEGMENT_LIMIT", 1500)
    monkeypatch.setattr(packer, "PACK_LIMIT", 5000)


class Remote(filestorage_vault.Vault):
    """A site, and a repository in a bucket that is opened again for every command."""

    def __init__(self, directory: Path, service: Service, files: SiteFiles, location: str = "") -> None:
        self.directory, self.files, self.blob_dir = directory, files, files.blob_dir
        self.location, self.service = location or f"s3://{service.bucket()}/place", service
        self.progress, self._numbers = filestorage_vault.Quiet(), itertools.count()
        if not location:
            Repository.create(self.store)

    @property
    def store(self) -> S3Store:
        return S3Store(self.location, self.service.settings)

    @property
    def repository(self) -> Repository:  # type: ignore[override]
        return Repository.open(self.store)

    def assert_sound(self) -> None:
        """Require the newest listed backups to be complete."""
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


@pytest.mark.parametrize("faults", [EachFailsOnce, EachWriteIsLost, EachReadIsCut, Slow, ListedLate])
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


RULES = Rules(
    scheduled=ScheduledRetention(daily=1, weekly=0, monthly=0),
    on_demand=OnDemandRetention(newest=2, age=timedelta()),
    safety=SafetyRetention(),
    zone=UTC,
)


def prune(remote: Remote) -> None:
    """Remove all but the first and the newest two; what the run before has listed is swept."""
    pruning.prune(
        remote.repository, filestorage_vault.SITE, pruning.PruneOptions(rules=RULES, grace=timedelta())
    )


def copy(remote: Remote) -> None:
    """Copy to another place of the same service."""
    copy_backups(
        remote.repository, copied(remote).repository, filestorage_vault.SITE, filestorage_vault.Quiet()
    )


def copied(remote: Remote) -> Remote:
    """Return the other place."""
    return Remote(remote.directory, remote.service, remote.files, f"{remote.location}-copy")


def whole(remote: Remote) -> set[str]:
    """Require all that backups need to be there, and return their keys."""
    keys, repository = set[str](), remote.repository
    for backup in remote.ids:
        needed_keys(
            repository.manifest_document(filestorage_vault.SITE, backup), repository.objects(""), keys
        )
    assert keys <= stored(remote)
    return keys


def stored(remote: Remote) -> set[str]:
    return {entry.key for prefix in ("objects/", "meta/") for entry in remote.store.list(prefix)}


@pytest.mark.parametrize("faults", [EachFailsOnce, EachWriteIsLost, EachReadIsCut, Slow, ListedLate])
def test_what_passes_keeps_a_prune_and_a_copy_from_nothing(remote: Remote, faults: type[Faults]) -> None:
    for number in range(4):
        change(remote.files, number)
        remote.create(full=number == 1)
    kept = [remote.ids[0], *remote.ids[2:]]
    with behind(faults()):
        Repository.create(copied(remote).store)
        for operation in (copy, prune, prune, prune):
            # what is listed late may look like a damage or another run; nothing is done then
            with contextlib.suppress(VaultError) if faults is ListedLate else contextlib.nullcontext():
                operation(remote)
            assert set(kept) <= set(remote.ids)
    for operation in (prune, prune, prune, copy) if faults is ListedLate else ():
        operation(remote)
    assert remote.ids == kept
    assert stored(remote) == whole(remote), "too much is left, or something is not there"
    assert stored(copied(remote)) == whole(copied(remote))
    assert set(kept) <= set(copied(remote).ids)
    assert remote.verify("bytes").ok and copied(remote).verify("bytes").ok


@pytest.mark.parametrize(("operation", "step"), [(prune, 3), (copy, 9)], ids=["prune", "copy"])
def test_killed_at_writes_of_a_prune_or_a_copy_nothing_is_lost_and_the_next_run_does_it_right(
    remote: Remote, operation: Callable[[Remote], None], step: int
) -> None:
    for number in range(3):
        change(remote.files, number)
        remote.create(full=True)
    Repository.create(copied(remote).store)
    # without conditional writes each has two more, of the sign whose turn it is
    writes, step = 1, step if remote.service.conditional else step * 3 - 1
    while killed(remote, writes, operation, after=writes % 2 == 0):
        let_time_pass(remote)
        let_time_pass(copied(remote))
        whole(remote)
        if operation is copy:
            whole(copied(remote))
        else:
            # a sweep has something to do each time
            change(remote.files, writes)
            remote.create(full=True)
        writes += step
    assert writes > 2 * step
    for _ in range(3):
        operation(remote)
    done = copied(remote) if operation is copy else remote
    assert len(done.ids) == 3
    assert all(done.verify("bytes", backup).ok for backup in done.ids)


def let_time_pass(remote: Remote) -> None:
    """Make the lock objects of a dead process old, where there are no conditional writes.

    A process can also take long on a busy machine.
    """
    bucket, _, place = remote.location.removeprefix("s3://").partition("/")
    client, old = remote.service.client(), time.time() - 2 * mutex.DEAD.total_seconds()
    for one in client.list_objects_v2(Bucket=bucket, Prefix=f"{place}/{mutex.FOLDER}").get("Contents", ()):
        if not one["Key"].endswith(mutex.KEPT):
            client.put_object(Bucket=bucket, Key=one["Key"], Body=b"", Metadata={"mtime": str(old)})


def test_what_lasts_ends_the_run_and_the_next_one_does_it_right(remote: Remote) -> None:
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
        let_time_pass(remote)
        remote.assert_sound()
        # the marker of a run of this process looks like that of an active run
        for entry in remote.store.list("sites/"):
            if "/running/" in entry.key:
                remote.store.delete(entry.key)
        number += 5 if remote.service.conditional else 40
    assert number > 20
    remote.create()
    remote.assert_restores(remote.files)


def killed(
    remote: Remote, number: int, operation: Callable[[Remote], object] = Remote.create, *, after: bool
) -> bool:
    """Do something in a child that is killed at a write; return whether it was."""

    def run() -> object:
        with behind(KilledAt(number, after=after)):
            operation(remote)
        return 0

    status = fault_injection.fork(run)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def test_killed_at_any_write_no_partial_backup_is_seen_and_the_next_run_succeeds(
    remote: Remote, tmp_path: Path
) -> None:
    remote.create()
    number, count = 0, len(remote.ids)
    while True:
        change(remote.files, number)
        # after a write is before the next one
        if not killed(remote, max(number, 1), after=number > 0):
            break
        assert len(remote.ids) - count in (0, 1), "a backup is there as a whole or not at all"
        let_time_pass(remote)
        remote.assert_sound()
        remote.create()
        count = len(remote.ids)
        # among the first ones is the sign of whose turn it is to write the marker
        number += 1 if remote.service.conditional or number < 4 else 9
    assert number > 8
    remote.assert_sound()
    remote.assert_restores(remote.files)
