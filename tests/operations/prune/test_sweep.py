"""How ``prune`` frees space: nothing before its time, everything then; the report says exactly that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import site_factory
from command_line import Vault, flip
from daily_backups import Calendar, daily, listed

from zodb_vault.model import chain
from zodb_vault.operations.create import resume
from zodb_vault.repository import markers
from zodb_vault.repository.markers import RunMarker
from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore

pytestmark = pytest.mark.usefixtures("clean_environment")

GRACE = 3


@pytest.fixture
def changing(vault: Vault, calendar: Calendar) -> list[str]:
    """Backups of four states that share nothing: each is a full one."""
    ids = []
    for number in range(4):
        with site_factory.Site(vault.files.data_fs.parent) as site:
            site.put(text=f"number {number}", blob=site_factory.noise(3000, number))
        ids += daily(vault, calendar, 1, "--full")
    return ids


def content(vault: Vault) -> set[Path]:
    return {
        path
        for folder in ("objects", "meta")
        for path in (vault.repository / folder).rglob("*")
        if path.is_file()
    }


def swept(vault: Vault) -> dict[str, int]:
    """Require the dry run to report what then happens, and return what was swept."""
    planned = vault.done("prune", "--dry-run", "--json").document
    done = vault.done("prune", "--json").document
    assert planned == done
    found: dict[str, int] = done["swept"]
    return found


def test_what_is_deleted_goes_after_two_grace_periods_and_not_before(
    vault: Vault, calendar: Calendar, changing: list[str]
) -> None:
    vault.done("delete", "--yes", changing[0])
    before = content(vault)
    for days in (0, GRACE - 0.01, 0.02, GRACE - 0.05):
        calendar.pass_days(days)
        assert swept(vault) == {"objects": 0, "bytes": 0}
        assert content(vault) == before
    vault.done("undelete", changing[0])
    vault.done("verify", changing[0])
    vault.done("delete", "--yes", changing[0])
    for days in (0, GRACE - 0.01):
        calendar.pass_days(days)
        assert swept(vault) == {"objects": 0, "bytes": 0}, (
            "the time of a backup that was brought back begins again"
        )
    vault.done("undelete", changing[0])
    swept(vault)
    vault.done("delete", "--yes", changing[0])
    for days in (0, GRACE, GRACE - 0.01):
        calendar.pass_days(days)
        assert swept(vault) == {"objects": 0, "bytes": 0}
    calendar.pass_days(0.01)
    found = swept(vault)
    assert 0 < found["objects"] == len(before - content(vault)) + 1
    assert vault("undelete", changing[0]).status == 13
    vault.done("verify", "--all")
    assert swept(vault)["objects"] == 0


def test_the_bytes_are_exact(vault: Vault, calendar: Calendar, changing: list[str]) -> None:
    vault.done("delete", "--yes", changing[1])
    for _ in range(2):
        vault.done("prune")
        calendar.pass_days(GRACE)
    before = {path: path.stat().st_size for path in vault.repository.rglob("*") if path.is_file()}
    found = swept(vault)
    gone = [size for path, size in before.items() if not path.exists()]
    assert found == {"objects": len(gone), "bytes": sum(gone)}
    assert len(gone) > 5


def test_the_grace_is_configured(
    vault: Vault, calendar: Calendar, changing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZODB_VAULT_RETENTION_GRACE", "0s")
    vault.done("delete", "--yes", changing[1])
    counts = [swept(vault)["objects"] for _ in range(4)]
    assert counts[0] == counts[1] == counts[3] == 0
    assert counts[2] > 5
    vault.done("verify", "--all")


def test_an_undeleted_backup_keeps_everything(vault: Vault, calendar: Calendar, changing: list[str]) -> None:
    vault.done("delete", "--yes", changing[1])
    for _ in range(2):
        vault.done("prune")
        calendar.pass_days(GRACE)
    vault.done("undelete", changing[1])
    assert swept(vault)["objects"] == 0
    calendar.pass_days(30)
    assert swept(vault)["objects"] == 0
    vault.done("verify", "--all")


def test_what_an_interrupted_run_stored_stays_for_two_weeks(
    vault: Vault, calendar: Calendar, changing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(text="more", blob=site_factory.noise(5000, 99))
    monkeypatch.setattr(resume, "CHECKPOINT_BYTES", 1)
    with monkeypatch.context() as patched:
        patched.setattr(Repository, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert vault("create").status == 130
    stored = content(vault)
    for _ in range(4):
        calendar.pass_days(GRACE)
        assert swept(vault)["objects"] == 0
    assert content(vault) == stored
    for _ in range(3):
        calendar.pass_days(GRACE)
        vault.done("prune")
    assert not list((vault.repository / "sites" / "default" / "running").glob("*.json"))
    calendar.pass_days(GRACE)
    vault.done("prune")
    assert content(vault) < stored
    assert listed(vault) == changing
    vault.done("verify", "--all")


def test_a_run_that_began_before_something_was_listed_keeps_it(
    vault: Vault, calendar: Calendar, changing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects that a long run has stored but not yet noted look unused."""
    monkeypatch.setattr(markers, "process_identity", lambda _pid: "")
    store = LocalStore(vault.repository)
    run = RunMarker.start(store, "blog", "create", "20270301T000000Z-aaaaaa", [])
    orphan = vault.repository / "objects" / "aa" / ("aa" * 32)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"stored by the run of another site")
    for _ in range(4):
        swept(vault)
        calendar.pass_days(GRACE)
    assert orphan.exists()
    run.remove()
    assert swept(vault) == {"objects": 1, "bytes": 33}
    assert not orphan.exists()


