"""``zodb-vault prune``: what goes, what stays, and what it says about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import site_factory
from command_line import Outcome, Vault, flip, stored, words
from daily_backups import Calendar, daily, listed

from zodb_vault.repository.markers import RunMarker
from zodb_vault.stores.local import LocalStore


def of(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows][::-1]


def test_the_tiers_stay_and_the_rest_goes_to_the_trash(vault: Vault, calendar: Calendar) -> None:
    ids = daily(vault, calendar, 16)
    before = stored(vault.repository)
    planned = vault.done("prune", "--dry-run", "--json").document
    assert stored(vault.repository) == before
    done = vault.done("prune", "--json").document
    assert done == planned
    assert sorted(done) == words("keep remove frees_estimate swept withheld findings")
    assert of(done["keep"]) == listed(vault) == [ids[0], ids[7], *ids[9:]]
    assert of(done["remove"]) == [*ids[1:7], ids[8]]
    assert all(row["reasons"] for row in [*done["keep"], *done["remove"]])
    assert 0 < done["frees_estimate"] < 100_000
    assert done["swept"] == {"objects": 0, "bytes": 0}
    assert [row["tier"] for row in vault.done("list", "--json").document["backups"]] == ["daily"] * 7 + [
        "weekly"
    ] * 2
    vault.done("undelete", ids[3])
    vault.done("verify", "--all")
    again = vault.done("prune", "--json").document
    assert of(again["remove"]) == [ids[3]]


def test_as_text(vault: Vault, calendar: Calendar) -> None:
    ids = daily(vault, calendar, 9)
    planned = vault.done("prune", "--dry-run").out
    assert f"keep    {ids[0]}  weekly 1 of 4 (2027-03-01)\n" in planned
    assert f"remove  {ids[1]}  less than 7 days after {ids[0]}" in planned
    assert "1 backup would be moved to the trash" in planned
    assert vault("prune", "-q") == (0, "", "")
    assert (
        "0 backups moved to the trash, which frees about 0 B later; 0 files with 0 B deleted for good"
        in vault.done("prune").out
    )


def test_policies_of_the_configuration(vault: Vault, calendar: Calendar) -> None:
    ids = daily(vault, calendar, 12)
    config = vault.directory / "zodb-vault.toml"
    text = f"""
        [retention.scheduled]
        daily = 20
        [policy.short.scheduled]
        daily = 2
        weekly = 1
        monthly = 0
        [policy.few.scheduled]
        limit = 3
        [site.a]
        data_fs = "{vault.files.data_fs}"
        blob_dir = "{vault.files.blob_dir}"
        """
    config.write_text(text)
    options = ["--config", config, "--repository", vault.repository, "--site", "default"]

    def kept(*arguments: object) -> list[str]:
        return of(vault.bare(*options, "prune", "--dry-run", "--json", *arguments).document["keep"])

    assert kept() == ids
    assert kept("--policy", "short") == [ids[7], *ids[-2:]]
    assert kept("--policy", "few") == ids[-3:]
    unknown = vault.bare(*options, "prune", "--policy", "shrt")
    assert unknown.status == 2
    assert "did you mean short?" in unknown.err
    config.write_text(text.replace("[site.a]", '[site.default]\nretention = "short"'))
    assert kept() == [ids[7], *ids[-2:]]
    config.write_text(text.replace("[site.a]", '[site.default]\nretention = "shirt"'))
    wrong = vault.bare(*options, "prune")
    assert wrong.status == 2
    assert "site.default.retention is not the name of a policy, did you mean short?" in wrong.err


def without_change(vault: Vault, *arguments: object) -> Outcome:
    """Prune, and require that nothing changes but what the sweep has noted."""
    before = stored(vault.repository)
    outcome = vault("prune", *arguments)
    noted = {"trash/_pending.json"}
    assert {path: entry for path, entry in stored(vault.repository).items() if path not in noted} == {
        path: entry for path, entry in before.items() if path not in noted
    }
    return outcome


def test_pinned_ones_stay(vault: Vault, calendar: Calendar) -> None:
    ids = daily(vault, calendar, 10)
    vault.done("annotate", "--pin", ids[2])
    vault.done("prune")
    assert ids[2] in listed(vault)
    assert ids[1] not in listed(vault)


def test_nothing_goes_when_the_newest_failed_its_verification_until_it_passes(
    vault: Vault, calendar: Calendar
) -> None:
    daily(vault, calendar, 10)
    objects = sorted(vault.repository.glob("objects/*/*"))
    for path in objects:
        path.rename(path.with_name("away"))
        break
    assert vault("verify", "--level", "objects", "latest").status == 4
    path.with_name("away").rename(path)
    outcome = without_change(vault)
    assert outcome.status == 0
    assert "needs 1 damaged object: nothing is removed" in outcome.err
    assert "nothing is removed" in without_change(vault, "-q").err
    vault.done("verify", "--level", "records", "latest")
    vault.done("prune")
    assert len(listed(vault)) == 8


def test_a_clock_in_doubt_removes_nothing_and_says_so(vault: Vault, calendar: Calendar) -> None:
    daily(vault, calendar, 10)
    calendar.pass_days(-3)
    outcome = without_change(vault, "--json")
    assert "in the future" in outcome.err
    assert outcome.document["remove"] == []
    assert "in the future" in outcome.document["withheld"][0]


def test_a_new_history_protects_what_is_older_until_it_is_accepted(vault: Vault, calendar: Calendar) -> None:
    ids = daily(vault, calendar, 10)
    other = site_factory.SiteFiles(vault.directory / "other" / "Data.fs", vault.directory / "other" / "blobs")
    with site_factory.Site(other.data_fs.parent, start=datetime(2026, 5, 5, 5, 5, tzinfo=UTC)) as site:
        site.put(text="another site", blob=site_factory.noise(300, 1))
    vault.files = other
    newer = daily(vault, calendar, 12, "--take-over", status=3)
    pruned = vault("prune", "--json")
    assert pruned.status == 3
    outcome = pruned.document
    kept = [row["id"] for row in vault("list", "--json").document["backups"]][::-1]
    assert kept == of(outcome["keep"])
    assert kept[:10] == ids
    assert of(outcome["remove"])
    assert any("--accept-history" in reason for row in outcome["keep"] for reason in row["reasons"])
    refused = vault("delete", "--yes", newer[0])
    assert refused.status == 1
    assert "--accept-history" in refused.err
    vault.done("annotate", newer[0], "--accept-history")
    vault.done("prune")
    assert set(ids) - set(listed(vault))


def lose(vault: Vault, backup: str) -> None:
    (vault.repository / "sites" / "default" / "backups" / f"{backup}.json").unlink()


def test_a_backup_that_the_newest_has_seen_and_that_is_nowhere_stops_it(
    vault: Vault, calendar: Calendar
) -> None:
    ids = daily(vault, calendar, 10)
    lose(vault, ids[4])
    for arguments in ((), ("--dry-run",)):
        outcome = without_change(vault, *arguments)
        assert outcome.status == 4
        assert ids[4] in outcome.err
        assert "--accept-gone" in outcome.err
    assert vault("prune", "--accept-gone", ids[5]).status == 2
    vault.done("prune", "--accept-gone", ids[4])
    vault.done("prune")


@pytest.mark.parametrize("count", [0, 2])
def test_an_empty_listing_is_an_error(vault: Vault, calendar: Calendar, count: int) -> None:
    for backup in daily(vault, calendar, count):
        lose(vault, backup)
    outcome = without_change(vault)
    assert outcome.status == 13
    assert "no backup of the site" in outcome.err


def test_a_damaged_manifest_stops_it(vault: Vault, calendar: Calendar) -> None:
    ids = daily(vault, calendar, 10)
    flip(vault.repository / "sites" / "default" / "backups" / f"{ids[3]}.json")
    outcome = without_change(vault)
    assert outcome.status == 4
    assert ids[3] in outcome.err


def test_what_a_restore_uses_stays(vault: Vault, calendar: Calendar) -> None:
    ids = daily(vault, calendar, 10)
    run = RunMarker.start(
        LocalStore(vault.repository), "default", "restore", "20270301T000000Z-aaaaaa", [ids[1]]
    )
    kept = vault.done("prune", "--json").document["keep"]
    assert next(row["reasons"] for row in kept if row["id"] == ids[1]) == [
        f"in use by the restore {run.marker.run}"
    ]
    run.remove()
    vault.done("prune")
    assert ids[1] not in listed(vault)
