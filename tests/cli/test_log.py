"""``zodb-vault log``: the transactions of a backup."""

from __future__ import annotations

import site_factory
from command_line import Vault, keys_of, words

ROW = words("database tid time user description size objects blobs restorable")


def test_newest_first_and_what_can_be_restored(stocked: Vault) -> None:
    rows = stocked.done("log", "--json").document["transactions"]
    assert all(keys_of(row) == ROW for row in rows)
    assert [row["tid"] for row in rows] == sorted((row["tid"] for row in rows), reverse=True)
    assert [row["restorable"] for row in rows] == [True] * 7 + [False] * 3
    newest, removal = rows[:2]
    assert (newest["database"], newest["user"], newest["description"], newest["blobs"]) == (
        "main",
        "editor",
        "put news, photo",
        1,
    )
    assert (removal["user"], removal["description"], removal["time"]) == (
        "Ädmin Ümlaut",
        "remove icon",
        "2026-01-01T00:09:00.000000Z",
    )
    assert sum(row["size"] for row in rows) == stocked.files.data_fs.stat().st_size - 4


def test_every_restorable_transaction_can_be_restored_and_no_other(stocked: Vault) -> None:
    for row in stocked.done("log", "--json").document["transactions"]:
        outcome = stocked("restore", "--tid", row["tid"], "--output", "somewhere", "--dry-run")
        assert outcome.status == (0 if row["restorable"] else 13), row


def test_text_has_a_line_each(stocked: Vault) -> None:
    heading, *lines = stocked.done("log", "two").out.splitlines()
    assert heading.split() == ["TID", "TIME", "SIZE", "OBJECTS", "BLOBS", "RESTORABLE", "USER", "DESCRIPTION"]
    assert len(lines) == 10
    assert lines[0].startswith("0x0405e70a00000000  2026-01-01T00:10:00Z")


def test_limit_shows_the_newest(stocked: Vault) -> None:
    for option in ("-n", "--limit"):
        assert len(stocked.done("log", option, "2", "--json").document["transactions"]) == 2
    assert stocked("log", "-n", "0").status == 2


def test_an_older_backup_does_not_know_later_transactions(stocked: Vault) -> None:
    assert len(stocked.done("log", "one", "--json").document["transactions"]) == 9


def test_an_unknown_database_is_an_error_that_names_the_known_ones(stocked: Vault) -> None:
    assert stocked.done("log", "--database", "main").out
    outcome = stocked("log", "--database", "catalog", "--json")
    assert (outcome.status, outcome.error["kind"], outcome.out) == (2, "usage", "")
    assert outcome.error["hint"] == "it has main"


def test_a_description_stays_on_its_line(vault: Vault) -> None:
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.root["a"] = "b"
        site.commit("two\nlines \x1b[2J", "some\tone")
    vault.make()
    printed = vault.done("log").out
    assert "some\\tone " in printed
    assert " two\\nlines \\x1b[2J\n" in printed


def test_a_database_without_transactions_has_no_rows(vault: Vault) -> None:
    vault.files = site_factory.without_transactions(vault.directory / "empty")
    vault.make()
    assert vault.done("log", "--json").document == {"transactions": []}
