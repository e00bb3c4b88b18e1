"""A clock for the tests of prune, and a backup every day of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from command_line import Vault

START = datetime(2027, 3, 1, 2, 30, tzinfo=UTC)


class Calendar:
    """The clock that the commands see."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_days(self, days: float) -> None:
        self.now += timedelta(days=days)


def daily(vault: Vault, calendar: Calendar, count: int, *arguments: object, status: int = 0) -> list[str]:
    """Make a backup every day, each with this exit status, and return the ids."""
    ids = []
    for _ in range(count):
        made = vault("create", "--json", "--trigger", "scheduled", *arguments)
        assert made.status == status, made
        ids.append(made.document["id"])
        calendar.pass_days(1)
    return ids


def listed(vault: Vault) -> list[str]:
    return [row["id"] for row in vault.done("list", "--json").document["backups"]][::-1]
