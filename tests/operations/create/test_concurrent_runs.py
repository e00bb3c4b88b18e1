"""Runs that meet: two at once, a dead one, a continued one; and the locks of a cold backup."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import independent_reader
import msgspec
import pytest
from filestorage_vault import SITE, Vault, entry_of
from site_factory import Site, SiteFiles, noise

from zodb_vault.cli.main import run
from zodb_vault.errors import InUse, SourceChanged, StoreError
from zodb_vault.model import canonical
from zodb_vault.model.manifest import Marker
from zodb_vault.repository import markers
from zodb_vault.runtime import clock
from zodb_vault.stores.local import LocalStaging, LocalStore
from zodb_vault.strategies.blobs import packer
from zodb_vault.strategies.filestorage import cut

KEY = markers.marker_key(SITE, "create", "")


def site_of(directory: Path, transactions: int = 8) -> SiteFiles:
    with Site(directory) as site:
        for number in range(transactions):
            site.put(text=f"{noise(300, number).hex()}", **{f"blob{number}": noise(1500, 100 + number)})
        return site.files


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path, site_of(tmp_path / "site"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small segments and packs, each noted at once."""
    monkeypatch.setattr(cut, "SEGMENT_LIMIT", 1500)
    monkeypatch.setattr(packer, "PACK_LIMIT", 5000)
    monkeypatch.setattr("zodb_vault.operations.create.resume.CHECKPOINT_BYTES", 1)


# Two at once


def test_two_runs_at_once_are_one_too_many(vault: Vault, capsys: pytest.CaptureFixture[str]) -> None:
    statuses: list[int] = []

    def second(what: str) -> None:
        if what == "blobs":
            arguments = [
                "--repository",
                str(vault.directory / "repository"),
                "--site",
                SITE,
                "--data-fs",
                str(vault.files.data_fs),
            ]
            statuses.append(run(["create", *arguments, "--blob-dir", str(vault.files.blob_dir)]))

    vault.progress.on_phase = second
    vault.create()
    assert statuses == [11]
    assert f"pid {os.getpid()}" in capsys.readouterr().err
    assert len(vault.ids) == 1
    assert list(vault.repository.store.list(f"sites/{SITE}/running/")) == []
    vault.assert_restores(vault.files)


