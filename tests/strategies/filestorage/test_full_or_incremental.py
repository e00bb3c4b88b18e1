"""Full or incremental, and why: after restores, packs and replaced files; each backup restores every byte."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import independent_reader
import pytest
import site_factory
from filestorage_vault import SITE, Vault, entry_of
from site_factory import START, Site, SiteFiles, noise

from zodb_vault.errors import TargetMissing, VaultError, WrongSource
from zodb_vault.operations.create import provenance
from zodb_vault.repository.objects import meta_key


def small_site(directory: Path, keep_old: bool = True) -> SiteFiles:
    """A site with two revisions of a blob, another blob, and texts."""
    with Site(directory, keep_old=keep_old) as site:
        site.put(text="one", logo=noise(3000, 1), manual=noise(2000, 2))
        site.put(text="two", logo=noise(3000, 3))
        return site.files


@pytest.fixture
def files(tmp_path: Path) -> SiteFiles:
    return small_site(tmp_path / "site")


@pytest.fixture
def vault(tmp_path: Path, files: SiteFiles) -> Vault:
    return Vault(tmp_path, files)


def more(files: SiteFiles, number: int = 1) -> bytes:
    """Commit a text and a blob; return the TID."""
    with Site(files.data_fs.parent) as site:
        return site.put(news=f"news {number}", **{f"report{number}": noise(1500, 100 + number)})


def copied(files: SiteFiles, directory: Path) -> SiteFiles:
    """Copy a site, with its times."""
    shutil.copytree(files.data_fs.parent, directory)
    return SiteFiles(directory / "Data.fs", directory / "blobs")


def put_back(saved: SiteFiles, files: SiteFiles) -> None:
    """Replace the present Data.fs by a saved one, as ``cp`` does; blobs stay."""
    shutil.copy(saved.data_fs, files.data_fs)
    Path(f"{files.data_fs}.index").unlink(missing_ok=True)


@pytest.mark.parametrize("name", [*site_factory.BUILDERS, *site_factory.UNUSUAL])
def test_the_first_backup_of_any_site_is_full_and_restores(tmp_path: Path, name: str) -> None:
    files = {**site_factory.BUILDERS, **site_factory.UNUSUAL}[name](tmp_path / "site")
    vault = Vault(tmp_path, files)
    if name == "python_2":
        with pytest.raises(VaultError, match="Python 2"):
            vault.create()
        assert vault.ids == []
        return
    manifest = vault.create().manifest
    assert (manifest.how, manifest.reason.code, manifest.status) == ("full", "first", "complete")
    vault.assert_restores(files)
    headers = [header for header in independent_reader.headers(files.data_fs) if header.status != "c"]
    entry = entry_of(manifest)
    assert entry.storage is not None and entry.blobs is not None
    assert entry.storage.transactions == entry.transactions_added == len(headers)
    assert (
        entry.blobs.count
        == entry.blobs_added
        == len(independent_reader.blob_files(files.data_fs, files.blob_dir))
    )
    assert (entry.first_tid, entry.last_tid) == (
        tuple("0x" + headers[n].tid.hex() for n in (0, -1)) if headers else (None, None)
    )


def test_an_incremental_holds_what_is_new_and_restores_all(vault: Vault, files: SiteFiles) -> None:
    first = vault.create().manifest
    for number in range(3):
        more(files, number)
        manifest = vault.create().manifest
        assert (manifest.how, manifest.reason.code, manifest.status) == (
            "incremental",
            "continued",
            "complete",
        )
        entry = entry_of(manifest)
        assert (entry.transactions_added, entry.blobs_added) == (1, 1)
        assert manifest.timeline == first.timeline
        vault.assert_restores(files)
    assert entry.storage is not None and entry.blobs is not None
    assert (entry.storage.transactions, entry.blobs.count) == (6, 6)


def test_an_unchanged_site_makes_a_backup_of_nothing(vault: Vault, files: SiteFiles) -> None:
    first = vault.create().manifest
    second = vault.create().manifest
    assert (second.how, second.reason.code, second.added) == ("incremental", "unchanged", 0)
    assert vault.segments(second) == vault.segments(first)
    assert vault.packs(second) == vault.packs(first)
    assert entry_of(second).transactions_added == entry_of(second).blobs_added == 0
    vault.assert_restores(files)
    skipped = vault.create(skip_unchanged=True)
    assert skipped.skipped
    assert skipped.manifest.id == second.id
    assert len(vault.ids) == 2


def test_without_transactions_and_then_with(tmp_path: Path) -> None:
    files = site_factory.without_transactions(tmp_path / "site")
    vault = Vault(tmp_path, files)
    assert vault.code() == "first"
    vault.assert_restores(files)
    assert vault.code() == "unchanged"
    more(files)
    assert vault.code() == "continued"
    vault.assert_restores(files)


def test_a_forced_one_stores_everything_again_on_the_same_timeline(vault: Vault, files: SiteFiles) -> None:
    first = vault.create().manifest
    more(files)
    forced = vault.create(full=True).manifest
    assert (forced.how, forced.reason.code, forced.parent) == ("full", "forced", None)
    assert forced.timeline == first.timeline
    objects = {part.object for m in (first, forced) for s in vault.segments(m) for part in s.parts}
    assert len(objects) == len(vault.segments(first)) + len(vault.segments(forced))
    vault.assert_restores(files)
    assert vault.code() == "unchanged"


def test_after_a_pack_only_new_blobs_are_stored_and_dead_packs_dropped(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        site.put(old=noise(3000, 1))
        vault.create()
        (only_old,) = vault.packs()
        site.put(kept=noise(3000, 2), old=noise(3000, 3))
        vault.create()
        site.put(new=noise(3000, 4))
        site.pack()
        manifest = vault.create().manifest
    entry = entry_of(manifest)
    assert (manifest.how, manifest.reason.code) == ("full", "packed")
    assert entry.blobs is not None
    assert (entry.blobs.count, entry.blobs_added) == (3, 1)
    assert only_old.index.meta not in {pack.index.meta for pack in vault.packs()}
    assert sorted(vault.blobs()) == sorted(set(vault.blobs()))
    assert entry.pack_tid is not None
    vault.assert_restores(site.files)
    for manifest_id in vault.ids[:2]:
        assert vault.verify("records", manifest_id).ok  # what older backups need is there still


def test_a_pack_that_removes_everything_since_the_backup(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        site.put(text="one", blob=noise(100))
        vault.create()
        for number in range(5):
            site.put(text=f"text {number}", blob=noise(100, number))
        site.pack()
        manifest = vault.create().manifest
    assert manifest.reason.code == "packed"
    assert len(manifest.timeline) == 1
    vault.assert_restores(site.files)


def test_a_pack_that_frees_nothing_goes_on(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        site.put(text="one", blob=noise(100))
        site.pack()
        vault.create()
        site.put(other="two")
        site.pack(gc=False)
        manifest = vault.create().manifest
        assert manifest.reason.code in ("continued", "packed")
        vault.assert_restores(site.files)


# Restored sites, and other ones


def test_a_file_that_went_back_to_between_two_backups_diverges(
    vault: Vault, files: SiteFiles, tmp_path: Path
) -> None:
    vault.create()
    kept = more(files, 1)
    vault.create()
    abandoned = more(files, 2)
    lost = vault.create().manifest
    independent_reader.cut(files.data_fs, kept, tmp_path / "cut").replace(files.data_fs)
    Path(f"{files.data_fs}.index").unlink()
    with Site(files.data_fs.parent) as site:
        site.storage.next_moment = START + 100 * site_factory.MINUTE
        new = site.put(news="another", other=noise(1000, 50))
    manifest = vault.create().manifest
    assert (manifest.how, manifest.reason.code) == ("incremental", "diverged")
    assert [(line.id, line.until_tid) for line in manifest.timeline] == [
        (vault.ids[0], "0x" + kept.hex()),
        (manifest.id, None),
    ]
    vault.assert_restores(files)
    vault.assert_restores(files, tid=kept)
    vault.assert_restores(files, tid=new)
    with pytest.raises(TargetMissing, match=lost.id):
        vault.restore(tid=abandoned)
    assert independent_reader.headers(vault.restore(lost.id, abandoned).data_fs)[-1].tid == abandoned


def test_a_file_that_went_back_to_the_end_of_an_older_backup_diverges_from_the_newest(
    vault: Vault, files: SiteFiles, tmp_path: Path
) -> None:
    """It continues the older one byte for byte, but the timeline of the newest ends there."""
    vault.create()
    saved = copied(files, tmp_path / "saved")
    common = independent_reader.headers(files.data_fs)[-1].tid
    abandoned = more(files, 1)
    lost = vault.create().manifest
    put_back(saved, files)
    with Site(files.data_fs.parent) as site:
        site.storage.next_moment = START + 100 * site_factory.MINUTE
        site.put(news="another", other=noise(1000, 50))
    manifest = vault.create().manifest
    assert (manifest.how, manifest.reason.code, manifest.parent) == ("incremental", "diverged", lost.id)
    assert [(line.id, line.until_tid) for line in manifest.timeline] == [
        (vault.ids[0], "0x" + common.hex()),
        (manifest.id, None),
    ]
    assert entry_of(manifest).blobs_added == 1
    vault.assert_restores(files)
    with pytest.raises(TargetMissing, match=lost.id):
        vault.restore(tid=abandoned)


def test_a_file_that_is_an_older_state_and_nothing_more_diverges(
    vault: Vault, files: SiteFiles, tmp_path: Path
) -> None:
    vault.create()
    saved = copied(files, tmp_path / "saved")
    abandoned = more(files, 1)
    vault.create()
    put_back(saved, files)
    manifest = vault.create().manifest
    assert manifest.reason.code == "diverged"
    assert len(manifest.timeline) == 2
    vault.assert_restores(files)
    with pytest.raises(TargetMissing):
        vault.restore(tid=abandoned)
    assert vault.code() == "unchanged"


def test_blobs_of_an_abandoned_timeline_are_not_in_a_backup_of_the_new_one(
    vault: Vault, files: SiteFiles, tmp_path: Path
) -> None:
    """One pack holds a blob of the part that both timelines share and one of the abandoned part."""
    vault.create()
    common, _abandoned = more(files, 1), more(files, 2)
    vault.create()
    independent_reader.cut(files.data_fs, common, tmp_path / "cut").replace(files.data_fs)
    Path(f"{files.data_fs}.index").unlink()
    with Site(files.data_fs.parent) as site:
        site.storage.next_moment = START + 100 * site_factory.MINUTE
        site.put(news="other", report2=noise(1500, 999))
    manifest = vault.create().manifest
    assert manifest.reason.code == "diverged"
    assert {(one.oid, one.tid) for one in vault.blobs()} == set(independent_reader.blob_files(*files))
    assert entry_of(manifest).blobs.count == len(independent_reader.blob_files(*files))  # type: ignore[union-attr]
    assert entry_of(manifest).blobs_added == 1
    vault.assert_restores(files)


def test_another_database_is_a_new_history(vault: Vault, files: SiteFiles, tmp_path: Path) -> None:
    vault.create()
    shutil.rmtree(files.data_fs.parent)
    with Site(files.data_fs.parent, start=START + 1000 * site_factory.MINUTE) as site:
        site.put(other="site", blob=noise(100, 77))
    manifest = vault.create(take_over=True).manifest
    assert (manifest.how, manifest.reason.code, manifest.parent) == ("full", "new-history", None)
    assert [line.id for line in manifest.timeline] == [manifest.id]
    vault.assert_restores(files, manifest.id)


def test_the_newest_of_several_timelines_is_continued(vault: Vault, files: SiteFiles, tmp_path: Path) -> None:
    """Back and forth: a wrong state was put in place, backed up, and taken away again."""
    vault.create()
    old = copied(files, tmp_path / "old")
    more(files, 1)
    right = vault.create().manifest
    present = copied(files, tmp_path / "present")
    put_back(old, files)
    with Site(files.data_fs.parent) as site:
        site.storage.next_moment = START + 100 * site_factory.MINUTE
        site.put(wrong="wrong")
    assert vault.code() == "diverged"
    put_back(present, files)
    more(files, 2)
    manifest = vault.create().manifest
    assert manifest.how == "incremental"
    assert entry_of(manifest).blobs_added == 1
    assert {pack.index.meta for pack in vault.packs(right)} <= {
        pack.index.meta for pack in vault.packs(manifest)
    }
    vault.assert_restores(files)


# Lists that are gone


def remove_lists(vault: Vault) -> None:
    """Remove the list documents of all backups."""
    for backup in vault.catalog.newest_first():
        storage = entry_of(backup.manifest).storage
        assert storage is not None
        for ref in storage.lists:
            vault.repository.store.delete(meta_key(ref.list))


def test_a_backup_whose_lists_are_gone_cannot_be_continued(
    vault: Vault, files: SiteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zodb_vault.model.chain.TAIL_LIMIT", 1)
    monkeypatch.setattr("zodb_vault.model.chain.TAIL_KEPT", 1)
    for number in range(3):
        more(files, number)
        vault.create()
    assert entry_of(vault.newest).storage.lists  # type: ignore[union-attr]
    remove_lists(vault)
    with Site(files.data_fs.parent) as site:
        site.pack()
    manifest = vault.create().manifest
    assert (manifest.how, manifest.reason.code, manifest.parent) == ("full", "parent-missing", None)
    vault.assert_restores(files)
    assert vault.code() == "unchanged"


# Sources


def test_a_moved_source_is_reported_and_backed_up(vault: Vault, files: SiteFiles, tmp_path: Path) -> None:
    vault.create()
    vault.files = SiteFiles(*(path for path in copied(files, tmp_path / "moved")))
    vault.blob_dir = vault.files.blob_dir
    assert vault.code() == "unchanged"
    assert any("moved" in note for note in vault.progress.notes)
    vault.progress.notes.clear()
    assert vault.code() == "unchanged"
    assert vault.progress.notes == []


def test_a_wrong_source_is_refused_unless_it_takes_over(vault: Vault, tmp_path: Path) -> None:
    vault.create()
    before = sorted(vault.repository.store.list(""))
    with Site(tmp_path / "other", start=START + 1000 * site_factory.MINUTE) as site:
        site.put(text="other", blob=noise(100))
    other = site.files
    vault.files, vault.blob_dir = other, other.blob_dir
    with pytest.raises(WrongSource, match="another source") as caught:
        vault.create()
    assert "--take-over" in caught.value.hint
    assert sorted(vault.repository.store.list("")) == before
    vault.assert_restores(other, vault.create(take_over=True).manifest.id)
    assert vault.code() in ("unchanged", "continued")


def test_another_machine_is_another_source(
    vault: Vault, files: SiteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.create()
    monkeypatch.setattr(provenance, "machine", lambda: "another")
    assert vault.code() == "unchanged"
    assert any("another" in note for note in vault.progress.notes)


def test_a_linked_data_fs_is_followed(vault: Vault, files: SiteFiles, tmp_path: Path) -> None:
    real = files.data_fs.rename(tmp_path / "real.fs")
    os.symlink(real, files.data_fs)
    vault.create()
    vault.assert_restores(files)
    assert vault.code() == "unchanged"


def test_the_listing_of_a_repository_has_no_other_site(vault: Vault) -> None:
    vault.create()
    assert vault.repository.sites() == [SITE]
