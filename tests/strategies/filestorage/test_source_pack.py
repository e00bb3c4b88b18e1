"""A pack of the source between backups and during one: no blob of a stored transaction is ever missing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import independent_reader
import pytest
import site_factory
from filestorage_vault import Vault, entry_of
from site_factory import Site, SiteFiles, noise

from zodb_vault.errors import SourceChanged
from zodb_vault.strategies.blobs import packer
from zodb_vault.strategies.blobs.source import BlobDirectory, OpenBlobFile


class Meanwhile:
    """Packs the site after ``after`` bytes of a phase of a backup, in the first ``times`` attempts."""

    def __init__(self, vault: Vault, site: Site, phase: str, after: int = 0, times: int = 1) -> None:
        self.site, self.phase, self.after, self.times = site, phase, after, times
        self.left: int | None = None
        self.lock = threading.Lock()
        vault.progress.on_phase = self.begin
        vault.progress.advance = self.advance  # type: ignore[method-assign]

    def begin(self, what: str) -> None:
        self.left = self.after if what == self.phase and self.times else None
        if self.left == 0:
            self.advance(0)

    def advance(self, count: int) -> None:
        with self.lock:
            if self.left is None:
                return
            self.left -= count
            if self.left <= 0:
                self.left, self.times = None, self.times - 1
                self.pack()

    def pack(self) -> None:
        with_garbage(self.site, self.times + 10)
        self.site.pack()


def with_garbage(site: Site, number: int) -> None:
    """Make something for a pack to remove: an old revision of a blob, a removed blob, an old text."""
    site.put(text=f"text {number}", logo=noise(5000, number), **{f"gone{number}": noise(4000, number)})
    del site.root[f"gone{number}"]
    site.commit("remove")
    site.put(logo=noise(5000, number + 1000))


def open_site(directory: Path, keep_old: bool) -> Site:
    site = Site(directory, keep_old=keep_old)
    site.put(kept="kept", picture=noise(2000))
    for number in range(3):
        with_garbage(site, number)
    return site


def kept(files: SiteFiles) -> SiteFiles:
    """Return what a pack keeps: the file as it was, and all blobs of it."""
    return SiteFiles(Path(f"{files.data_fs}.old"), Path(f"{files.blob_dir}.old"))


POINTS = [("storage", 0), ("storage", 1), ("blobs", 0), ("blobs", 1), ("blobs", 3)]


@pytest.mark.parametrize(("phase", "after"), POINTS)
def test_a_pack_that_keeps_old_blobs_is_no_reason_to_start_over(
    tmp_path: Path, phase: str, after: int
) -> None:
    with open_site(tmp_path / "site", keep_old=True) as site:
        vault = Vault(tmp_path, site.files)
        Meanwhile(vault, site, phase, after)
        manifest = vault.create().manifest
        assert manifest.status == "complete"
        assert not any("starting over" in note for note in vault.progress.notes)
        assert entry_of(manifest).pack_tid is None
        # The file that was opened first was stored; transactions added before the pack are not in it.
        old = kept(site.files)
        restored = vault.restore()
        data = restored.data_fs.read_bytes()
        assert old.data_fs.read_bytes().startswith(data)
        assert independent_reader.blob_files(*restored) == independent_reader.blob_files(
            restored.data_fs, old.blob_dir
        )
        assert independent_reader.MISSING not in independent_reader.blob_files(*restored).values()
        assert vault.create().manifest.reason.code == "packed"
        vault.assert_restores(site.files)


@pytest.mark.parametrize(("phase", "after"), POINTS)
def test_a_pack_that_removes_old_blobs_makes_it_start_over(tmp_path: Path, phase: str, after: int) -> None:
    with open_site(tmp_path / "site", keep_old=False) as site:
        vault = Vault(tmp_path, site.files)
        Meanwhile(vault, site, phase, after)
        manifest = vault.create().manifest
        assert manifest.status == "complete"
        restarted = any("starting over" in note for note in vault.progress.notes)
        assert restarted or after > 1  # if all blobs were read before, there is no need
        assert len(vault.ids) == 1
        restored = vault.restore()
        assert independent_reader.MISSING not in independent_reader.blob_files(*restored).values()
        if restarted:
            vault.assert_restores(site.files)
        assert vault.create().manifest.status == "complete"
        vault.assert_restores(site.files)


@pytest.mark.parametrize("keep_old", [True, False])
def test_an_incremental_meets_a_pack(tmp_path: Path, keep_old: bool) -> None:
    with open_site(tmp_path / "site", keep_old) as site:
        vault = Vault(tmp_path, site.files)
        vault.create()
        with_garbage(site, 5)
        Meanwhile(vault, site, "blobs")
        manifest = vault.create().manifest
        assert manifest.status == "complete"
        assert (
            manifest.reason.code == ("continued" if keep_old else "resumed")
            or manifest.reason.code == "packed"
        )
        assert independent_reader.MISSING not in independent_reader.blob_files(*vault.restore()).values()
        vault.create()
        vault.assert_restores(site.files)


def test_packs_in_every_attempt_fail_the_backup(tmp_path: Path) -> None:
    with open_site(tmp_path / "site", keep_old=False) as site:
        vault = Vault(tmp_path, site.files)
        Meanwhile(vault, site, "blobs", times=100)
        with pytest.raises(SourceChanged, match="was packed while it was backed up"):
            vault.create()
        assert sum("starting over" in note for note in vault.progress.notes) == 3
        assert vault.ids == []
        vault.progress.on_phase = lambda what: None
        del vault.progress.advance
        assert vault.create().manifest.status == "complete"
        vault.assert_restores(site.files)


@pytest.mark.parametrize("keep_old", [True, False])
def test_a_pack_that_takes_away_blobs_of_records_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_old: bool
) -> None:
    """Without its file, nothing shows that such a record is a blob's: it must not be taken for a text."""
    files = site_factory.opaque(tmp_path / "site")
    vault = Vault(tmp_path, files)
    every = independent_reader.blob_files(*files)

    def pack(what: str) -> None:
        if what == "blobs":
            vault.progress.on_phase = lambda what: None
            data = files.data_fs.read_bytes()
            files.data_fs.rename(f"{files.data_fs}.old")
            last = independent_reader.headers(Path(f"{files.data_fs}.old"))[-1]
            # what packing to the last but one transaction leaves: here simply the first and the last one
            first_end = independent_reader.headers(Path(f"{files.data_fs}.old"))[0].end
            files.data_fs.write_bytes(moved(data, first_end, last.start, last.end))
            gone = independent_reader.blob_path(files.blob_dir, *min(every, key=lambda key: key[1]))
            if keep_old:
                there = Path(f"{files.blob_dir}.old") / gone.relative_to(files.blob_dir)
                there.parent.mkdir(parents=True)
                gone.rename(there)
            else:
                gone.unlink()

    vault.progress.on_phase = pack
    manifest = vault.create().manifest
    restored = vault.restore()
    found = independent_reader.blob_files(*restored)
    records = {
        (r.oid, t.tid) for t in independent_reader.transactions(restored.data_fs, None) for r in t.records
    }
    assert found == {key: digest for key, digest in every.items() if key in records}
    assert manifest.status == "complete"


