"""Everything in a restored database is loaded, with any form of records; deleted objects are no damage."""

from __future__ import annotations

from pathlib import Path

import independent_reader
import pytest
import site_factory
from filestorage_vault import Vault
from site_factory import RawRecord, Site

from zodb_vault.operations.verify.loader import load_from_data_fs

UNUSUAL = {
    name: site_factory.UNUSUAL[name] for name in ("without_transactions", "unordered_tids", "equal_tids")
}
UNLOADABLE = {"protocol_4_blob": ["0x0000000000000065"]}  # ZODB itself does not read it


def current(data_fs: Path) -> dict[bytes, bool]:
    """Return the OIDs of the objects that there are now; True for blobs."""
    found: dict[bytes, bool] = {}
    for one in independent_reader.transactions(data_fs, data_fs.parent / "blobs"):
        for record in one.records:
            found[record.oid] = record.blob is not None
            if record.data is None:
                del found[record.oid]
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*site_factory.BUILDERS, *UNUSUAL])
def test_every_object_is_loaded_and_every_blob_opened(tmp_path: Path, name: str) -> None:
    files = {**site_factory.BUILDERS, **UNUSUAL}[name](tmp_path)
    loaded = load_from_data_fs(str(files.data_fs), str(files.blob_dir))
    there = current(files.data_fs)
    assert loaded.failure is None
    assert (loaded.objects + loaded.opaque, loaded.unreadable_blobs) == (len(there), [])
    assert [oid for oid, _why in loaded.undecodable] == UNLOADABLE.get(name, [])
    assert loaded.blobs == sum(there.values()) - len(loaded.undecodable)
    assert (loaded.opaque > 0) == (name == "opaque")


@pytest.mark.parametrize("name", ["zlib_wrapped", "opaque"])
def test_a_blob_that_is_not_there_is_found_whatever_wrote_its_record(tmp_path: Path, name: str) -> None:
    files = site_factory.BUILDERS[name](tmp_path)
    for path in files.blob_dir.rglob("*.blob"):
        path.chmod(0o600)
        path.unlink()
    loaded = load_from_data_fs(str(files.data_fs), str(files.blob_dir))
    # an unreadable record does not show that there should be a blob
    assert len(loaded.unreadable_blobs) == (name == "zlib_wrapped")
    assert loaded.blobs == 0


def test_a_root_object_of_garbage_among_good_ones_is_no_encryption(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.put(a="one", b="two", c="three")
        site.write([RawRecord(0, b"no pickle at all")])
    loaded = load_from_data_fs(str(site.files.data_fs), str(site.files.blob_dir))
    assert "root object" in (loaded.failure or "")


@pytest.mark.parametrize("name", ["uncreated", "zlib_wrapped", "opaque"])
def test_the_level_restore_holds_for_undone_creations_and_for_wrapped_records(
    tmp_path: Path, name: str
) -> None:
    vault = Vault(tmp_path, site_factory.BUILDERS[name](tmp_path / "site"))
    vault.create()
    report = vault.verify("restore")
    assert (report.ok, report.damage, report.source) == (True, [], [])
    assert (report.checked.get("objects of unknown encoding", 0) > 0) == (name == "opaque")
