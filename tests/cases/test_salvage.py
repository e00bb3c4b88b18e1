"""U5: one damaged object does not keep everything else from being brought back."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import site_factory
from command_line import Vault, flip
from hostile_manifest import rewrite
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64, u64


def commit(vault: Vault, n: int, size: int = 3000) -> None:
    """Commit a text of its own, and a blob of its own."""
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(**{f"text{n}": os.urandom(size).hex()})
        site.put(**{f"blob{n}": os.urandom(size)})


def database_entry(vault: Vault) -> Any:
    return vault.done("show", "--json").document["manifest"]["databases"][0]


def object_file(vault: Vault, name: str) -> Path:
    return vault.repository / "objects" / name[:2] / name


def objects_in(data_fs: Path) -> dict[int, bytes]:
    """Return the current record of every object that can be loaded."""
    storage = FileStorage(str(data_fs), read_only=True)
    found = {u64(oid): storage.load(oid)[0] for oid in storage._index}
    storage.close()
    return found


def blobs_in(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.blob")}


@pytest.fixture
def several(vault: Vault) -> Vault:
    """A site whose backup has five segments and five packs, none of which is joined."""
    for n in range(5):
        commit(vault, n)
        vault.make()
    return vault


def test_u5_nothing_is_lost_of_a_good_backup(several: Vault, tmp_path: Path) -> None:
    outcome = several.done("restore", "--salvage", "--output", tmp_path / "out")
    assert "nothing is lost" in outcome.out
    assert (tmp_path / "out/Data.fs").read_bytes() == several.files.data_fs.read_bytes()
    assert blobs_in(tmp_path / "out/blobs") == blobs_in(several.files.blob_dir)


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_u5_a_lost_segment_costs_only_its_transactions(
    several: Vault, tmp_path: Path, which: int, how: str
) -> None:
    """Each other record has its position and content, also when the first segment with the root is lost."""
    before = several.files.data_fs.read_bytes()
    segment = database_entry(several)["storage"]["tail"][which]
    damaged = object_file(several, segment["parts"][0]["object"])
    flip(damaged) if how == "flipped" else damaged.unlink()
    assert several("restore", "--output", tmp_path / "whole", "--yes").status == 4
    outcome = several("restore", "--salvage", "--output", tmp_path / "out", "--json")
    assert outcome.status == 4
    (database,) = outcome.document["databases"]
    (lost,) = database["ranges"]
    assert (lost["start"], lost["end"]) == (segment["start"], segment["end"])
    assert (lost["first_tid"], lost["last_tid"]) == (segment["first_tid"], segment["last_tid"])
    assert database["blobs"] == []
    after = (tmp_path / "out/Data.fs").read_bytes()
    assert len(after) == len(before)
    assert after[: lost["start"]] == before[: lost["start"]]
    assert after[lost["end"] :] == before[lost["end"] :]
    storage = FileStorage(str(tmp_path / "out/Data.fs"), read_only=True)
    iterated = {one.tid for one in storage.iterator() if not one.description.startswith(b"lost: ")}
    storage.close()
    original = FileStorage(str(several.files.data_fs), read_only=True)
    everything = [transaction.tid for transaction in original.iterator()]
    original.close()
    low, high = int(lost["first_tid"], 16), int(lost["last_tid"], 16)
    assert iterated == {tid for tid in everything if not low <= u64(tid) <= high}
    if which:
        assert objects_in(tmp_path / "out/Data.fs").keys() <= objects_in(several.files.data_fs).keys()
    listed = json.loads((tmp_path / "out/LOST.json").read_text())
    assert listed[0]["ranges"][0]["start"] == lost["start"]


def test_u5_a_salvaged_database_can_be_written_packed_and_backed_up(several: Vault, tmp_path: Path) -> None:
    segment = database_entry(several)["storage"]["tail"][3]
    flip(object_file(several, segment["parts"][0]["object"]))
    assert several("restore", "--salvage", "--output", tmp_path / "out").status == 4
    data_fs = tmp_path / "out/Data.fs"
    database = DB(FileStorage(str(data_fs), blob_dir=str(tmp_path / "out/blobs")))
    with database.transaction() as connection:
        connection.root()["after"] = "salvage"
    assert database.storage.new_oid() < p64(1000)
    database.close()
    assert objects_in(data_fs)
    again = ["--repository", tmp_path / "again", "--data-fs", data_fs, "--blob-dir", tmp_path / "out/blobs"]
    several.bare(*again, "repository", "init")
    assert several.bare(*again, "create").status in (0, 3)
    assert several.bare(*again, "restore", "--output", tmp_path / "third", "--yes").status == 0
    assert (tmp_path / "third/Data.fs").read_bytes() == data_fs.read_bytes()


def test_u5_a_damaged_pack_gives_every_blob_before_the_damage(vault: Vault, tmp_path: Path) -> None:
    for n in range(12):
        commit(vault, n, 20_000)
    vault.make()
    packs = database_entry(vault)["blobs"]["tail"]
    pack = max(packs, key=lambda one: one["count"])
    damaged = object_file(vault, pack["parts"][0]["object"])
    flip(damaged, damaged.stat().st_size // 2)
    outcome = vault("restore", "--salvage", "--output", tmp_path / "out", "--json")
    assert outcome.status == 4
    (database,) = outcome.document["databases"]
    assert database["ranges"] == []
    original, saved = blobs_in(vault.files.blob_dir), blobs_in(tmp_path / "out/blobs")
    assert saved.items() < original.items()
    assert len(saved) + len(database["blobs"]) == len(original)
    assert 0 < len(database["blobs"]) < pack["count"]


def test_u5_a_lost_index_of_a_pack_costs_nothing(vault: Vault, tmp_path: Path) -> None:
    for n in range(3):
        commit(vault, n)
    vault.make()
    name = database_entry(vault)["blobs"]["tail"][0]["index"]["meta"]
    flip(vault.repository / "meta" / name[:2] / name)
    assert vault("restore", "--output", tmp_path / "whole", "--yes").status == 4
    vault.done("restore", "--salvage", "--output", tmp_path / "out")
    assert blobs_in(tmp_path / "out/blobs") == blobs_in(vault.files.blob_dir)


def test_u5_whatever_is_damaged_every_proven_byte_comes_back(several: Vault, tmp_path: Path) -> None:
    chance = random.Random(3)
    original = blobs_in(several.files.blob_dir)
    before = several.files.data_fs.read_bytes()
    files = [path for folder in ("objects", "meta") for path in (several.repository / folder).rglob("*")]
    for n, hit in enumerate(chance.sample(sorted(path for path in files if path.is_file()), 8)):
        good = hit.read_bytes()
        flip(hit, chance.randrange(len(good)))
        outcome = several("restore", "--salvage", "--output", tmp_path / f"out{n}", "--json")
        assert outcome.status in (0, 4), outcome
        saved = blobs_in(tmp_path / f"out{n}/blobs")
        assert saved.items() <= original.items()
        assert len(saved) + len(outcome.document["databases"][0]["blobs"]) >= len(original)
        after = bytearray((tmp_path / f"out{n}/Data.fs").read_bytes())
        for lost in outcome.document["databases"][0]["ranges"]:
            after[lost["start"] : lost["end"]] = before[lost["start"] : lost["end"]]
        assert bytes(after) == before
        hit.chmod(0o600)
        hit.write_bytes(good)


def test_u5_it_needs_a_directory_of_its_own(several: Vault, tmp_path: Path) -> None:
    assert several("restore", "--salvage").status == 2
    assert several("restore", "--salvage", "--output", tmp_path / "x", "--tid", "0x00").status == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("x")
    refused = several("restore", "--salvage", "--output", tmp_path / "full")
    assert refused.status == 1
    assert "is not empty" in refused.err


def test_u5_a_segment_with_another_digest_than_the_manifest_says_is_lost(
    several: Vault, tmp_path: Path
) -> None:
    """As when somebody has stored other content under a name that fits: the name alone proves nothing."""
    backup = several.done("list", "--json").document["backups"][0]["id"]

    def change(document: dict[str, Any]) -> None:
        document["databases"][0]["storage"]["tail"][2]["sha256"] = "0" * 64

    rewrite(several.repository, backup, change)
    outcome = several("restore", backup, "--salvage", "--output", tmp_path / "out", "--json")
    assert outcome.status == 4
    (lost,) = outcome.document["databases"][0]["ranges"]
    assert lost["why"] == "its bytes are not those that were read from the site"