def test_leftovers_of_killed_writes_go(vault: Vault, calendar: Calendar, changing: list[str]) -> None:
    for place in (
        vault.repository,
        vault.repository / "objects",
        vault.repository / "sites" / "default" / "backups",
    ):
        (place / ".tmp-0123456789abcdef").write_bytes(b"x" * 100)
    assert swept(vault)["objects"] == 0
    calendar.pass_days(GRACE)
    assert swept(vault) == {"objects": 3, "bytes": 300}
    assert not list(vault.repository.rglob(".tmp-*"))


def test_superseded_labels_go(vault: Vault, calendar: Calendar, changing: list[str]) -> None:
    folder = vault.repository / "sites" / "default" / "labels" / changing[0]
    for arguments in (
        ("annotate", "--name", "a"),
        ("annotate", "--name", "b"),
        ("verify",),
        ("annotate", "--pin"),
        ("verify",),
    ):
        vault.done(*arguments, changing[0])
    row = vault.done("list", "--json").document["backups"][-1]
    assert len(list(folder.iterdir())) == 5
    swept(vault)
    calendar.pass_days(GRACE)
    assert swept(vault)["objects"] == 2
    after = vault.done("list", "--json").document["backups"][-1]
    assert after == row | {"verified": row["verified"][-1:]}
    vault.done("annotate", changing[0], "--unpin")
    vault.done("delete", "--yes", changing[0])
    for _ in range(4):
        swept(vault)
        calendar.pass_days(GRACE)
    swept(vault)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "folder", ["meta", "trash/default", "sites/default/backups", "sites/other/backups", "trash"]
)
def test_what_cannot_be_read_stops_the_sweep(
    vault: Vault, calendar: Calendar, changing: list[str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "TAIL_LIMIT", 1)
    monkeypatch.setattr(chain, "TAIL_KEPT", 1)
    for number in range(3):
        assert vault("--site", "other", "create").status in (0, 3)  # the same source under two names (U4)
        with site_factory.Site(vault.files.data_fs.parent) as site:
            site.put(text=f"more {number}")
    vault.done("delete", "--yes", changing[0])
    for _ in range(2):
        vault.done("prune")
        calendar.pass_days(GRACE)
    needed = vault.done("--site", "other", "show", "latest", "--json").document["manifest"]["databases"][0][
        "storage"
    ]["lists"]
    path = (
        next((vault.repository / folder).glob("*.json"), None)
        or vault.repository / folder / needed[0]["list"][:2] / needed[0]["list"]
    )
    flip(path)
    before = content(vault)
    outcome = vault("prune")
    assert outcome.status == 4, outcome
    assert content(vault) == before


def test_a_site_that_disappears_stops_the_sweep_of_all(
    vault: Vault, calendar: Calendar, changing: list[str]
) -> None:
    assert vault("--site", "blog", "create").status == 3  # the same source under two names (U4)
    vault.done("prune")
    away = vault.directory / "away"
    os.rename(vault.repository / "sites" / "blog", away)
    calendar.pass_days(9)
    outcome = vault("prune")
    assert outcome.status == 4
    assert "of the site blog" in outcome.err
    os.rename(away, vault.repository / "sites" / "blog")
    vault.done("prune")
    vault.done("--site", "blog", "verify")


def test_a_backup_of_a_site_that_is_not_configured_stays(
    vault: Vault, calendar: Calendar, changing: list[str]
) -> None:
    assert vault("--site", "blog", "create").status == 3  # the same source under two names (U4)
    for _ in range(5):
        vault.done("prune")
        calendar.pass_days(10)
    vault.done("--site", "blog", "verify")


def test_gone_is_noted_until_no_backup_has_seen_it(
    vault: Vault, calendar: Calendar, changing: list[str]
) -> None:
    def noted() -> list[Path]:
        return sorted((vault.repository / "trash" / "default" / "gone").glob("*.json"))

    vault.done("delete", "--yes", changing[0])
    for _ in range(3):
        vault.done("prune")
        calendar.pass_days(GRACE)
    assert [path.stem for path in noted()] == [changing[0]]
    assert vault.done("list", "--json").document["backups"][0]["id"] == changing[-1]
    vault.done("prune")
    vault.make()
    for backup in changing[1:]:
        vault.done("delete", "--yes", backup)
    for _ in range(8):
        vault.done("prune")
        calendar.pass_days(GRACE)
    assert [path.stem for path in noted()] == changing[1:], "the newest backup has seen them"
    seeing = vault.done("list", "--json").document["backups"][0]["id"]
    vault.make()
    vault.done("delete", "--yes", seeing)
    for _ in range(6):
        vault.done("prune")
        calendar.pass_days(GRACE)
    assert [path.stem for path in noted()] == [seeing]
    vault.done("verify", "--all")
