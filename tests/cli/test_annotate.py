"""``zodb-vault annotate``: names, notes, pins, accepted losses."""

from __future__ import annotations

import pytest
from command_line import Vault, stored

from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore


def row(vault: Vault, number: int = 0) -> dict[str, object]:
    found: dict[str, object] = vault.done("list", "--json").document["backups"][number]
    return found


def test_name_and_note_are_set_changed_and_removed(stocked: Vault) -> None:
    stocked.done("annotate", "two", "--name", "new\nname 'x'", "--note", "ünï")
    assert (row(stocked)["name"], row(stocked)["note"]) == ("new\nname 'x'", "ünï")
    stocked.done("annotate", "latest", "--name", "", "--note", "")
    assert (row(stocked)["name"], row(stocked)["note"]) == (None, None)


def test_a_pinned_backup_is_not_deleted_until_it_is_unpinned(stocked: Vault) -> None:
    stocked.done("annotate", "one", "--pin")
    assert row(stocked, 1)["pinned"] is True
    outcome = stocked("delete", "one", "--yes", "--force")
    assert outcome.status == 1
    assert "--unpin" in outcome.err
    stocked.done("annotate", "one", "--unpin")
    assert row(stocked, 1)["pinned"] is False
    stocked.done("delete", "one", "--yes")


def test_accepting_a_loss_makes_the_backup_complete_and_latest(vault: Vault) -> None:
    for path in list(vault.files.blob_dir.rglob("*.blob"))[:1]:
        path.unlink()
    assert vault("create", "--name", "lossy").status == 3
    assert vault("show").status == 13
    vault.done("annotate", "lossy", "--accept-missing")
    assert "lossy" in vault.done("show").out
    assert vault.done("create", "--json").document["status"] == "complete"


def test_a_new_history_is_accepted(stocked: Vault) -> None:
    stocked.done("annotate", "two", "--accept-history")
    labels = stocked.done("show", "two", "--json").document["labels"]
    assert ("accept-history", True) in [(label["fact"], label["value"]) for label in labels]


def test_it_says_what_it_did_beside_the_data_and_nothing_when_quiet(stocked: Vault) -> None:
    outcome = stocked.done("annotate", "two", "--note", "x")
    assert (outcome.out, outcome.err) == ("", f"{row(stocked)['id']} annotated\n")
    assert stocked("annotate", "two", "--note", "y", "-q") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["two"], 2),
        (["two", "--name", "latest"], 2),
        (["two", "--note", "a\udcff"], 2),
        (["nope", "--name", "x"], 13),
        (["2", "--name", "x"], 2),
        (["two", "--nmae", "x"], 2),
        (["two", "--name", "x" * 201], 2),
        (["two", "--note", "x" * 4001], 2),
    ],
)
def test_what_cannot_be_changes_nothing(stocked: Vault, arguments: list[str], status: int) -> None:
    before = stored(stocked.repository)
    outcome = stocked("annotate", *arguments)
    assert outcome.status == status
    assert "-> " in outcome.err
    assert stored(stocked.repository) == before


@pytest.mark.parametrize("command", [["annotate", "two"], ["create"]])
@pytest.mark.parametrize(("option", "longest"), [("--name", 200), ("--note", 4000)])
def test_names_and_notes_have_a_longest_length(
    stocked: Vault, command: list[str], option: str, longest: int
) -> None:
    outcome = stocked(*command, option, "ü" * (longest + 1))
    assert outcome.status == 2
    assert f"{longest + 1:,} characters, at most {longest:,} are allowed" in outcome.err
    stocked.done(*command, option, "ü" * longest)


def test_a_longer_name_of_an_older_version_is_shortened_in_the_table_only(stocked: Vault) -> None:
    repository = Repository.open(LocalStore(stocked.repository))
    listing = repository.listing("default")
    repository.labels.add("default", listing.backups[-1], "name", "x" * 100_000, listing)
    assert max(map(len, stocked.done("list").out.splitlines())) < 500
    assert row(stocked)["name"] == "x" * 100_000
