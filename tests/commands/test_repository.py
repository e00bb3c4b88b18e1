"""``zodb-vault repository init`` and ``repository info``."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from commandline import Vault, keys_of, tree, words


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
    lines = (["--repository", tmp_path / "a", "repository", "init"], ["repository", "--repository", tmp_path / "b", "init"],
             ["repository", "init", "--repository", tmp_path / "c"])  # fmt: skip
    for line in lines:
        assert vault.bare(*line, "-q") == (0, "", "")


def test_init_refuses_a_place_that_holds_something(vault: Vault, tmp_path: Path) -> None:
    vault.make()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear")
    for place, name in ((vault.repository, "a repository"), (foreign, "letter.txt"), (vault.files.data_fs.parent, "Data.fs")):
        before = tree(place)
        outcome = vault.bare("--repository", place, "repository", "init")
        assert outcome.status == 1
        assert name in outcome.err
        assert "choose an empty place" in outcome.err
        assert tree(place) == before


def test_init_in_a_file_is_an_error(vault: Vault, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        outcome = vault.bare("--repository", place, "repository", "init")
        assert outcome.status == 1
        assert "Not a directory" in outcome.err
        assert "-> a repository is a directory" in outcome.err


def test_info_tells_what_it_is_and_which_sites_it_has(vault: Vault) -> None:
    vault.make()
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
    "arguments", [["list"], ["show"], ["log"], ["verify"], ["create"], ["restore", "--yes"], ["repository", "info"], ["delete", "x"]]
)
def test_no_repository_is_the_status_10_and_says_how_to_make_one(vault: Vault, tmp_path: Path, arguments: list[str]) -> None:
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
