"""``zodb-vault repository init`` and ``repository info``."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import msgspec
import pytest
import site_factory
from command_line import Vault, flip, keys_of, on_terminal, tree, words

from zodb_vault.errors import InUse
from zodb_vault.model import canonical
from zodb_vault.operations.object_lock import needed_keys
from zodb_vault.repository.markers import RunMarker, marker_key
from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore


def test_init_makes_an_empty_repository_with_its_instructions(vault: Vault, tmp_path: Path) -> None:
    place = tmp_path / "new place" / "back ups"
    outcome = vault.bare("repository", "init", "--repository", place)
    assert outcome.status == 0
    assert outcome.out == ""
    assert str(place) in outcome.err
    assert sorted(path.name for path in place.iterdir()) == ["RECOVERY.md", "repository.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o400}
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_the_options_go_anywhere(vault: Vault, tmp_path: Path) -> None:
    lines = (
        ["--repository", tmp_path / "a", "repository", "init"],
        ["repository", "--repository", tmp_path / "b", "init"],
        ["repository", "init", "--repository", tmp_path / "c"],
    )
    for line in lines:
        assert vault.bare(*line, "-q") == (0, "", "")


def test_init_refuses_a_location_that_holds_something(vault: Vault, tmp_path: Path) -> None:
    vault.make()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear")
    for place, name in (
        (vault.repository, "a repository"),
        (foreign, "letter.txt"),
        (vault.files.data_fs.parent, "Data.fs"),
    ):
        before = tree(place)
        outcome = vault.bare("--repository", place, "repository", "init")
        assert outcome.status == 1
        assert name in outcome.err
        assert "choose an empty location" in outcome.err
        assert tree(place) == before


def test_init_in_a_file_is_an_error(vault: Vault, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        outcome = vault.bare("--repository", place, "repository", "init")
        assert outcome.status == 1
        assert "Not a directory" in outcome.err
        assert "-> a repository is a directory" in outcome.err


def test_info_says_what_it_is_and_which_sites_it_has(vault: Vault) -> None:
    vault.make()
    vault.files = site_factory.populate(vault.directory / "plone")
    vault.make("--site", "plone")
    vault.make("--site", "plone")
    document = vault.bare("repository", "info", "--repository", vault.repository, "--json").document
    assert keys_of(document) == words("id location format created limits recipients sites")
    assert document["sites"] == [{"name": "default", "backups": 1}, {"name": "plone", "backups": 2}]
    assert (document["location"], document["format"]) == (str(vault.repository), 1)
    printed = vault.bare("repository", "info", "--repository", vault.repository).out
    assert document["id"] in printed
    assert "plone: 2 backups" in printed
    assert "default: 1 backup\n" in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["show"],
        ["log"],
        ["verify"],
        ["create"],
        ["restore", "--yes"],
        ["repository", "info"],
        ["delete", "x"],
    ],
)
def test_no_repository_is_the_status_10_and_says_how_to_make_one(
    vault: Vault, tmp_path: Path, arguments: list[str]
) -> None:
    outcome = vault.bare(*arguments, *vault.options, "--repository", tmp_path / "nowhere")
    assert outcome.status == 10
    assert f"there is no repository in {tmp_path / 'nowhere'}" in outcome.err
    assert "repository init" in outcome.err
    assert not (tmp_path / "nowhere").exists()


def test_a_location_of_a_kind_that_comes_later_is_refused(vault: Vault) -> None:
    outcome = vault.bare("--repository", "gopher://bucket/prefix", "list")
    assert outcome.status == 2
    assert "gopher" in outcome.err


def test_nothing_says_where_the_repository_is(vault: Vault) -> None:
    outcome = vault.bare("list")
    assert outcome.status == 2
    assert "--repository LOCATION" in outcome.err


# Runs that hold a repository


def dead_create(vault: Vault) -> str:
    """Leave the marker of a create on another host that was last heard of long ago."""
    store = LocalStore(vault.repository)
    run = RunMarker.start(store, "default", "create", "20260101T000000Z-aaaaaa", [])
    marker = msgspec.structs.replace(
        run.marker,
        host="elsewhere",
        process="",
        heartbeat="2026-01-01T00:00:00Z",
        started="2026-01-01T00:00:00Z",
    )
    key = marker_key("default", "create", run.marker.run)
    store.replace(key, canonical.with_digest(marker), canonical.with_digest(run.marker))
    return key


def test_unlock_shows_the_holders_and_removes_dead_ones(vault: Vault) -> None:
    assert "no run holds" in vault.done("repository", "unlock").err
    key = dead_create(vault)
    assert vault.process("repository", "unlock").status == 2
    outcome = vault.done("repository", "unlock", "--yes")
    assert "host elsewhere, pid" in outcome.err
    assert "since 2026-01-01T00:00:00Z, last heartbeat 2026-01-01T00:00:00Z: dead" in outcome.err
    assert not (vault.repository / key).exists()
    assert list((vault.repository / "trash" / "_broken").iterdir()), "the grace period begins again"


def test_unlock_asks_and_leaves_what_is_alive_without_an_answer(vault: Vault) -> None:
    run = RunMarker.start(LocalStore(vault.repository), "default", "create", "20260101T000000Z-aaaaaa", [])
    assert "seems alive" in vault.done("repository", "unlock", "--yes").err
    assert on_terminal(*vault.options, "repository", "unlock", answer="n").status == 0
    run.update()
    assert on_terminal(*vault.options, "repository", "unlock", answer="y").status == 0
    with pytest.raises(InUse):
        run.update()


# Copies


@pytest.fixture
def other(vault: Vault, tmp_path: Path) -> Vault:
    other = Vault(vault.directory, vault.capsys)
    other.files, other.repository = vault.files, tmp_path / "other"
    other.done("repository", "init")
    return other


def grow(vault: Vault, number: int) -> str:
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(text=f"number {number}", blob=site_factory.noise(3000, number))
    return vault.make("--name", f"number {number}")


def ids(vault: Vault) -> list[str]:
    return [row["id"] for row in vault.done("list", "--json").document["backups"]]


def test_a_copy_has_the_same_ids_and_restores_without_the_first(
    vault: Vault, other: Vault, tmp_path: Path
) -> None:
    for number in range(3):
        grow(vault, number)
    gone = ids(vault)[-1]
    vault.done("delete", "--yes", gone)
    done = vault.done("repository", "copy", other.repository, "--json").document
    assert keys_of(done) == words("site location copied present objects bytes")
    assert (done["copied"], done["present"]) == (ids(vault)[::-1], 0)
    assert ids(other) == ids(vault)
    manifest = other.done("show", "latest", "--json").document["manifest"]
    info = vault.done("repository", "info", "--json").document
    assert manifest["copied_from"] == info["id"]
    grow(vault, 9)
    again = vault.done("repository", "copy", other.repository, "--json").document
    assert (len(again["copied"]), again["present"]) == (1, 2)
    assert again["objects"] < done["objects"]
    shutil.rmtree(vault.repository)
    other.done("verify", "--all", "--level", "restore")
    other.done("prune"), other.done("restore", "number 9", "--output", tmp_path / "out", "--yes")
    assert (tmp_path / "out" / "Data.fs").read_bytes() == vault.files.data_fs.read_bytes()


def test_a_damaged_object_is_not_copied_and_its_backup_neither(vault: Vault, other: Vault) -> None:
    grow(vault, 1)
    path = max(
        (vault.repository / "objects").rglob("*"),
        key=lambda path: path.stat().st_size if path.is_file() else 0,
    )
    flip(path)
    outcome = vault("repository", "copy", other.repository)
    assert outcome.status == 4
    assert ids(other) == []
    flip(path)
    vault.done("repository", "copy", other.repository)
    other.done("verify")


def test_a_damaged_backup_does_not_keep_the_others_from_being_copied(vault: Vault, other: Vault) -> None:
    grow(vault, 1)
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(blob=site_factory.noise(3000, 2))
        site.pack()
    vault.make()
    newest, oldest = ids(vault)
    source = Repository.open(LocalStore(vault.repository))
    theirs, ours = (
        needed_keys(source.manifest_document("default", one), source.objects("")) for one in (oldest, newest)
    )
    path = vault.repository / min(theirs - ours)
    flip(path)
    outcome = vault("repository", "copy", other.repository)
    assert outcome.status == 4
    assert f"not copied, because they are damaged in {vault.repository}: {oldest}" in outcome.err
    assert "every other backup was copied" in outcome.err
    assert ids(other) == [newest]
    other.done("verify", newest, "--level", "restore")
    flip(path)
    vault.done("repository", "copy", other.repository)
    assert ids(other) == [newest, oldest]
    other.done("verify", "--all")


def test_no_copy_while_the_target_is_pruned_and_no_sweep_beside_a_copy(
    vault: Vault, other: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(vault, 1)
    run = RunMarker.start(LocalStore(other.repository), "elsewhere", "prune", "20260101T000000Z-aaaaaa", [])
    outcome = vault("repository", "copy", other.repository)
    assert outcome.status == 11
    assert "prune" in outcome.err
    run.remove()
    vault.done("repository", "copy", other.repository)
    monkeypatch.setenv("ZODB_VAULT_RETENTION_GRACE", "0s")
    run = RunMarker.start(LocalStore(other.repository), "default", "copy", "20260101T000000Z-aaaaaa", [])
    orphan = other.repository / "objects" / "aa" / ("aa" * 32)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"of an interrupted copy")
    for _ in range(3):
        other.done("prune")
    assert orphan.exists()
    run.remove()
    other.done("prune")
    assert not orphan.exists()


def test_create_copies_to_what_the_configuration_names(vault: Vault, other: Vault) -> None:
    config = vault.directory / "zodb-vault.toml"
    text = f"""
        [repository]
        location = "{vault.repository}"
        copies = ["{other.repository}"]
        [site.default]
        data_fs = "{vault.files.data_fs}"
        blob_dir = "{vault.files.blob_dir}"
        """
    config.write_text(text)
    done = vault.bare("--config", config, "create")
    assert done.status == 0, done
    assert "1 backup copied" in done.err
    assert ids(other) == ids(vault)
    config.write_text(text.replace('copies = ["', 'copies = ["/nowhere/at/all", "'))
    failed = vault.bare("--config", config, "create")
    assert failed.status == 1
    assert f"backup {ids(vault)[0]} was made, but it was not copied to /nowhere/at/all" in failed.err
    assert ids(other) == ids(vault), "the other copy was made nevertheless"


def test_a_repository_is_no_copy_of_itself_nor_of_one_for_others(vault: Vault) -> None:
    grow(vault, 1)
    outcome = vault("repository", "copy", vault.repository)
    assert outcome.status == 1
    assert "same repository" in outcome.err
    assert vault("repository", "copy", vault.directory / "nowhere").status == 10
