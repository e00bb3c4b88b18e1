"""The timeline of a backup after a restore; an abandoned timeline is used only if its backup is named."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import history_with_backups
import pytest
from filestorage_vault import SITE, Vault
from site_factory import MINUTE, Site, SiteFiles, noise, time_of

from zodb_vault.errors import TargetAmbiguous, TargetMissing, WrongSource
from zodb_vault.model import manifest
from zodb_vault.operations.restore import run as restore
from zodb_vault.operations.restore.targets import RestoreTarget, resolve
from zodb_vault.policy.recovery import AtTimestamp, BeforeTid, Request, ToTid, restore_command
from zodb_vault.repository.repository import Repository
from zodb_vault.runtime import clock
from zodb_vault.strategies.blobs import compaction
from zodb_vault.strategies.filestorage.restore import index as indexing


def to(tid: bytes) -> ToTid:
    return ToTid("0x" + tid.hex())


class Lines(Vault):
    """A vault with a site that can be restored in place, a minute apart by a clock of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, Site(directory / "site").close())
        self.moment = datetime(2026, 6, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self.moment += timedelta(seconds=10)
        return self.moment

    def put(self, **values: str | bytes) -> bytes:
        with Site(self.files.data_fs.parent) as site:
            # two timelines never use one TID, just as no clock stops
            site.storage.next_moment = max(site.storage.next_moment, self.now() - timedelta(days=30))
            return site.put(**values)

    def pack(self) -> None:
        with Site(self.files.data_fs.parent) as site:
            site.pack()

    def back_to(self, backup: str, tid: bytes) -> None:
        options = restore.RestoreOptions(backup=backup, request=to(tid), safety_backup=False)
        restore.execute(
            self.repository, restore.plan(self.repository, SITE, self.site, options), SITE, self.progress
        )

    def back_by_hand(self, backup: str, tid: bytes) -> None:
        restored = self.restore(backup, tid)
        shutil.rmtree(self.files.data_fs.parent)
        shutil.move(restored.data_fs.parent, self.files.data_fs.parent)

    def found(self, request: Request | None, backup: str | None = None) -> RestoreTarget:
        return resolve(self.catalog, backup, request)

    def line(self) -> list[manifest.Timeline]:
        return self.newest.timeline


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lines:
    monkeypatch.setattr(indexing, "subprocess", history_with_backups.InProcess)
    site = Lines(tmp_path)
    monkeypatch.setattr(clock, "now", site.now)
    return site


def test_restoring_to_exactly_an_older_backup_begins_a_timeline(lines: Lines) -> None:
    lines.put(text="one", blob=noise(500, 1))
    older = lines.create().manifest
    kept = bytes.fromhex(str(older.databases[0].last_tid)[2:])
    abandoned = lines.put(text="two", blob=noise(500, 2))
    newer = lines.create(full=True).manifest
    lines.back_to(older.id, kept)
    going_on = lines.put(text="three", blob=noise(500, 3))
    made = lines.create().manifest
    assert made.reason.code == "diverged"
    assert made.how == "incremental"  # all of the older backup matches
    assert made.timeline == [manifest.Timeline(older.id, "0x" + kept.hex()), manifest.Timeline(made.id, None)]
    assert lines.found(to(going_on)).backup.manifest.id == made.id
    assert lines.found(to(kept)).backup.manifest.id == made.id
    with pytest.raises(TargetMissing, match=newer.id):
        lines.found(to(abandoned))
    assert lines.found(to(abandoned), newer.id).cuts[0].last_tid == "0x" + abandoned.hex()
    lines.assert_restores(lines.files)


def test_older_backup_in_other_pieces_does_not_hide_that_the_newest_was_left(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "NEIGHBOURS", 2)
    for number in range(2):
        kept = lines.put(text=f"text {number}")
        older = lines.create().manifest
    abandoned = lines.put(text="abandoned")
    newer = lines.create().manifest
    assert len(lines.segments(newer)) < len(lines.segments(older))
    lines.back_by_hand(older.id, kept)
    lines.put(text="going on")
    assert lines.create().manifest.reason.code == "diverged"
    with pytest.raises(TargetMissing, match=newer.id):
        lines.found(to(abandoned))


@pytest.mark.parametrize("way", ["back_to", "back_by_hand"])
def test_p1_time_and_before_do_not_choose_between_two_timelines(lines: Lines, way: str) -> None:
    kept = lines.put(text="one", blob=noise(500, 1))
    abandoned = lines.put(text="two", blob=noise(500, 2))
    left = lines.create().manifest
    getattr(lines, way)(left.id, kept)
    going_on = lines.put(text="three", blob=noise(500, 3))
    made = lines.create().manifest
    at_abandoned = AtTimestamp(time_of(abandoned) + MINUTE / 120)
    for request in (BeforeTid("0x" + going_on.hex()), at_abandoned):
        with pytest.raises(TargetAmbiguous) as caught:
            lines.found(request)
        assert caught.value.exit_code == 13
        for backup, state in ((left, abandoned), (made, kept)):
            assert restore_command(backup.id, request) in caught.value.hint
            assert f"0x{state.hex()}" in caught.value.message
            assert lines.found(request, backup.id).cuts[0].last_tid == "0x" + state.hex()
    assert lines.found(AtTimestamp(time_of(kept))).cuts[0].last_tid == "0x" + kept.hex()
    assert lines.found(to(going_on)).backup.manifest.id == made.id
    lines.assert_restores(lines.files)


def test_restoring_the_newest_state_itself_and_packing_is_no_other_timeline(lines: Lines) -> None:
    first = lines.put(text="one", other="kept")
    last = lines.put(text="two")
    before = lines.create().manifest
    lines.back_to(before.id, last)
    lines.put(text="three")
    lines.pack()
    made = lines.create().manifest
    assert made.reason.code == "packed"
    assert made.timeline == before.timeline
    assert lines.found(to(last)).backup.manifest.id == before.id
    assert lines.found(to(first)).backup.manifest.id in (before.id, made.id)


def test_restoring_an_older_state_and_packing_is_another_timeline(lines: Lines) -> None:
    kept = lines.put(text="one", other="kept")
    abandoned = lines.put(text="two")
    before = lines.create().manifest
    lines.back_to(before.id, kept)
    lines.put(text="three")
    lines.pack()
    assert lines.create().manifest.reason.code == "diverged"
    with pytest.raises(TargetMissing, match=before.id):
        lines.found(to(abandoned))


def test_returning_to_the_abandoned_timeline_makes_it_the_current_one(lines: Lines) -> None:
    kept = lines.put(text="one", blob=noise(500, 1))
    abandoned = lines.put(text="two", blob=noise(500, 2))
    left = lines.create().manifest
    lines.back_to(left.id, kept)
    other = lines.put(text="three", blob=noise(500, 3))
    second = lines.create().manifest
    lines.back_to(left.id, abandoned)
    lines.put(text="four")
    made = lines.create().manifest
    assert lines.found(to(abandoned)).backup.manifest.id == made.id
    with pytest.raises(TargetMissing, match=second.id):
        lines.found(to(other))
    lines.assert_restores(lines.files)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_run_that_was_interrupted_after_a_pack_does_not_cost_the_timeline(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    # nothing of the older backup matches then, so what the run left has no parent
    lines.put(text="one", other="kept", blob=noise(500, 1))
    second = lines.put(text="two", blob=noise(500, 2))
    before = lines.create().manifest
    lines.put(text="three", blob=noise(500, 3))
    lines.pack()
    with monkeypatch.context() as patch:
        patch.setattr(Repository, "commit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            lines.create()
    made = lines.create().manifest
    assert made.reason.code == "resumed"
    assert made.timeline == before.timeline
    assert lines.found(to(second)).backup.manifest.id == before.id
    lines.assert_restores(lines.files)


def test_left_state_from_another_path_is_refused(lines: Lines, tmp_path: Path) -> None:
    kept = lines.put(text="one")
    older = lines.create().manifest
    lines.put(text="two")
    lines.create(full=True)
    elsewhere = lines.restore(older.id, kept)
    with Site(elsewhere.data_fs.parent) as site:
        site.put(text="three")
    lines.files = SiteFiles(*elsewhere)
    with pytest.raises(WrongSource):
        lines.create()


@pytest.mark.parametrize("passed", [False, True], ids=["clock still behind", "clock has passed"])
@pytest.mark.parametrize("more", [False, True], ids=["same transactions", "one more"])
def test_transactions_later_than_the_clock_are_never_taken_for_others_of_the_same_tid(
    lines: Lines, *, passed: bool, more: bool
) -> None:
    lines.moment = datetime(2025, 6, 1, tzinfo=UTC)
    first = lines.put(text="one", blob=noise(500, 1))
    second = lines.put(blob=noise(500, 2))
    left = lines.create().manifest
    shutil.copytree(lines.files.data_fs.parent, lines.directory / "before")
    lines.back_by_hand(left.id, first)
    assert lines.put(blob=noise(500, 3)) == second  # the same bytes in Data.fs, another blob
    if more:
        lines.put(other=noise(500, 4))
    if passed:
        lines.moment = datetime(2026, 6, 1, tzinfo=UTC)
    made = lines.create().manifest
    lines.assert_restores(lines.files, made.id)
    again = lines.create().manifest
    lines.assert_restores(lines.files, again.id)
    lines.assert_restores(
        SiteFiles(lines.directory / "before" / "Data.fs", lines.directory / "before" / "blobs"), left.id
    )
