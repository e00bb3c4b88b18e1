"""A packed Data.fs: every transaction since the pack can be restored; earlier ones are refused.

The error names the nearest transaction that can be restored.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import history_with_backups
import independent_reader
import pytest
import random_histories
import site_factory
from filestorage_vault import Vault
from site_factory import SiteFiles

from zodb_vault.errors import TargetMissing
from zodb_vault.operations.restore.targets import resolve
from zodb_vault.policy.recovery import AtTimestamp, BeforeTid, ToTid
from zodb_vault.strategies.filestorage.restore import index as indexing


def packed_twice(directory: Path) -> SiteFiles:
    """Packed, gone on, and packed to a time in between."""
    with site_factory.Site(directory) as site:
        until = site.put(text="one", blob=site_factory.noise(900, 1), garbage=site_factory.noise(900, 2))
        site.put(text="two", blob=site_factory.noise(900, 3))
        site.pack(until)
        del site.root["garbage"]
        later = site.commit("remove garbage")
        undone = site.put(text="three", blob=site_factory.noise(900, 4))
        site.undo(undone)
        site.pack(later)
        return site.files


def packed_to_the_end(directory: Path) -> SiteFiles:
    """Packed to its last transaction: only this one is left to go back to."""
    with site_factory.Site(directory) as site:
        site.put(text="one", blob=site_factory.noise(900, 1))
        site.put(text="two", blob=site_factory.noise(900, 2))
        site.pack()
        return site.files


BUILDERS = [
    site_factory.packed,
    site_factory.populate,
    site_factory.undone_into_packed,
    packed_twice,
    packed_to_the_end,
]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_every_target_of_a_packed_file_restores_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Callable[[Path], SiteFiles]
) -> None:
    monkeypatch.setattr(indexing, "subprocess", history_with_backups.InProcess)
    files = build(tmp_path / "site")
    vault = Vault(tmp_path, files)
    made = vault.create().manifest
    headers = independent_reader.headers(files.data_fs)
    finished = [header.tid for header in headers]
    assert headers[0].status == "p"
    valid = independent_reader.valid_tids(files.data_fs)
    assert made.databases[0].pack_tid == "0x" + valid[0].hex()
    for tid in finished:
        if tid in valid:
            vault.assert_restores(files, tid=tid)
            random_histories.assert_all_references_resolve(*vault.restore(tid=tid))
        else:
            with pytest.raises(TargetMissing, match=f"the one after is 0x{valid[0].hex()}"):
                resolve(vault.catalog, None, ToTid("0x" + tid.hex()))


def test_times_before_the_last_packed_transaction_are_refused(tmp_path: Path) -> None:
    files = site_factory.packed(tmp_path / "site")
    vault = Vault(tmp_path, files)
    vault.create()
    first = independent_reader.valid_tids(files.data_fs)[0]
    moment = site_factory.time_of(first)
    with pytest.raises(TargetMissing, match="0x" + first.hex()):
        resolve(vault.catalog, None, AtTimestamp(moment - site_factory.MINUTE / 2))
    with pytest.raises(TargetMissing, match="0x" + first.hex()):
        resolve(vault.catalog, None, BeforeTid("0x" + first.hex()))
    assert (
        resolve(vault.catalog, None, AtTimestamp(moment + site_factory.MINUTE / 2)).cuts[0].last_tid
        == "0x" + first.hex()
    )


def test_earlier_transactions_come_from_the_backup_before_the_pack(tmp_path: Path) -> None:
    with site_factory.Site(tmp_path / "site") as site:
        first = site.put(text="one", blob=site_factory.noise(900, 1))
        second = site.put(text="two", blob=site_factory.noise(900, 2), other="kept")
        files = site.files
    vault = Vault(tmp_path, files)
    before = vault.create().manifest
    source = SiteFiles(*independent_reader.cut_site(*files, second, tmp_path / "source"))
    with site_factory.Site(tmp_path / "site") as site:
        site.put(text="three", blob=site_factory.noise(900, 3))
        site.pack()
    made = vault.create().manifest
    assert (made.reason.code, made.timeline) == ("packed", before.timeline)
    for tid in (first, second):
        assert resolve(vault.catalog, None, ToTid("0x" + tid.hex())).backup.manifest.id == before.id
        vault.assert_restores(source, before.id, tid)
    vault.assert_restores(files, made.id)
