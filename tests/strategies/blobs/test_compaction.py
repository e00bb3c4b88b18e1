"""Small segments are compacted and half-empty packs rewritten while the source still has the stored content.

Otherwise the old object stays.
"""

from __future__ import annotations

from pathlib import Path

import independent_reader
import pytest
from filestorage_vault import Vault, blob_paths, entry_of
from site_factory import Site, SiteFiles, noise

from zodb_vault.strategies.blobs import compaction, packer
from zodb_vault.strategies.blobs.compaction import small_neighbours
from zodb_vault.strategies.blobs.source import BlobDirectory
from zodb_vault.strategies.filestorage import cut, segments
from zodb_vault.strategies.filestorage.matching import SegmentMatcher

MIB = 1 << 20


@pytest.mark.parametrize(
    ("sizes", "run"),
    [
        ([], (0, 0)),
        ([1] * 32, (0, 0)),
        ([1] * 33, (0, 33)),
        ([20] + [1] * 33, (1, 34)),
        ([1] * 33 + [20], (0, 33)),
        ([1] * 20 + [20] + [1] * 20, (0, 0)),
        ([1] * 33 + [20] + [1] * 34, (34, 68)),
        ([1] * 34 + [16] + [1] * 33, (0, 34)),
        ([15] * 33, (0, 33)),
        ([16] * 40, (0, 0)),
    ],
)
def test_more_than_32_small_neighbours_are_compacted(sizes: list[int], run: tuple[int, int]) -> None:
    assert small_neighbours(size * MIB for size in sizes) == run


def commit(site: Site, number: int, size: int = 400) -> None:
    changes: dict[str, str | bytes] = {
        f"text{number}": f"text {number}",
        f"blob{number}": noise(size, number),
    }
    site.put(**changes)


def backups(vault: Vault, site: Site, first: int, count: int) -> None:
    """Commit and back up a number of times."""
    for number in range(first, first + count):
        commit(site, number)
        vault.create(workers=1)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compact four neighbours already."""
    monkeypatch.setattr(compaction, "NEIGHBOURS", 3)


def test_33_small_increments_are_compacted(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        backups(vault, site, 0, 32)
        assert (len(vault.segments()), len(vault.packs())) == (32, 32)
        before = vault.newest
        backups(vault, site, 32, 1)
        assert (len(vault.segments()), len(vault.packs())) == (1, 1)
    entry = entry_of(vault.newest)
    assert entry.storage is not None and entry.blobs is not None
    assert (
        entry.storage.transactions
        == len(independent_reader.headers(site.files.data_fs))
        == vault.segments()[0].transactions
    )
    assert vault.segments()[0].tail_start == independent_reader.headers(site.files.data_fs)[-1].start
    assert entry.blobs.count == 33
    assert len(set(vault.blobs())) == len(vault.blobs()) == 33
    assert vault.newest.status == "complete"
    vault.assert_restores(site.files)
    assert vault.verify("records", before.id).ok  # what older backups need is there still
    assert vault.verify("records").ok
    with Site(site.files.data_fs.parent) as again:
        commit(again, 50)
    assert vault.create().manifest.reason.code == "continued"
    vault.assert_restores(site.files)


@pytest.mark.usefixtures("few")
def test_a_compacted_segment_is_a_target_for_every_transaction(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        backups(vault, site, 0, 5)
    for tid in independent_reader.valid_tids(site.files.data_fs):
        vault.assert_restores(site.files, tid=tid)


@pytest.mark.usefixtures("few")
def test_compacted_segments_stay_below_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_LIMIT", 1500)
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        backups(vault, site, 0, 4)
    ranges = [(segment.start, segment.end) for segment in vault.segments()]
    assert len(ranges) > 1
    assert all(end - start <= 1500 for start, end in ranges)
    assert [end for _start, end in ranges[:-1]] == [start for start, _end in ranges[1:]]
    vault.assert_restores(site.files)


def flip(path: Path, pos: int) -> None:
    """Change a byte of a file, not its time."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[pos] ^= 1
    path.write_bytes(data)
    path.chmod(mode)


