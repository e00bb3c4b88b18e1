"""Unusual TIDs: future ones identify nothing and are compared; unordered and equal ones are stored."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import independent_reader
import pytest
import site_factory
from filestorage_vault import Vault, entry_of
from site_factory import BLOB_RECORD, MINUTE, START, RawRecord, Site, SiteFiles, noise, text_record, tid_at

from zodb_vault.errors import TargetMissing, VaultError
from zodb_vault.runtime import clock

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Clock:
    """The clock of the machine that makes backups."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOON
        monkeypatch.setattr(clock, "now", lambda: self.now)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def future_site(directory: Path) -> SiteFiles:
    """One transaction of the past and three that are one to three hours after noon."""
    with Site(directory) as site:
        site.put(text="past", blob=noise(1000, 1))
        site.storage.next_moment = NOON + timedelta(hours=1)
        site.put(text="ahead", blob=noise(1000, 2))
        site.storage.next_moment = NOON + timedelta(hours=2)
        site.put(other=noise(1000, 3))
        site.storage.next_moment = NOON + timedelta(hours=3)
        site.put(last="last")
        return site.files


def test_T01_the_future_is_not_stored_again(tmp_path: Path, machine: Clock) -> None:
    files = future_site(tmp_path / "site")
    vault = Vault(tmp_path, files)
    first = vault.create().manifest
    assert any("after the clock of this machine" in warning for warning in entry_of(first).warnings)
    stored = len(independent_reader.headers(files.data_fs))
    size = sum(segment.raw for segment in vault.segments())
    assert any(f"reads {size:,} bytes" in warning for warning in entry_of(first).warnings)
    objects = content_objects(vault)
    for hours in (0.5, 1.5, 2.5, 3.5, 4.0):
        machine.now = NOON + timedelta(hours=hours)
        manifest = vault.create().manifest
        entry = entry_of(manifest)
        assert (entry.transactions_added, entry.blobs_added) == (0, 0)
        assert content_objects(vault) == objects
        assert entry.storage is not None and entry.blobs is not None
        assert (entry.storage.transactions, entry.blobs.count) == (stored, 3)
        assert manifest.status == "complete"
        assert any("after the clock of this machine" in warning for warning in entry.warnings) is (hours < 3)
        assert len(manifest.timeline) == 1
        vault.assert_restores(files)
    assert not any(segment.future for segment in vault.segments())
    assert not any(pack.future for pack in vault.packs())


def content_objects(vault: Vault) -> set[str]:
    """Return the objects that the newest backup needs."""
    parts = [one.parts for one in vault.segments()] + [one.parts for one in vault.packs()]
    return {part.object for some in parts for part in some}


def test_T01_what_is_new_after_the_jump_is_stored_and_nothing_else(tmp_path: Path, machine: Clock) -> None:
    files = future_site(tmp_path / "site")
    vault = Vault(tmp_path, files)
    vault.create()
    for number in range(3):
        with Site(files.data_fs.parent) as site:
            site.put(more=noise(1000, 60 + number))
        objects = content_objects(vault)
        entry = entry_of(vault.create().manifest)
        assert (entry.transactions_added, entry.blobs_added) == (1, 1)
        assert objects <= content_objects(vault)
        vault.assert_restores(files)
    machine.now = NOON + timedelta(days=1)
    assert entry_of(vault.create().manifest).transactions_added == 0
    assert not any(segment.future for segment in vault.segments())
    assert not any(pack.future for pack in vault.packs())
    vault.assert_restores(files)


def test_T01_a_blob_with_other_bytes_under_a_known_tid_is_stored(tmp_path: Path, machine: Clock) -> None:
    files = future_site(tmp_path / "site")
    vault = Vault(tmp_path, files)
    vault.create()
    blob = max(files.blob_dir.rglob("*.blob"), key=lambda path: path.name)
    blob.chmod(0o600)
    blob.write_bytes(noise(1000, 99))
    entry = entry_of(vault.create().manifest)
    assert (entry.transactions_added, entry.blobs_added) == (0, 1)
    vault.assert_restores(files)