def test_of_two_that_begin_together_one_wins(vault: Vault) -> None:
    barrier, outcomes = threading.Barrier(2), list[str]()
    put = LocalStore.put

    def together(store: LocalStore, key: str, chunks: Any) -> int:
        if key == KEY:
            barrier.wait(20)
        return put(store, key, chunks)

    def create() -> None:
        try:
            outcomes.append(vault.create().manifest.status)
        except InUse as error:
            outcomes.append(error.kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStore, "put", together)
        threads = [threading.Thread(target=create) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(outcomes) == ["complete", "in-use"]
    assert len(vault.ids) == 1
    vault.assert_restores(vault.files)


# One that died


def dead_process() -> tuple[int, str]:
    """Return pid and identity of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = markers.process_identity(child.pid)
    child.communicate(b"\n")
    return child.pid, identity


def leave_marker(vault: Vault, **changes: Any) -> None:
    """Write the marker of another run."""
    now = clock.iso(clock.now())
    pid, process = dead_process()
    marker = Marker(
        run="20200101T000000Z-000000",
        what="create",
        host="here",
        pid=pid,
        process=process,
        started=now,
        heartbeat=now,
    )
    vault.repository.store.put(KEY, [canonical.with_digest(msgspec.structs.replace(marker, **changes))])


def test_the_marker_of_a_dead_process_is_taken_over_at_once(vault: Vault) -> None:
    leave_marker(vault)
    assert vault.create().manifest.status == "complete"
    assert list(vault.repository.store.list(f"sites/{SITE}/running/")) == []
    vault.assert_restores(vault.files)


def test_a_pid_that_was_given_to_another_process_is_not_alive(vault: Vault) -> None:
    leave_marker(vault, pid=os.getpid())
    assert vault.create().manifest.status == "complete"


def test_the_marker_of_a_live_process_is_valid_at_any_age(vault: Vault) -> None:
    old = clock.iso(clock.now() - timedelta(days=3))
    leave_marker(vault, pid=os.getpid(), process=markers.process_identity(os.getpid()), heartbeat=old)
    with pytest.raises(InUse, match=f"pid {os.getpid()}"):
        vault.create()


@pytest.mark.parametrize(("minutes", "alive"), [(0, True), (14, True), (16, False), (10_000, False)])
def test_for_another_machine_only_the_heartbeat_decides(vault: Vault, minutes: int, alive: bool) -> None:
    heartbeat = clock.iso(clock.now() - timedelta(minutes=minutes))
    leave_marker(vault, process="boot/space/12345", heartbeat=heartbeat, pid=os.getpid())
    if alive:
        with pytest.raises(InUse):
            vault.create()
    else:
        assert vault.create().manifest.status == "complete"


# One that was interrupted


class Fail:
    """Fails the n-th write of content."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.left = number
        self.store, self.lock = LocalStaging.store, threading.Lock()
        monkeypatch.setattr(LocalStaging, "store", lambda staging, key: self(staging, key))

    def __call__(self, staging: LocalStaging, key: str) -> None:
        with self.lock:
            if key.startswith("objects/"):
                self.left -= 1
                if self.left < 0:
                    raise StoreError("no space left on device")
        self.store(staging, key)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("number", [0, 1, 2, 5, 13, 16, 19])
def test_an_interrupted_full_backup_is_continued(vault: Vault, number: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Fail(patch, number)
        with pytest.raises(StoreError):
            vault.create(workers=1)
    assert vault.ids == []
    kept = {entry.key for entry in vault.repository.store.list("objects/")}
    noted = canonical.check_digest(vault.repository.store.get(KEY), KEY) if number > 2 else b""
    manifest = vault.create(workers=1).manifest
    if noted:
        assert manifest.reason.code == "resumed"
        parts = [p for segment in vault.segments() for p in segment.parts] + [
            p for pack in vault.packs() for p in pack.parts
        ]
        used = {f"objects/{p.object[:2]}/{p.object}" for p in parts}
        assert used & kept
        # what was stored is not stored again: at most the piece that was being written, and its log
        assert len(kept - used - logs(vault)) <= 2
    assert manifest.status == "complete"
    vault.assert_restores(vault.files)
    assert vault.verify("records").ok
    assert list(vault.repository.store.list(f"sites/{SITE}/running/")) == []
    entry = entry_of(manifest)
    assert entry.storage is not None and entry.blobs is not None
    assert (entry.storage.transactions, entry.blobs.count) == (
        len(independent_reader.headers(vault.files.data_fs)),
        8,
    )
    assert vault.code() == "unchanged"


def logs(vault: Vault) -> set[str]:
    return {f"objects/{p.object[:2]}/{p.object}" for segment in vault.segments() for p in segment.log}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("number", [2, 5, 9])
def test_an_interrupted_incremental_is_continued_after_more_commits(
    tmp_path: Path, vault: Vault, number: int
) -> None:
    vault.create(workers=1)
    with Site(vault.files.data_fs.parent) as site:
        for more in range(5):
            site.put(text=noise(300, 50 + more).hex(), **{f"more{more}": noise(1500, 200 + more)})
        with pytest.MonkeyPatch.context() as patch:
            Fail(patch, number)
            with pytest.raises(StoreError):
                vault.create(workers=1)
        site.put(last="last", lastblob=noise(100, 9))
    manifest = vault.create(workers=1).manifest
    assert (manifest.how, manifest.status) == ("incremental", "complete")
    assert len(manifest.timeline) == 1
    assert entry_of(manifest).blobs.count == 14  # type: ignore[union-attr]
    vault.assert_restores(vault.files)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("keep_old", [True, False])
def test_an_interrupted_backup_of_a_file_that_was_packed_since(tmp_path: Path, keep_old: bool) -> None:
    with Site(tmp_path / "site", keep_old=keep_old) as site:
        for number in range(8):
            site.put(
                text=noise(300, number).hex(),
                blob=noise(1500, number),
                kept="kept" if not number else "other",
            )
        vault = Vault(tmp_path, site.files)
        with pytest.MonkeyPatch.context() as patch:
            Fail(patch, 18)
            with pytest.raises(StoreError):
                vault.create(workers=1)
        site.pack()
    manifest = vault.create(workers=1).manifest
    assert manifest.status == "complete"
    assert {(one.oid, one.tid) for one in vault.blobs()} == set(independent_reader.blob_files(*site.files))
    vault.assert_restores(site.files)


@pytest.mark.usefixtures("small")
def test_a_blob_that_changed_since_the_interruption_does_not_come_from_it(vault: Vault) -> None:
    """Segments that were stored are read again, to find their blobs, and must still be what was stored."""
    with pytest.MonkeyPatch.context() as patch:
        Fail(patch, 6)
        with pytest.raises(StoreError):
            vault.create(workers=1)
    data = bytearray(vault.files.data_fs.read_bytes())
    first = independent_reader.headers(vault.files.data_fs)[1]
    at = data.index(b"text", first.start)
    data[at] ^= 1
    vault.files.data_fs.write_bytes(data)
    with pytest.raises(SourceChanged, match="no longer has the bytes"):
        vault.create(workers=1)


# Cold


def test_a_cold_backup_takes_the_lock_and_gives_it_back(vault: Vault) -> None:
    held: list[bool] = []

    def try_to_open(_what: str) -> None:
        from zc.lockfile import LockError

        try:
            Site(vault.files.data_fs.parent).close()
        except LockError:
            held.append(True)

    vault.progress.on_phase = try_to_open
    assert vault.create(cold=True).manifest.status == "complete"
    assert held == [True, True]
    vault.progress.on_phase = lambda what: None
    Site(vault.files.data_fs.parent).close()
    vault.assert_restores(vault.files)


def test_a_cold_backup_of_a_running_site_is_refused(vault: Vault) -> None:
    with Site(vault.files.data_fs.parent):
        with pytest.raises(InUse, match="is in use"):
            vault.create(cold=True)
        assert vault.ids == []
        assert vault.create().manifest.status == "complete"  # a hot one is not


def test_a_cold_backup_locks_the_name_and_the_file(vault: Vault, tmp_path: Path) -> None:
    link = tmp_path / "link.fs"
    link.symlink_to(vault.files.data_fs)
    vault.files = SiteFiles(link, vault.files.blob_dir)
    seen: list[set[str]] = []
    vault.progress.on_phase = lambda what: seen.append(
        {str(path) for path in tmp_path.rglob("*.lock") if path.read_bytes().strip()}
    )
    vault.create(cold=True)
    assert {f"{link}.lock", f"{link.resolve()}.lock"} <= seen[0]
    with Site(link.resolve().parent), pytest.raises(InUse):
        vault.create(cold=True)
