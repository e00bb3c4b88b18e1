"""``prune`` is killed, or a call of it fails, at every moment that makes a difference.

No listed backup ever misses anything, backups in the trash can be brought back, and the next runs end in the
same state as an undisturbed run.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fault_injection
import filestorage_vault
import pytest
from filestorage_vault import ExistingVault
from site_factory import Site, noise

from zodb_vault.errors import BackupMissing
from zodb_vault.model import chain
from zodb_vault.operations.prune import run as prune
from zodb_vault.operations.prune import sweep
from zodb_vault.operations.prune import trash as deletion
from zodb_vault.policy.retention import OnDemandRetention, Rules, SafetyRetention, ScheduledRetention
from zodb_vault.repository import trash
from zodb_vault.repository.repository import Repository
from zodb_vault.runtime import clock
from zodb_vault.stores.local import LocalStore
from zodb_vault.strategies.filestorage import cut

GRACE = timedelta(days=3)
RULES = Rules(
    scheduled=ScheduledRetention(daily=2, weekly=0, monthly=0),
    on_demand=OnDemandRetention(newest=0, age=timedelta()),
    safety=SafetyRetention(),
    zone=UTC,
)


class Opened(ExistingVault):
    """The repository below a directory."""

    def prune(self) -> sweep.Swept:
        return prune.prune(
            self.repository, filestorage_vault.SITE, prune.PruneOptions(rules=RULES, grace=GRACE)
        ).swept

    def content(self) -> dict[str, int]:
        return {
            key: size
            for prefix in ("objects/", "meta/", "sites/")
            for key, size in self.repository.store.list(prefix)
        }


def pruning_in(directory: Path) -> fault_injection.Operation:
    def operation() -> None:
        Opened(directory).prune()

    return operation


class Days:
    """A clock that is set by hand, in days after the start of the tests."""

    def __init__(self) -> None:
        self.now = fault_injection.START

    def __call__(self) -> datetime:
        return self.now

    def set(self, days: float) -> None:
        self.now = fault_injection.START + timedelta(days=days)


@pytest.fixture(autouse=True)
def days(monkeypatch: pytest.MonkeyPatch) -> Days:
    days = Days()
    monkeypatch.setattr(clock, "now", days)
    return days


@pytest.fixture
def scene(tmp_path: Path, days: Days, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Backups: one is due, one is in the trash, one goes there now, and two stay; some share objects."""
    monkeypatch.setattr(chain, "TAIL_LIMIT", 2)
    monkeypatch.setattr(chain, "TAIL_KEPT", 1)
    monkeypatch.setattr(cut, "SEGMENT_LIMIT", 1500)
    directory = tmp_path / "base"
    Repository.create(LocalStore(_site(directory).parent.parent / "repository"))
    opened = Opened(directory)
    for number in range(5):
        days.set(-30 + number)
        with Site(directory / "site") as site:
            site.put(text=f"number {number}" * 50, blob=noise(1500, number))
        opened.create(trigger="scheduled", full=number in (0, 1, 3))
    ids = opened.ids
    for backup, steps in ((ids[0], (-8, -4)), (ids[1], (-2,))):
        deletion.delete(opened.repository, opened.catalog, opened.catalog.backup(backup), force=False)
        for step in steps:
            days.set(step)
            sweep.sweep(opened.repository, sweep.SweepOptions(site=filestorage_vault.SITE, grace=GRACE))
    (directory / "repository" / "objects" / ".tmp-0123456789abcdef").write_bytes(b"x")
    days.set(0)
    return directory


def _site(directory: Path) -> Path:
    with Site(directory / "site") as site:
        site.put(text="the first")
    return directory / "site" / "Data.fs"


def judge(opened: Opened) -> None:
    """Require all listed backups, and all in the trash once they are brought back, to be complete."""
    for backup in opened.repository.trash.backups(filestorage_vault.SITE):
        deletion.undelete(opened.repository, filestorage_vault.SITE, backup)
    assert len(opened.ids) >= 2
    for backup in opened.ids:
        report = opened.verify("records", backup)
        assert report.ok, (backup, report.damage)
    opened.assert_restores(opened.files)


def ends(opened: Opened, days: Days) -> dict[str, int]:
    """Prune until nothing is left to do, and return what there is then."""
    opened.prune()
    days.now += sweep.ABANDONED  # the marker of a dead run keeps what it was moving until then
    for _ in range(5):
        opened.prune()
        days.now += GRACE
    assert opened.prune() == sweep.Swept()
    return {key: size for key, size in opened.content().items() if "/labels/" not in key}


def copies(scene: Path, tmp_path: Path) -> Iterator[Path]:
    for number in itertools.count():
        yield Path(shutil.copytree(scene, tmp_path / f"case{number}"))


def test_killed_at_any_moment(scene: Path, tmp_path: Path, days: Days) -> None:
    cases = copies(scene, tmp_path)
    expected = ends(Opened(next(cases)), days)
    points = list(fault_injection.points(fault_injection.calls_of(pruning_in(next(cases)), tmp_path)))
    assert len(points) > 30
    for point in points:
        case = next(cases)
        days.set(0)
        try:
            fault_injection.kill(pruning_in(case), point)
            looked = Path(shutil.copytree(case, case.with_name("looked")))
            judge(Opened(looked))
            assert ends(Opened(case), days) == expected
        except Exception as error:
            raise AssertionError(f"killed {point}") from error
        shutil.rmtree(case)
        shutil.rmtree(looked)
    print(len(points), "points")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_any_call_fails(scene: Path, tmp_path: Path, days: Days, error: int) -> None:
    cases = copies(scene, tmp_path)
    expected = ends(Opened(next(cases)), days)
    calls = fault_injection.calls_of(pruning_in(next(cases)), tmp_path)
    for number in fault_injection.each(calls, (*fault_injection.ALLOCATING, "unlink")):
        case = next(cases)
        days.set(0)
        try:
            fault_injection.through(
                fault_injection.Failing(number, error, lasting=error == errno.ENOSPC), pruning_in(case)
            )
            looked = Path(shutil.copytree(case, case.with_name("looked")))
            judge(Opened(looked))
            assert ends(Opened(case), days) == expected
        except Exception as failure:
            raise AssertionError(
                f"{errno.errorcode[error]} at call {number}: {calls[number - 1]}"
            ) from failure
        shutil.rmtree(case)
        shutil.rmtree(looked)


def test_a_power_failure_takes_back_no_removal_that_others_rely_on(scene: Path, tmp_path: Path) -> None:
    """When the first object goes, the trashed manifest that named it is gone for good."""
    seen = tmp_path / "seen"

    def look(call: fault_injection.Call, _files: set[str], directories: set[str]) -> None:
        if call.name == "unlink" and "/objects/" in call.path and not seen.exists():
            seen.write_text("\n".join(sorted(path for path in directories if "/trash" in path)) or "nothing")

    fault_injection.through(fault_injection.Volatile(look), pruning_in(scene))
    assert seen.read_text() == "nothing"
    with pytest.raises(BackupMissing):
        deletion.undelete(Opened(scene).repository, filestorage_vault.SITE, "20200101T000000Z-aaaaaa")
    assert os.path.exists(scene / "repository" / trash.PENDING_KEY)
