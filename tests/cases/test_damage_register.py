"""U1, U2: damage is bound to the damaged object; it is not forgotten, and the next create heals it."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import site_factory
from command_line import Vault, flip, stored
from daily_backups import Calendar

from zodb_vault.errors import StoreError
from zodb_vault.stores.local import LocalStore


def objects_of(vault: Vault, backup: str, *keys: str) -> list[Path]:
    """Return the files of the objects that an entry of the manifest names under these keys."""
    manifest = vault.done("show", backup, "--json").document["manifest"]
    found: Any = manifest["databases"][0]
    for key in keys:
        found = found[key]
    names = [part["object"] for one in found for part in one["parts"]]
    return [vault.repository / "objects" / name[:2] / name for name in names]


def row(vault: Vault, backup: str) -> dict[str, Any]:
    listed = json.loads(vault("list", "--json").out)["backups"]
    return next(one for one in listed if one["id"] == backup)


def commit(vault: Vault, n: int, *, blob: int = 500, text: int = 500) -> None:
    """Commit a text and a blob."""
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(**{f"text{n}": os.urandom(text // 2).hex()})
        site.put(**{f"blob{n}": os.urandom(blob)})


def restored_equal(vault: Vault, backup: str, directory: Path) -> bool:
    vault.done("restore", backup, "--output", directory, "--yes")
    data_fs = vault.files.data_fs.read_bytes()
    return (directory / "Data.fs").read_bytes() == data_fs


@pytest.mark.parametrize("level", ["bytes", "records", "restore"])
@pytest.mark.parametrize("where", [("storage", "tail"), ("blobs", "tail")], ids=["segment", "pack"])
def test_u1_the_next_create_stores_again_what_is_damaged(
    vault: Vault, tmp_path: Path, level: str, where: tuple[str, str]
) -> None:
    first = vault.make()
    flip(objects_of(vault, first, *where)[0])
    found = vault("verify", "--level", level)
    assert found.status == 4
    assert "DAMAGED" in found.out
    assert "next step: run `zodb-vault create`" in found.out
    assert "needs 1 damaged object: nothing is removed" in vault("prune").err
    assert vault("list").status == 4
    assert row(vault, first)["status"] == "damaged"
    assert "damaged  it needs 1 damaged object: " in vault.done("show", first).out
    assert vault("doctor", "-q").status == 1

    second = vault.done("create", "--json").document
    assert (second["healed"], second["still_damaged"]) == (1, [])
    assert second["how"] == "incremental"
    assert row(vault, second["id"])["status"] == "complete"
    assert row(vault, first)["status"] == "damaged"
    assert vault.done("verify", second["id"], "--level", "restore")
    assert restored_equal(vault, second["id"], tmp_path / "out")
    assert "nothing is removed" not in vault("prune").err
    assert vault("restore", first, "--output", tmp_path / "old", "--yes").status == 4


def test_u1_only_the_damaged_object_is_stored_again(vault: Vault) -> None:
    for n in range(4):
        commit(vault, n, blob=200_000, text=50_000)
        vault.make()
    newest = vault.make()
    flip(objects_of(vault, newest, "storage", "tail")[1])
    assert vault("verify", "--level", "bytes").status == 4
    healed = vault.done("create", "--json").document
    assert healed["healed"] == 1
    assert healed["added"] < 120_000
    assert "healed" not in vault.done("create").out


def test_u1_what_the_source_no_longer_has_ends_with_4_and_is_named(vault: Vault) -> None:
    first = vault.make()
    packs = {path.name: path for path in objects_of(vault, first, "blobs", "tail")}
    for path in packs.values():  # threads share the blobs out: there are one or two packs
        flip(path)
    assert vault("verify").status == 4
    lost = max(vault.files.blob_dir.rglob("*.blob"), key=lambda path: path.name)
    lost.unlink()
    made = vault("create", "--json")
    assert made.status == 4
    (left,) = made.document["still_damaged"]
    assert left in packs
    assert "needs 1 damaged object" in made.err
    assert row(vault, made.document["id"])["status"] == "damaged"
    assert "nothing is removed" in vault("prune").err
    assert vault("create", "--skip-unchanged").status == 4


def test_u1_a_damaged_list_makes_a_full_backup(vault: Vault, tmp_path: Path) -> None:
    vault.make()
    pack = vault.done("show", "--json").document["manifest"]["databases"][0]["blobs"]["tail"][0]
    index = pack["index"]["meta"]
    flip(vault.repository / "meta" / index[:2] / index)
    assert vault("verify").status == 4
    made = vault.done("create", "--json").document
    assert made["how"] == "full"
    assert "has damaged lists, so nothing of it is used again" in made["reason"]["text"]
    assert restored_equal(vault, made["id"], tmp_path / "out")


def test_u1_what_is_read_well_again_is_cleared(vault: Vault, tmp_path: Path) -> None:
    first = vault.make()
    (damaged,) = objects_of(vault, first, "storage", "tail")
    good = damaged.read_bytes()
    flip(damaged)
    assert vault("verify", "--level", "records").status == 4
    assert row(vault, first)["status"] == "damaged"
    damaged.chmod(0o600)
    damaged.write_bytes(good)
    assert vault.done("verify", "--level", "objects")
    assert row(vault, first)["status"] == "damaged"
    assert vault.done("verify", "--level", "bytes")
    assert row(vault, first)["status"] == "complete"
    assert not list((vault.repository / "sites").rglob("damage/*.json"))


def test_u1_a_restore_and_a_copy_record_what_they_find(vault: Vault, tmp_path: Path) -> None:
    first = vault.make()
    flip(objects_of(vault, first, "blobs", "tail")[0])
    vault.bare("--repository", tmp_path / "copy", "repository", "init")
    assert vault("repository", "copy", tmp_path / "copy").status == 4
    assert row(vault, first)["damage"] == "needs 1 damaged object"
    site = next((vault.repository / "sites").iterdir())
    for record in (site / "damage").iterdir():
        record.unlink()
    assert row(vault, first)["damage"] is None
    assert vault("restore", first, "--output", tmp_path / "out", "--yes").status == 4
    assert row(vault, first)["damage"] == "needs 1 damaged object"


def test_u1_damage_found_in_one_backup_shows_in_all_that_need_it(vault: Vault) -> None:
    first = vault.make()
    commit(vault, 0)
    second = vault.make()
    flip(objects_of(vault, first, "storage", "tail")[0])
    assert vault("verify", first, "--level", "bytes").status == 4
    assert row(vault, first)["status"] == row(vault, second)["status"] == "damaged"


def test_u1_prune_forgets_what_no_backup_needs(vault: Vault, calendar: Calendar) -> None:
    first = vault.make()
    flip(objects_of(vault, first, "storage", "tail")[0])
    assert vault("verify").status == 4
    calendar.pass_days(1)
    vault.make()
    vault.done("delete", first, "--yes")
    for _ in range(3):
        vault.done("prune")
        calendar.pass_days(40)
    vault.done("prune")
    assert not list((vault.repository / "sites").rglob("damage/*.json"))


def test_u2_a_weaker_or_partial_level_hides_no_stronger_failure(vault: Vault) -> None:
    first = vault.make()
    vault.done("verify", "--level", "restore")
    assert row(vault, first)["proven"]["level"] == "restore"
    vault.done("verify", "--level", "bytes")
    assert row(vault, first)["proven"]["level"] == "restore"
    flip(objects_of(vault, first, "storage", "tail")[0])
    assert vault("verify", "--level", "records").status == 4
    vault.done("verify", "--level", "objects")
    for _ in range(3):
        vault("verify", "--level", "bytes", "--sample", "1%")
    assert row(vault, first)["status"] == "damaged"


def test_an_unreadable_record_is_said_and_goes_when_everything_was_read(vault: Vault) -> None:
    first = vault.make()
    flip(objects_of(vault, first, "storage", "tail")[0])
    assert vault("verify").status == 4
    (record,) = (vault.repository / "sites").rglob("damage/*.json")
    record.chmod(0o600)
    record.write_bytes(record.read_bytes()[:-30])
    listed = vault("list")
    assert listed.status == 4
    assert "a record of damaged objects cannot be read" in listed.err
    assert vault("verify", "--all", "--level", "bytes").status == 4
    assert row(vault, first)["damage"] == "needs 1 damaged object"
    assert "cannot be read" not in vault("list").err


def test_a_repository_that_cannot_be_written_still_says_what_is_damaged(vault: Vault) -> None:
    """Nothing is stored then, and the command fails for the damage, not for the record."""
    first = vault.make()
    flip(objects_of(vault, first, "storage", "tail")[0])
    before = stored(vault.repository)
    site = next((vault.repository / "sites").iterdir())
    (site / "damage").write_text("in the way")
    outcome = vault("verify")
    assert outcome.status == 4
    assert "could not be recorded" in outcome.err
    assert {key for key in stored(vault.repository) if "objects/" in key} == {
        key for key in before if "objects/" in key
    }


def test_random_damage_never_reaches_the_next_backup(vault: Vault, tmp_path: Path) -> None:
    """Whatever object is hit: after verify and create, the newest backup restores completely."""
    chance = random.Random(7)
    for n in range(12):
        commit(vault, n, blob=9000, text=20_000)
        newest = vault.make()
        if n % 3 == 2:
            files = [path for path in (vault.repository / "objects").rglob("*") if path.is_file()]
            files += [path for path in (vault.repository / "meta").rglob("*") if path.is_file()]
            hit = chance.choice(files)
            if chance.random() < 0.5:
                flip(hit)
            else:
                hit.unlink()
            vault("verify", "--all", "--level", "bytes")
            made = vault("create", "--json")
            assert made.status in (0, 4), made
            newest = made.document["id"]
            assert not made.document["still_damaged"]
            assert vault("verify", newest, "--level", "restore").status == 0
            assert restored_equal(vault, newest, tmp_path / f"out{n}")


def test_u1_a_bad_sector_is_damage_of_one_object_and_verify_goes_on(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk returns EIO for one file; the other objects are checked, and a create heals."""
    first = vault.make()
    bad = objects_of(vault, first, "storage", "tail")[0]
    real = LocalStore.stream

    def stream(store: LocalStore, key: str) -> Iterator[bytes]:
        if key.endswith(bad.name):
            raise StoreError("the disk: Input/output error") from OSError(errno.EIO, "Input/output error")
        yield from real(store, key)

    monkeypatch.setattr(LocalStore, "stream", stream)
    found = vault("verify", "--level", "bytes", "--json")
    assert found.status == 4
    assert [finding["object"] for finding in found.document["damage"]] == [bad.name]
    assert row(vault, first)["damage"] == "needs 1 damaged object"
    assert vault("restore", first, "--output", vault.directory / "out", "--yes").status == 1
    made = vault.done("create", "--json").document
    assert made["healed"] == 1
    assert vault.done("verify", made["id"], "--level", "restore")