def test_only_the_future_part_of_a_longer_past_is_read_again(tmp_path: Path, machine: Clock) -> None:
    files = site_factory.populate(tmp_path / "site")
    vault = Vault(tmp_path, files)
    vault.create()
    with Site(files.data_fs.parent) as site:
        site.storage.next_moment = NOON + timedelta(hours=1)
        site.put(ahead=noise(1000, 50))
    for new in (1, 0, 0):
        entry = entry_of(vault.create().manifest)
        assert (entry.transactions_added, entry.blobs_added) == (new, new)
    assert len(vault.segments()) == 2
    vault.assert_restores(files)
    machine.now += timedelta(hours=2)
    vault.create()
    assert entry_of(vault.create().manifest).transactions_added == 0
    vault.assert_restores(files)


def test_two_timelines_that_reuse_future_tids_are_never_mixed(tmp_path: Path, machine: Clock) -> None:
    """After a restore to a future state both timelines continue: equal TID and OID, other content."""
    with Site(tmp_path / "site") as site:
        site.put(text="past", blob=noise(1000, 1))
        site.storage.next_moment = NOON + timedelta(hours=1)
        site.put(base="base")
    files = site.files
    vault = Vault(tmp_path, files)
    vault.create()
    saved = Path(shutil.copytree(files.data_fs.parent, tmp_path / "saved"))
    for seed in (1, 2):
        shutil.rmtree(files.data_fs.parent)
        shutil.copytree(saved, files.data_fs.parent)
        with Site(files.data_fs.parent) as site:
            site.put(news="same length", other=noise(1000, 100 + seed))
        assert vault.create().manifest.status == "complete"
        vault.assert_restores(files)
    # only the blob differs: nothing in Data.fs shows it
    vault.create()
    vault.assert_restores(files)
    machine.now += timedelta(hours=2)
    vault.create()
    vault.create()
    vault.assert_restores(files)


def test_a_backup_that_was_begun_before_a_tid_does_not_trust_it(tmp_path: Path, machine: Clock) -> None:
    files = future_site(tmp_path / "site")
    vault = Vault(tmp_path, files)
    machine.now = NOON + timedelta(hours=5)
    vault.create()
    assert not any(segment.future for segment in vault.segments())
    machine.now = NOON  # the clock steps back
    entry = entry_of(vault.create().manifest)
    assert entry.transactions_added == 0
    vault.assert_restores(files)
    assert vault.ids == sorted(vault.ids)


# Unordered and equal TIDs


def unordered(directory: Path) -> SiteFiles:
    """Blobs with TIDs of which the last one is the lowest."""
    with Site(directory) as site:
        for number, minutes in enumerate((30, 20, 10), 1):
            records = [
                RawRecord(number, text_record(f"text {number}")),
                RawRecord(100 + number, BLOB_RECORD, noise(500, number)),
            ]
            site.write(records, tid_at(START + minutes * MINUTE))
        return site.files


@pytest.mark.parametrize("build", [unordered, site_factory.unordered_tids, site_factory.equal_tids])
def test_unordered_tids_are_stored_as_they_are_and_said(tmp_path: Path, build: type) -> None:
    files = build(tmp_path / "site")
    vault = Vault(tmp_path, files)
    for code in ("first", "unchanged", "unchanged"):
        created = vault.create()
        entry = entry_of(created.manifest)
        assert created.manifest.reason.code == code
        assert not entry.ordered
        assert any("do not ascend" in warning for warning in entry.warnings)
        assert entry.blobs.count == len(independent_reader.blob_files(*files)) == len(vault.blobs())  # type: ignore[union-attr]
        vault.assert_restores(files)
        assert vault.verify("records").ok


def test_what_follows_unordered_tids_is_an_increment(tmp_path: Path) -> None:
    files = unordered(tmp_path / "site")
    vault = Vault(tmp_path, files)
    vault.create()
    for number, minutes in enumerate((15, 5, 40), 10):
        with Site(files.data_fs.parent) as site:
            site.write(
                [RawRecord(200 + number, BLOB_RECORD, noise(600, number))], tid_at(START + minutes * MINUTE)
            )
        created = vault.create()
        assert (created.manifest.reason.code, entry_of(created.manifest).blobs_added) == ("continued", 1)
        assert created.manifest.status == "complete"
        vault.assert_restores(files)