def test_a_blob_that_changed_during_compaction_keeps_its_old_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        backups(vault, site, 0, 3)
        monkeypatch.setattr(compaction, "NEIGHBOURS", 3)
        before = independent_reader.blob_files(*site.files)
        changed = next(blob_paths(site.files))
        flip(changed, 5)
        commit(site, 3)
        created = vault.create()
    assert created.findings == [f"{changed} changed since it was backed up; the backup keeps the old content"]
    assert created.findings[0] in entry_of(created.manifest).warnings
    assert 1 < len(vault.packs()) < 4  # the one that was kept, and the three others
    assert created.manifest.status == "complete"
    restored = independent_reader.blob_files(*vault.restore())
    assert {key: restored[key] for key in before} == before


@pytest.mark.usefixtures("few")
def test_a_blob_that_is_gone_during_compaction_keeps_its_old_object(tmp_path: Path) -> None:
    """Compaction never turns a stored blob into a missing one."""
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        backups(vault, site, 0, 3)
        before = independent_reader.blob_files(*site.files)
        next(blob_paths(site.files)).unlink()
        commit(site, 3)
        created = vault.create()
    assert len(created.findings) == 1
    assert created.manifest.status == "complete"
    assert entry_of(created.manifest).blobs.count == 4  # type: ignore[union-attr]
    restored = independent_reader.blob_files(*vault.restore())
    assert {key: restored[key] for key in before} == before


def test_a_blob_that_goes_away_between_comparing_and_copying_keeps_its_old_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        backups(vault, site, 0, 3)
        monkeypatch.setattr(compaction, "NEIGHBOURS", 3)
        victim = next(blob_paths(site.files))
        compare = packer.still_holds

        def still_holds(directory: BlobDirectory, member: packer.Member) -> bool:
            found = compare(directory, member)
            victim.unlink(missing_ok=True)
            return found

        monkeypatch.setattr(compaction, "still_holds", still_holds)
        commit(site, 3)
        vault.create()
    assert len(vault.packs()) == 4
    assert len(independent_reader.blob_files(*vault.restore())) == 4
    assert independent_reader.MISSING not in independent_reader.blob_files(*vault.restore()).values()


def test_a_data_fs_that_changed_during_compaction_keeps_its_old_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        backups(vault, site, 0, 3)
        monkeypatch.setattr(compaction, "NEIGHBOURS", 3)
        second = vault.segments()[1]
        before = site.files.data_fs.read_bytes()
        commit(site, 3)
    # the user of the second transaction: the last bytes of a segment would make it no continuation
    changed = bytearray(site.files.data_fs.read_bytes())
    changed[second.start + 23] ^= 1
    site.files.data_fs.write_bytes(changed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentMatcher, "matches", lambda _self, _segment: True)
        created = vault.create()
    assert len(created.findings) == 1
    assert f"the bytes {second.start} to {second.end} of Data.fs changed" in created.findings[0]
    assert len(vault.segments()) == 4
    assert vault.restore().data_fs.read_bytes()[: len(before)] == before


