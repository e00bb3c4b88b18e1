"""``zodb-vault delete`` and its way back."""

from __future__ import annotations

from command_line import Vault, on_terminal, stored


def names(vault: Vault) -> list[str]:
    return [row["name"] for row in vault.done("list", "--json").document["backups"]]


def test_a_deleted_backup_is_not_listed_and_can_be_brought_back(stocked: Vault) -> None:
    before = stored(stocked.repository)
    outcome = stocked.done("delete", "one", "--yes")
    assert outcome.out == ""
    assert "undelete" in outcome.err
    assert names(stocked) == ["two"]
    deleted = outcome.err.split()[0]
    assert stocked("show", deleted).status == 13
    stocked.done("undelete", deleted)
    assert names(stocked) == ["two", "one"]
    assert stored(stocked.repository) == before
    stocked.done("verify", "one")


def test_the_other_backups_still_restore(stocked: Vault) -> None:
    stocked.done("delete", "one", "--yes", "-q")
    stocked.done("verify", "two")
    stocked.done("restore", "two", "--output", "out", "--yes")


def test_the_last_complete_one_goes_only_by_force(stocked: Vault) -> None:
    stocked.done("delete", "one", "--yes")
    before = stored(stocked.repository)
    outcome = stocked("delete", "two", "--yes")
    assert outcome.status == 1
    assert "last complete backup" in outcome.err
    assert "--force" in outcome.err
    assert stored(stocked.repository) == before
    stocked.done("delete", "two", "--yes", "--force")
    assert names(stocked) == []


def test_without_a_terminal_and_without_yes_it_is_refused(stocked: Vault) -> None:
    before = stored(stocked.repository)
    outcome = stocked.process("delete", "one")
    assert outcome.status == 2
    assert "--yes" in outcome.err
    assert stored(stocked.repository) == before


def test_on_a_terminal_it_asks_and_no_is_the_status_1(stocked: Vault) -> None:
    before = stored(stocked.repository)
    declined = on_terminal(*stocked.options, "delete", "one", answer="n")
    assert declined.status == 1
    assert "[y/N]" in declined.screen
    assert "nothing was deleted" in declined.screen
    assert stored(stocked.repository) == before
    assert on_terminal(*stocked.options, "delete", "one", answer="y").status == 0
    assert names(stocked) == ["two"]


def test_an_unknown_one_is_the_status_13(stocked: Vault) -> None:
    assert stocked("delete", "nope", "--yes").status == 13
    assert stocked("delete", "2", "--yes").status == 2