def moved(data: bytes, first_end: int, start: int, end: int) -> bytes:
    """Return a Data.fs of the first transaction and a later one, with the positions in it adjusted."""
    transaction = bytearray(data[start:end])
    pos = site_factory.TRANSACTION.size + sum(site_factory.TRANSACTION.unpack_from(transaction)[3:])
    while pos < len(transaction) - 8:
        oid, tid, _previous, _start, _version, length = site_factory.RECORD.unpack_from(transaction, pos)
        site_factory.RECORD.pack_into(transaction, pos, oid, tid, 0, first_end, 0, length)
        pos += site_factory.RECORD.size + (length or 8)
    return data[:first_end] + bytes(transaction)


# Threads that share the blobs to pack


def test_a_blob_that_is_given_back_after_the_end_was_seen_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread holds the last blob, which does not fit into its pack; another thread finds none left."""
    with Site(tmp_path / "site") as site:
        first, _second, last = (
            site.put(**{f"blob{number}": noise(size, number)}) for number, size in enumerate((100, 200, 3000))
        )
        files = site.files
    vault = Vault(tmp_path, files)
    holding, ends = threading.Event(), threading.Semaphore(0)
    take: Callable[[packer.Shared], Any] = packer.Shared.__next__
    open_ = BlobDirectory.open

    def watched(shared: packer.Shared) -> Any:
        try:
            return take(shared)
        except StopIteration:
            ends.release()
            raise

    def slow(directory: BlobDirectory, ref: Any) -> OpenBlobFile | None:
        if ref.tid == first:
            holding.wait(10)  # until the other thread has taken both that are left
        if ref.tid == last and not holding.is_set():
            holding.set()
            ends.acquire(timeout=10)  # the first job has ended
            ends.acquire(timeout=10)  # and the one after it, so that no thread asks for another
            threading.Event().wait(0.1)
        return open_(directory, ref)

    monkeypatch.setattr(packer, "PACK_LIMIT", 3000)
    monkeypatch.setattr(packer.Shared, "__next__", watched)
    monkeypatch.setattr(BlobDirectory, "open", slow)
    manifest = vault.create().manifest
    assert holding.is_set()
    assert [pack.count for pack in vault.packs()] == [1, 1, 1]
    assert entry_of(manifest).blobs.count == 3  # type: ignore[union-attr]
    vault.assert_restores(files)