@pytest.mark.usefixtures("few")
def test_the_transactions_of_a_segment_are_few_enough_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments that are full in that sense are not small ones to be compacted again and again."""
    for module in (cut, segments):
        monkeypatch.setattr(module, "TRANSACTIONS_LIMIT", 8)
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        for number in range(50):
            commit(site, number)
        vault.create()
        full = vault.segments()[:-1]
        assert {segment.transactions for segment in full} == {8}
        backups(vault, site, 50, 9)
    assert vault.segments()[: len(full)] == full
    assert max(segment.transactions for segment in vault.segments()) == 8
    assert len(vault.segments()) < len(full) + 6
    vault.assert_restores(site.files)


# After a pack


def half_dead(tmp_path: Path, keep_old: bool = True) -> tuple[Vault, Site]:
    """A site with a pack of six blobs, of which a pack of the ZODB left two."""
    site = Site(tmp_path / "site", keep_old=keep_old)
    vault = Vault(tmp_path, site.files)
    site.put(kept="kept", **{f"blob{number}": noise(3000, number) for number in range(6)})
    vault.create(workers=1)  # two would share the blobs among two packs
    assert [pack.count for pack in vault.packs()] == [6]
    for number in range(4):
        del site.root[f"blob{number}"]
    site.commit("remove")
    site.pack()
    return vault, site


def test_a_half_empty_pack_is_rewritten_from_the_source(tmp_path: Path) -> None:
    vault, site = half_dead(tmp_path)
    site.close()
    (old,) = vault.packs()
    created = vault.create(workers=1)
    (new,) = vault.packs()
    assert created.findings == []
    assert (new.count, new.raw) < (old.count, old.raw)
    assert new.live + 1024 == new.raw
    assert entry_of(created.manifest).blobs.sparse == 0  # type: ignore[union-attr]
    vault.assert_restores(site.files)
    assert vault.verify("records", vault.ids[0]).ok


def test_rewriting_stays_within_its_budget_and_goes_on_in_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packer, "PACK_LIMIT", 8000)
    monkeypatch.setattr(compaction, "REWRITE_SHARE", 0.0)
    monkeypatch.setattr(compaction, "REWRITE_BYTES", 2000)
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        site.put(kept="kept", **{f"blob{number}": noise(1000, number) for number in range(15)})
        vault.create(workers=1)
        packs = len(vault.packs())
        assert packs >= 3
        for number in range(15):
            if number % 5:
                del site.root[f"blob{number}"]
        site.commit("remove")
        site.pack()
        left, runs = list[int](), 0
        while not left or left[-1]:
            runs += 1
            vault.create()
            left.append(entry_of(vault.newest).blobs.sparse)  # type: ignore[union-attr]
            vault.assert_restores(site.files)
    assert left[0] > 0
    assert left == sorted(left, reverse=True)
    assert runs > 1
    assert not any(compaction.is_sparse(pack) for pack in vault.packs())


def test_a_rewritten_blob_that_changed_at_the_source_keeps_its_pack(tmp_path: Path) -> None:
    vault, site = half_dead(tmp_path)
    site.close()
    before = independent_reader.blob_files(*site.files)
    changed = next(blob_paths(site.files))
    flip(changed, 0)
    (old,) = vault.packs()
    created = vault.create()
    (kept,) = vault.packs()
    assert len(created.findings) == 1
    assert str(changed) in created.findings[0]
    assert (kept.parts, kept.count) == (old.parts, 2)
    assert independent_reader.blob_files(*vault.restore()) == before


@pytest.mark.parametrize("keep_old", [True, False])
def test_a_pack_that_takes_blobs_away_while_packs_are_rewritten_is_no_finding(
    tmp_path: Path, keep_old: bool
) -> None:
    vault, site = half_dead(tmp_path, keep_old)

    def pack(what: str) -> None:
        if what == "blobs":
            site.put(blob4=noise(3000, 44))
            site.pack()

    vault.progress.on_phase = pack
    created = vault.create(workers=1)
    assert (created.findings, created.manifest.status) == ([], "complete")
    assert vault.verify("restore").ok
    vault.progress.on_phase = lambda _what: None
    vault.create(workers=1)
    site.close()
    assert not any(compaction.is_sparse(pack) for pack in vault.packs())
    vault.assert_restores(site.files)


def test_an_old_backup_keeps_blobs_that_a_pack_removed(tmp_path: Path) -> None:
    vault, site = half_dead(tmp_path)
    site.close()
    old = SiteFiles(Path(f"{site.files.data_fs}.old"), Path(f"{site.files.blob_dir}.old"))
    vault.create()
    restored = vault.restore(vault.ids[0])
    wanted = {
        key: digest
        for key, digest in independent_reader.blob_files(*old).items()
        if key in independent_reader.blob_files(*restored)
    }
    assert independent_reader.blob_files(*restored) == wanted
    assert len(wanted) == 6


# Limits


def test_packs_are_full_and_no_longer_than_their_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packer, "PACK_LIMIT", 10_000)
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        site.put(
            **{f"blob{number}": noise(1000 + number, number) for number in range(40)}, giant=noise(50_000)
        )
    vault.create()
    lengths = sorted(pack.raw for pack in vault.packs())
    assert lengths[-1] > 50_000  # a blob that is longer than a pack has one of its own
    assert all(length <= 10_000 + 1024 for length in lengths[:-1])
    assert sum(length > 7000 for length in lengths) >= 6
    vault.assert_restores(site.files)


def test_segments_end_with_a_transaction_below_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zodb_vault.strategies.filestorage.cut.SEGMENT_LIMIT", 3000)
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        for number in range(12):
            site.put(text="x" * 700 * (10 if number == 5 else 1))
    vault.create()
    ends = {header.end for header in independent_reader.headers(site.files.data_fs)}
    segments = vault.segments()
    assert all(segment.end in ends for segment in segments)
    assert [(s.transactions, s.raw > 3000) for s in segments if s.raw > 3000] == [(1, True)]
    vault.assert_restores(site.files)
    for tid in independent_reader.valid_tids(site.files.data_fs)[3:-1:3]:
        vault.assert_restores(site.files, tid=tid)
