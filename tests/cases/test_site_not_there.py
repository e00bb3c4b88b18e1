"""An empty site in the place of the lost one, a clock that jumped, backups that stopped."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import site_factory
from command_line import Outcome, Vault
from daily_backups import Calendar

from zodb_vault.runtime import clock

pytestmark = pytest.mark.usefixtures("clean_environment")


def replace_by_empty_site(vault: Vault) -> None:
    """Put what Zope makes when a volume is not mounted in the place of the site."""
    shutil.rmtree(vault.files.data_fs.parent)
    with site_factory.Site(vault.files.data_fs.parent, start=datetime(2026, 5, 5, 5, 5, tzinfo=UTC)) as site:
        site.put(text="a new site")


def every_night(vault: Vault) -> dict[str, Outcome]:
    """Run what a crontab runs, quiet."""
    return {
        "create": vault("create", "-q", "--trigger", "scheduled"),
        "prune": vault("prune", "-q"),
        "doctor": vault("doctor", "-q"),
        "list": vault("list"),
    }


def test_T23_an_empty_site_in_the_place_of_the_site_is_said_every_night_until_it_is_accepted(
    vault: Vault, calendar: Calendar
) -> None:
    old = vault.make()
    replace_by_empty_site(vault)
    begin = ""
    for _night in range(4):
        calendar.pass_days(1)
        found = every_night(vault)
        begin = begin or vault("list", "--json").document["backups"][0]["id"]
        assert {name: outcome.status for name, outcome in found.items()} == dict.fromkeys(found, 3)
        for outcome in found.values():
            assert f"annotate {begin} --accept-history" in outcome.err + outcome.out
            assert old in outcome.err + outcome.out
    newest = vault("list", "--json").document["backups"][0]["id"]
    output = vault.directory / "output"
    for latest in ([], ["latest"]):
        refused = vault("restore", *latest, "--output", output, "--yes")
        assert refused.status == 13
        assert old in refused.err and begin in refused.err
    assert not output.exists()
    assert begin in vault("show", "latest").err
    vault.done("restore", old, "--output", output, "--yes")
    vault.done("annotate", begin, "--accept-history")
    assert {name: outcome for name, outcome in every_night(vault).items() if outcome.status} == {}
    vault.done("restore", newest, "--output", vault.directory / "other", "--yes")
    vault.done("restore", "latest", "--output", vault.directory / "latest", "--yes")


def test_T23_as_json(vault: Vault) -> None:
    vault.make()
    replace_by_empty_site(vault)
    for command in (["create"], ["prune"], ["list"]):
        outcome = vault(*command, "--json")
        assert outcome.status == 3
        assert len(outcome.document["findings"]) == 1
    findings = [one for one in vault("doctor", "--json").document["checks"] if not one["ok"]]
    assert [one["name"] for one in findings] == ["site in the repository"]


@pytest.mark.parametrize("options", [["--full"], ["--only", "blobs"], []])
def test_T23_the_first_backup_of_a_site_is_no_new_history(vault: Vault, options: list[str]) -> None:
    assert vault("create", *options).status == 0
    assert vault("create", "--full").status == 0
    assert vault("create").status == 0
    assert vault("prune", "-q") == (0, "", "")


def test_T23_the_site_that_is_back_is_accepted_with_one_command(vault: Vault) -> None:
    vault.make()
    saved = shutil.copytree(vault.files.data_fs.parent, vault.directory / "saved")
    replace_by_empty_site(vault)
    assert vault("create").status == 3
    shutil.rmtree(vault.files.data_fs.parent)
    shutil.copytree(saved, vault.files.data_fs.parent)
    back = vault("create", "--json")
    assert back.status == 3
    vault.done("annotate", back.document["id"], "--accept-history")
    assert {name: outcome for name, outcome in every_night(vault).items() if outcome.status} == {}


def test_U4_a_source_under_two_names_is_said(vault: Vault, calendar: Calendar) -> None:
    vault.make("--site", "plone")
    calendar.pass_days(1)
    for _ in range(2):
        second = vault("create", "-q", "--site", "plona")
        assert second.status == 3
        assert f"{vault.files.data_fs} is also backed up as the site plone" in second.err
        assert "--site plone" in second.err
    assert vault("prune", "-q", "--site", "plona").status == 3
    doctor = vault("doctor", "-q", "--site", "plona")
    assert doctor.status == 3
    assert "also backed up as the site plone" in doctor.out
    # the older site goes on in peace
    assert vault("create", "-q", "--site", "plone") == (0, "", "")
    newest = vault("list", "--site", "plona", "--json").document["backups"][0]["id"]
    vault.done("annotate", "--site", "plona", newest, "--accept-history")
    assert vault("create", "-q", "--site", "plona") == (0, "", "")
    # the accepted one may be pruned one day
    vault.done("delete", "--yes", "--site", "plona", newest)
    assert vault("create", "-q", "--site", "plona") == (0, "", "")


def test_U4_two_sites_with_sources_of_their_own_are_none_of_it(vault: Vault) -> None:
    vault.make("--site", "plone")
    with site_factory.Site(vault.directory / "other") as site:
        site.put(text="another site")
        vault.files = site.files
    assert vault("create", "-q", "--site", "other") == (0, "", "")


def clock_check(vault: Vault) -> dict[str, str]:
    checks = vault("doctor", "--json").document["checks"]
    return next(one for one in checks if one["name"] == "clock")


def test_T05_doctor_passes_again_after_a_backup_under_a_clock_of_the_future(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(clock, "now", lambda: datetime(2045, 1, 1, tzinfo=UTC))
        future = vault.make()
    assert future.startswith("2045")
    check = clock_check(vault)
    assert not check["ok"]
    assert "this finding ends with the next backup" in check["hint"]
    after = vault.make()
    assert after.startswith("2045")
    assert clock_check(vault)["ok"]
    assert vault("doctor", "-q") == (0, "", "")
    # prune does not trust the ages, says so, and what it says helps
    assert "until one of them is deleted" in vault.done("prune", "-q").err
    vault.done("delete", "--yes", future)
    assert vault.done("prune", "-q").err == ""
    assert vault("doctor", "-q") == (0, "", "")


def configured(vault: Vault, text: str) -> list[object]:
    file = vault.directory / "zodb-vault.toml"
    file.write_text(
        f'[repository]\nlocation = "{vault.repository}"\n{text}\n[site.default]\n'
        f'data_fs = "{vault.files.data_fs}"\nblob_dir = "{vault.files.blob_dir}"\n'
    )
    return ["--config", file]


@pytest.mark.parametrize("place", ["schedule", "site"])
def test_U9_a_newest_backup_that_is_too_old_is_a_finding(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    options = configured(vault, '[schedule]\nmax_age = "26h"' if place == "schedule" else "")
    if place == "site":
        with (vault.directory / "zodb-vault.toml").open("a") as file:
            file.write('max_age = "26h"\n')

    none = vault.bare(*options, "doctor", "-q")
    assert none.status == 3
    assert "there is no backup of the site default" in none.out
    made = vault.bare(*options, "create", "--json").document["id"]
    for command in ("doctor", "list"):
        assert vault.bare(*options, command, "-q").status == 0
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + timedelta(days=60))
    monkeypatch.setattr("zodb_vault.stores.local.LocalStore.clock", lambda _self: clock.now())
    for command in ("doctor", "list"):
        late = vault.bare(*options, command, "-q")
        assert late.status == 3
        assert "60.0 days old, more than max_age allows (26.0 hours)" in late.out + late.err
        assert made in late.out + late.err
    assert vault("doctor", "-q") == (0, "", "")
    # neither a safety backup nor a part of the site counts
    assert vault.bare(*options, "create", "--only", "blobs").status == 0
    assert vault.bare(*options, "doctor", "-q").status == 3
    assert vault.bare(*options, "create").status == 0
    assert vault.bare(*options, "doctor", "-q").status == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[schedule]\nat = "04:00"', "schedule.at is not supported: zodb-vault starts nothing by itself"),
        ("[site.x]\ndata_fs = 'D'\ndsn_backup = 'host=x'", "site.x.dsn_backup belongs to zope_conf"),
        ("[site.x]\nzope_conf = 'z'\nreplica_lag = '1m'", "site.x.replica_lag belongs to dsn_backup"),
    ],
)
def test_U9_configuration_that_does_nothing_is_refused(vault: Vault, text: str, said: str) -> None:
    outcome = vault.bare(*configured(vault, text), "list")
    assert outcome.status == 2
    assert said in outcome.err


def test_an_adopted_path_is_the_same_site(vault: Vault, tmp_path: Path) -> None:
    vault.make()
    moved = tmp_path / "moved"
    shutil.move(vault.files.data_fs.parent, moved)
    vault.files = site_factory.SiteFiles(moved / "Data.fs", moved / "blobs")
    assert vault("create").status == 0
