"""P9: the tiers hourly and last are configured, listed, and named by what would lose states without them."""

from __future__ import annotations

import pytest
from command_line import Vault


def tiers(vault: Vault) -> list[str | None]:
    return [row["tier"] for row in vault.done("list", "--json").document["backups"]]


@pytest.fixture
def frequent(vault: Vault) -> Vault:
    """A site with five scheduled backups of one day."""
    for _ in range(5):
        vault.make("--trigger", "scheduled")
    return vault


def test_p9_a_dry_run_says_what_a_pack_makes_unreachable(
    frequent: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = frequent.done("prune", "--dry-run")
    assert "3 backups of these lie between two daily ones" in outcome.err
    assert "retention.scheduled.hourly" in outcome.err
    assert frequent("prune", "--dry-run", "-q").err == ""
    monkeypatch.setenv("ZODB_VAULT_RETENTION_SCHEDULED_LAST", "2")
    assert "between two daily ones" not in frequent.done("prune", "--dry-run").err


def test_p9_last_and_hourly_are_configured_and_listed(
    frequent: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiers(frequent) == [None, None, None, None, "daily"]
    config = frequent.directory / "zodb-vault.toml"
    config.write_text("[retention.scheduled]\nlast = 3\nhourly = 1\ndaily = 0\nweekly = 0\nmonthly = 0\n")
    listed = frequent.done("list", "--json", "--config", config).document["backups"]
    assert [row["tier"] for row in listed] == ["last", "last", "last", None, "hourly"]
    done = frequent.done("prune", "--json", "--config", config).document
    assert [one["id"] for one in done["remove"]] == [listed[3]["id"]]
    config.write_text("[policy.often.scheduled]\nlast = 2\ndaily = 0\n")
    done = frequent.done("prune", "--json", "--dry-run", "--policy", "often", "--config", config).document
    assert [one["reasons"][0] for one in done["keep"][:2]] == ["last 1 of 2", "last 2 of 2"]
