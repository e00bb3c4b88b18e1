"""``zodb-vault list``: the table, the document, runs in progress and dead ones, damage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import Vault, flip, keys_of, on_terminal, words

from zodb_vault.model.manifest import Marker
from zodb_vault.repository.markers import process_identity
from zodb_vault.runtime import clock

ROW = words(
    "id site name note pinned status trigger how tier contents created_at finished_at raw stored added "
    "last_tid databases missing verified damage proven"
)


def write_marker(vault: Vault, what: str, run: str, process: str) -> None:
    from zodb_vault.model import canonical

    now = clock.iso(clock.now())
    marker = Marker(
        run=run, what=what, host="here", pid=os.getpid(), process=process, started=now, heartbeat=now, uses=[]
    )
    directory = vault.repository / "sites" / "default" / "running"
    directory.mkdir(exist_ok=True, parents=True)
    (directory / ("create.json" if what == "create" else f"{what}-{run}.json")).write_bytes(
        canonical.with_digest(marker)
    )


def test_newest_first_with_what_a_user_wants_to_see(stocked: Vault) -> None:
    stocked.done("annotate", "one", "--pin")
    outcome = stocked.done("list")
    heading, newest, oldest = outcome.out.splitlines()
    assert heading.split() == [
        "ID",
        "NAME",
        "CREATED",
        "SIZE",
        "STATUS",
        "HOW",
        "TRIGGER",
        "TIER",
        "VERIFIED",
    ]
    assert "two" in newest
    assert "incremental" in newest
    assert "one (pinned)" in oldest
    assert oldest.split()[3].endswith("Z")
    assert outcome.err == ""


def test_every_row_has_exactly_the_keys_that_are_promised(stocked: Vault) -> None:
    write_marker(stocked, "restore", "20990101T000000Z-aaaaaa", process_identity(os.getpid()))
    document = stocked.done("list", "--json").document
    assert keys_of(document) == ["backups", "findings"]
    for row in document["backups"]:
        assert keys_of(row) == ROW
    row = document["backups"][1]
    assert (row["site"], row["name"], row["status"], row["how"]) == (
        "default",
        "two",
        "complete",
        "incremental",
    )
    assert (row["contents"], row["tier"]) == ("all", None)
    transactions = stocked.done("log", row["id"], "--json").document["transactions"]
    first = min(one["tid"] for one in transactions if one["restorable"])
    assert row["databases"] == [{"name": "main", "last_tid": row["last_tid"], "restorable_from": first}]
    assert (row["missing"], row["pinned"], row["verified"]) == (0, False, [])
    assert row["created_at"].endswith("Z")


def test_verifications_are_listed_with_level_outcome_and_time(stocked: Vault) -> None:
    stocked.done("verify", "two", "--level", "objects")
    (verified,) = stocked.done("list", "--json").document["backups"][0]["verified"]
    assert keys_of(verified) == ["at", "level", "ok"]
    assert (verified["level"], verified["ok"]) == ("objects", True)
    assert stocked.done("list").out.splitlines()[1].endswith(f"objects {verified['at'][:10]}")


def test_runs_in_progress_are_listed_and_dead_creates_are_failed(stocked: Vault) -> None:
    write_marker(stocked, "create", "20990101T000000Z-cccccc", process_identity(os.getpid()))
    write_marker(stocked, "restore", "20990101T000000Z-aaaaaa", process_identity(os.getpid()))
    statuses = {row["id"][-6:]: row["status"] for row in stocked.done("list", "--json").document["backups"]}
    assert statuses["cccccc"] == "creating"
    assert statuses["aaaaaa"] == "restoring"
    dead = process_identity(os.getpid()).rpartition("/")[0] + "/1"
    write_marker(stocked, "create", "20990101T000000Z-cccccc", dead)
    assert stocked.done("list", "--json").document["backups"][0]["status"] == "failed"
    assert "failed" in stocked.done("list").out


def test_an_empty_repository_has_no_rows_and_says_so_beside_the_data(vault: Vault) -> None:
    outcome = vault.done("list")
    assert outcome.out == ""
    assert "no backups of the site default" in outcome.err
    assert vault("list", "-q") == (0, "", "")
    assert vault.done("list", "--json").document == {"backups": [], "findings": []}


def test_a_site_can_be_listed_that_is_not_configured_any_more(stocked: Vault) -> None:
    assert stocked.bare("--repository", stocked.repository, "list", "--site", "default").out.count("\n") == 3
    refused = stocked.bare("--repository", stocked.repository, "list", "--site", "../x", "--json")
    assert (refused.status, refused.error["kind"]) == (2, "usage")


@pytest.mark.parametrize("kind", ["manifest", "label"])
def test_damage_of_one_backup_does_not_hide_the_others(stocked: Vault, kind: str) -> None:
    directory = stocked.repository / "sites" / "default"
    newest = max((directory / "backups").glob("*.json")).stem
    path = (
        directory / "backups" / f"{newest}.json"
        if kind == "manifest"
        else next((directory / "labels" / newest).iterdir())
    )
    flip(path)
    outcome = stocked("list", "--json")
    assert outcome.status == 4
    assert path.name in outcome.err
    rows = outcome.document["backups"]
    assert [row["status"] for row in rows] == ["damaged", "complete"]
    assert all(keys_of(row) == ROW for row in rows)
    assert "damaged" in stocked("list").out
    assert stocked("verify", rows[1]["id"]).status == 0


def test_ages_are_shown_on_a_terminal(stocked: Vault) -> None:
    terminal = on_terminal(*stocked.options, "list")
    assert terminal.status == 0
    assert "just now" in terminal.screen or " ago" in terminal.screen


def test_names_cannot_move_the_cursor(vault: Vault) -> None:
    vault.make("--name", "red \x1b[31m\r\x07 line\nbreak \u202e")
    printed = vault.done("list").out
    assert "\\x1b[31m\\r\\x07 line\\nbreak \\u202e" in printed
    assert len(printed.splitlines()) == 2


def test_the_listing_survives_paths_with_spaces(stocked: Vault, tmp_path: Path) -> None:
    moved = tmp_path / "back ups 'here' ü"
    stocked.repository.rename(moved)
    assert stocked.bare("list", "--repository", moved).status == 0
