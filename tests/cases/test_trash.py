"""U13: the trash can be listed, a backup comes back by prefix or name, and messages name the next command."""

from __future__ import annotations

from datetime import timedelta

import pytest
from command_line import Vault, flip, keys_of, words

from zodb_vault.runtime import clock

ROW = words("id site name deleted_at kept_until created_at raw stored damage")


@pytest.fixture
def deleted(stocked: Vault) -> str:
    """The id of the backup ``one``, which is in the trash."""
    return stocked.done("delete", "one", "--yes").err.split()[0]


def trash(vault: Vault) -> list[dict[str, object]]:
    document = vault.done("list", "--trash", "--json").document
    assert keys_of(document) == ["trash"]
    found: list[dict[str, object]] = document["trash"]
    return found


def test_u13_the_trash_is_listed_with_when_and_until_when(stocked: Vault) -> None:
    assert stocked.done("list", "--trash") == (0, "", "the trash of the site default is empty\n")
    before = clock.now()
    sizes = {
        row["id"]: (row["raw"], row["stored"]) for row in stocked.done("list", "--json").document["backups"]
    }
    deleted = stocked.done("delete", "one", "--yes").err.split()[0]
    (row,) = trash(stocked)
    assert keys_of(row) == ROW
    assert (row["id"], row["name"], row["damage"]) == (deleted, "one", None)
    assert (row["raw"], row["stored"]) == sizes[deleted]
    at, until = clock.parse(str(row["deleted_at"])), clock.parse(str(row["kept_until"]))
    assert timedelta(seconds=-2) <= at - before <= timedelta(seconds=60)
    assert timedelta(hours=72) - timedelta(seconds=5) <= until - at <= timedelta(hours=72, seconds=60)
    outcome = stocked.done("list", "--trash")
    heading, line = outcome.out.splitlines()
    assert heading.split() == ["ID", "NAME", "DELETED", "KEPT", "UNTIL", "SIZE"]
    assert line.split()[:3] == [deleted, "one", row["deleted_at"]]
    assert "zodb-vault undelete ID" in outcome.err


def test_u13_the_grace_period_begins_with_the_prune_that_lists_the_backup(
    stocked: Vault, deleted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stocked.done("prune")
    before = trash(stocked)
    assert trash(stocked) == before
    monkeypatch.setenv("ZODB_VAULT_RETENTION_GRACE", "10s")
    (row,) = trash(stocked)
    assert row["deleted_at"] == before[0]["deleted_at"]
    assert str(row["kept_until"]) < str(before[0]["kept_until"])


@pytest.mark.parametrize("how", ["id", "prefix", "name"])
def test_u13_undelete_takes_what_other_commands_take(stocked: Vault, deleted: str, how: str) -> None:
    text = {"id": deleted, "prefix": deleted[:-2], "name": "one"}[how]
    assert stocked.done("undelete", text).err == f"{deleted} is back in the list of backups\n"
    assert trash(stocked) == []


def test_u13_an_ambiguous_prefix_names_the_candidates(stocked: Vault, deleted: str) -> None:
    other = stocked.done("delete", "two", "--yes", "--force").err.split()[0]
    outcome = stocked("undelete", "2")
    assert outcome.status == 2
    assert f"{other}, {deleted}" in outcome.err
    assert "give the whole id" in outcome.err


def test_u13_a_command_says_that_the_backup_is_in_the_trash(stocked: Vault, deleted: str) -> None:
    for text in (deleted, deleted[:-3], "one"):
        outcome = stocked("show", text)
        assert outcome.status == 13
        assert f"backup {deleted} is in the trash" in outcome.err
        assert f"`zodb-vault undelete {deleted}`" in outcome.err


def test_u13_a_backup_that_is_not_in_the_trash_is_said_to_be_listed_or_gone(
    stocked: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    (two, one) = (row["id"] for row in stocked.done("list", "--json").document["backups"])
    assert f"backup {two} is not in the trash" in stocked("undelete", two).err
    stocked.done("delete", one, "--yes")
    monkeypatch.setenv("ZODB_VAULT_RETENTION_GRACE", "0s")
    for _ in range(3):
        stocked.done("prune")
    outcome = stocked("undelete", one)
    assert outcome.status == 13
    assert f"backup {one} was removed for good" in outcome.err


def test_u13_a_damaged_manifest_in_the_trash_is_reported_and_the_others_are_listed(
    stocked: Vault, deleted: str
) -> None:
    other = stocked.done("delete", "two", "--yes", "--force").err.split()[0]
    flip(stocked.repository / "trash" / "default" / f"{deleted}.json")
    outcome = stocked("list", "--trash")
    assert outcome.status == 4
    assert [line.split()[0] for line in outcome.out.splitlines()[1:]] == [other, deleted]
    assert "is damaged" in outcome.err


def test_u13_prune_names_what_lists_the_trash(vault: Vault) -> None:
    for _ in range(5):
        vault.make("--trigger", "scheduled")
    outcome = vault.done("prune")
    assert "`zodb-vault list --trash`" in outcome.err
    assert len(trash(vault)) == 3
