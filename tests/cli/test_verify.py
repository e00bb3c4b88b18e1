"""``zodb-vault verify``: levels, damage and what the source had lost, exit statuses."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from command_line import Vault, flip, keys_of, stored, words

LEVELS = ("objects", "bytes", "records", "restore")


def biggest(vault: Vault) -> Path:
    return max(
        (vault.repository / "objects").rglob("*"),
        key=lambda path: path.stat().st_size if path.is_file() else 0,
    )


@pytest.mark.parametrize("level", LEVELS)
def test_a_good_backup_is_good_at_every_level(stocked: Vault, level: str) -> None:
    document = stocked.done("verify", "two", "--level", level, "--json").document
    assert keys_of(document) == words("id level ok checked damage source missing_packages unproven")
    assert (document["level"], document["ok"], document["damage"], document["source"]) == (
        level,
        True,
        [],
        [],
    )
    assert all(isinstance(count, int) for count in document["checked"].values())
    assert f"{document['id']} {level}: ok (" in stocked.done("verify", "two", "--level", level).out


def test_the_default_is_the_latest_at_level_records(stocked: Vault) -> None:
    printed = stocked.done("verify").out
    assert stocked.done("show", "two", "--json").document["manifest"]["id"] in printed
    assert " records: ok" in printed


@pytest.mark.parametrize("level", LEVELS[1:])
def test_a_flipped_byte_is_damage_and_the_status_4(stocked: Vault, level: str) -> None:
    flip(biggest(stocked))
    outcome = stocked("verify", "two", "--level", level, "--json")
    assert outcome.status == 4
    assert outcome.document["ok"] is False
    assert outcome.document["damage"]
    for finding in outcome.document["damage"]:
        assert {"database", "what", "why"} <= set(finding) <= set(words("database what why object oid tid"))
    text = stocked("verify", "two", "--level", level)
    assert text.status == 4
    assert "DAMAGED" in text.out
    assert "damage: main" in text.out


def test_a_missing_object_shows_at_the_cheapest_level(stocked: Vault) -> None:
    lost = biggest(stocked)
    lost.unlink()
    outcome = stocked("verify", "--level", "objects", "--json")
    assert outcome.status == 4
    (finding,) = outcome.document["damage"]
    assert finding["object"] == lost.name


def test_what_the_source_had_lost_is_reported_and_is_no_damage(vault: Vault) -> None:
    lost = max(vault.files.blob_dir.rglob("*.blob"), key=lambda path: path.name)
    lost.unlink()
    assert vault("create", "--name", "lossy").status == 3
    outcome = vault.done("verify", "lossy", "--json").document
    (finding,) = outcome["source"]
    assert outcome["ok"] is True
    assert keys_of(finding) == words("database what why oid tid")
    assert str(lost) in finding["why"]
    assert str(lost) in vault.done("verify", "lossy").out
    assert vault("verify", "lossy", "-q") == (0, "", "")


def test_all_verifies_every_backup_also_when_one_cannot_be_read(stocked: Vault) -> None:
    document = stocked.done("verify", "--all", "--json").document
    assert keys_of(document) == ["reports"]
    assert [report["ok"] for report in document["reports"]] == [True, True]
    newest = document["reports"][0]["id"]
    flip(stocked.repository / "sites" / "default" / "backups" / f"{newest}.json")
    outcome = stocked("verify", "--all", "--level", "objects", "--json")
    assert outcome.status == 4
    assert [(report["id"] == newest, report["ok"]) for report in outcome.document["reports"]] == [
        (True, False),
        (False, True),
    ]
    assert stocked("verify", "--all", "two").status == 2


def test_sample_looks_at_a_share_of_the_objects(stocked: Vault) -> None:
    whole = stocked.done("verify", "--level", "bytes", "--json").document["checked"]["objects"]
    part = (
        stocked.done("verify", "--level", "bytes", "--sample", "30%", "--json")
        .document["checked"]
        .get("objects", 0)
    )
    assert part < whole
    for share in ("0%", "101%", "nan", "x", "-5"):
        assert stocked("verify", "--level", "bytes", "--sample", share).status == 2
    assert stocked("verify", "--sample", "5%").status == 2


def test_scratch_is_where_the_restore_happens_and_nothing_stays_there(
    stocked: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, elsewhere = tmp_path / "scratch dir", tmp_path / "temporary"
    scratch.mkdir()
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    stocked.done("verify", "--level", "restore", "--scratch", scratch)
    stocked.done("verify", "--level", "restore")
    assert list(scratch.iterdir()) == list(elsewhere.iterdir()) == []
    (scratch / "file").write_text("x")
    for wrong in (tmp_path / "nowhere", scratch / "file"):
        outcome = stocked("verify", "--level", "restore", "--scratch", wrong)
        assert outcome.status == 2
        assert str(wrong) in outcome.err


def test_quiet_says_nothing_unless_there_is_damage(stocked: Vault) -> None:
    assert stocked("verify", "-q") == (0, "", "")
    flip(biggest(stocked))
    assert "DAMAGED" in stocked("verify", "-q").out


def test_an_unknown_level_or_backup_changes_nothing(stocked: Vault) -> None:
    before = stored(stocked.repository)
    assert stocked("verify", "--level", "all").status == 2
    assert stocked("verify", "nope").status == 13
    assert stored(stocked.repository) == before


def test_the_source_is_not_needed(stocked: Vault) -> None:
    assert stocked.bare("--repository", stocked.repository, "verify", "--level", "restore").status == 0