def test_a_lost_blob_of_unordered_tids_is_inherited(tmp_path: Path) -> None:
    files = unordered(tmp_path / "site")
    lost = max(files.blob_dir.rglob("*.blob"), key=lambda path: path.name)
    lost.unlink()
    vault = Vault(tmp_path, files)
    for _ in range(3):
        created = vault.create()
        assert created.manifest.status == "incomplete"
        assert len(created.missing["main"]) == 1


def test_a_part_of_an_unordered_file_is_stored_again(tmp_path: Path) -> None:
    files = unordered(tmp_path / "site")
    vault = Vault(tmp_path, files)
    vault.create()
    saved = files.data_fs.read_bytes()
    with Site(files.data_fs.parent) as site:
        site.write([RawRecord(300, BLOB_RECORD, noise(600, 50))], tid_at(START + 5 * MINUTE))
    vault.create()
    files.data_fs.write_bytes(saved)
    Path(f"{files.data_fs}.index").unlink()
    with Site(files.data_fs.parent) as site:
        site.write([RawRecord(301, BLOB_RECORD, noise(600, 51))], tid_at(START + 7 * MINUTE))
    created = vault.create()
    assert created.manifest.status == "complete"
    vault.assert_restores(files)


def test_a_time_of_an_unordered_file_is_refused(tmp_path: Path) -> None:
    from zodb_vault.operations.restore.run import RestoreOptions, plan
    from zodb_vault.policy.recovery import AtTimestamp

    files = unordered(tmp_path / "site")
    vault = Vault(tmp_path, files)
    vault.create()
    request = AtTimestamp(START + 25 * MINUTE)
    with pytest.raises(TargetMissing, match="do not ascend"):
        plan(vault.repository, "plone", None, RestoreOptions(request=request, output=tmp_path / "out"))
    vault.assert_restores(files, tid=tid_at(START + 20 * MINUTE))


# Tails


@pytest.mark.parametrize("tail", site_factory.TAILS)
def test_an_unfinished_tail_is_left_out_and_continued_after_it(tmp_path: Path, tail: str) -> None:
    files = site_factory.populate(tmp_path / "site")
    vault = Vault(tmp_path, files)
    whole = files.data_fs.read_bytes()
    site_factory.tear(files.data_fs, tail)
    entry = entry_of(vault.create().manifest)
    assert entry.data_fs is not None
    assert entry.data_fs.end == len(whole)
    assert any("an unfinished transaction" in warning for warning in entry.warnings) is (
        tail in ("header", "short")
    )
    assert vault.restore().data_fs.read_bytes() == whole
    files.data_fs.write_bytes(whole)
    with Site(files.data_fs.parent) as site:
        site.put(after="after")
    assert vault.code() == "continued"
    vault.assert_restores(files)


def test_a_damaged_source_is_refused_and_nothing_committed(tmp_path: Path) -> None:
    files = site_factory.populate(tmp_path / "site")
    vault = Vault(tmp_path, files)
    victim = independent_reader.headers(files.data_fs)[2]
    data = bytearray(files.data_fs.read_bytes())
    data[victim.start + 15] ^= 4
    files.data_fs.write_bytes(data)
    with pytest.raises(VaultError, match="is damaged: the transaction at position"):
        vault.create()
    assert vault.ids == []


def test_a_defect_inside_a_transaction_is_backed_up_and_reported(tmp_path: Path) -> None:
    files = site_factory.populate(tmp_path / "site")
    vault = Vault(tmp_path, files)
    victim = independent_reader.headers(files.data_fs)[1]
    data = bytearray(files.data_fs.read_bytes())
    texts = sum(site_factory.TRANSACTION.unpack_from(data, victim.start)[3:])
    data[victim.start + 23 + texts + 31] ^= 4  # the position of the transaction, in its first record
    files.data_fs.write_bytes(data)
    created = vault.create()
    assert len(created.findings) == 1
    assert "does not belong to the transaction" in created.findings[0]
    assert vault.restore().data_fs.read_bytes() == bytes(data)
    report = vault.verify("records")
    assert report.ok
    assert report.source
