"""Which backup and cut point restore a transaction or a time: exactly, on the current timeline (F30, F44)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zodb_vault.errors import BackupMissing, TargetMissing, UsageError
from zodb_vault.model.manifest import Timeline
from zodb_vault.model.tid import from_datetime, to_hex
from zodb_vault.policy.full_or_incremental import ContinuityFacts, decide, next_timeline
from zodb_vault.policy.recovery import (
    AtTimestamp,
    BeforeTid,
    CutPoint,
    Gap,
    Request,
    ResolvedTarget,
    SearchableBackup,
    SearchStep,
    TidRange,
    ToTid,
    candidates_for_tid,
    cut_point_within,
    elsewhere_for_tid,
    find_cut,
    search,
)
from zodb_vault.policy.timestamps import in_utc, parse_timestamp

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ISO = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z")


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def tid(seconds: float) -> str:
    # A few units below the last TID of the microsecond, so that the time of the TID is not rounded up.
    return to_hex((int.from_bytes(from_datetime(at(seconds)), "big") - 60).to_bytes(8, "big"))


def identity(number: int) -> str:
    return f"20261120T12{number:04}Z-aaaaaa"


class Site:
    """Backups of one database by number; transaction n is n seconds after noon and ends at 100 n."""

    def __init__(self) -> None:
        self.reaches: list[SearchableBackup] = []
        self.lists: dict[str, list[tuple[str, int]]] = {}
        self.read_ids: list[str] = []

    def backup(
        self,
        number: int,
        created: float,
        seconds: Iterable[float],
        *,
        packed: float | None = None,
        timeline: tuple[tuple[int, float | None], ...] = ((1, None),),
        complete: bool = True,
        whole: bool = True,
        trigger: str = "scheduled",
        ordered: bool = True,
    ) -> str:
        kept = list(seconds)
        span = (
            TidRange(tid(kept[0]), None if packed is None else tid(packed), tid(kept[-1]))
            if kept
            else TidRange(None, None, None)
        )
        timelines = tuple(
            Timeline(identity(n), None if until is None else tid(until)) for n, until in timeline
        )
        reach = SearchableBackup(
            id=identity(number),
            created_at=at(created),
            complete=complete,
            whole=whole,
            trigger=trigger,  # type: ignore[arg-type]
            timeline=timelines,
            ordered=ordered,
            databases={"main": span},
        )
        self.reaches.append(reach)
        self.lists[reach.id] = [(tid(second), int(second * 100)) for second in kept]
        return reach.id

    def read(self, backup_id: str) -> list[tuple[str, int]]:
        self.read_ids.append(backup_id)
        return self.lists[backup_id]

    def find(self, request: Request | None, backup_id: str | None = None) -> ResolvedTarget:
        return find_cut(search(self.reaches, "main", request, backup_id), self.read)

    def refusal(self, request: Request, backup_id: str | None = None) -> TargetMissing:
        with pytest.raises(TargetMissing) as caught:
            self.find(request, backup_id)
        assert (caught.value.exit_code, caught.value.kind) == (13, "no-such-target")
        return caught.value


def found(backup_id: str, second: float) -> ResolvedTarget:
    return ResolvedTarget(backup_id, CutPoint(tid(second), int(second * 100)))


def packed_site() -> Site:
    """Backup 1 holds 10, 20, 30; 2 holds 20 to 60, packed at 40; 3 holds 60 to 90, packed at 80."""
    site = Site()
    site.backup(1, 35, [10, 20, 30])
    site.backup(2, 65, [20, 40, 50, 60], packed=40)
    site.backup(3, 95, [60, 80, 90], packed=80)
    return site


def diverged_site() -> Site:
    """Line 1 went to 50 in backup 2, was put back to 20 and went on as line 3 with 60."""
    site = Site()
    site.backup(1, 35, [10, 20, 30])
    site.backup(2, 55, [10, 20, 30, 50])
    site.backup(3, 65, [10, 20, 60], timeline=((1, 20), (3, None)))
    return site


def test_the_latest_is_taken_whole_and_without_reading_a_list() -> None:
    site = packed_site()
    assert site.find(None) == ResolvedTarget(identity(3), None)
    assert site.find(None, identity(1)) == ResolvedTarget(identity(1), None)
    assert site.read_ids == []


@pytest.mark.parametrize("spoiled", [{"complete": False}, {"whole": False}, {"trigger": "safety"}])
def test_what_is_not_eligible_is_neither_latest_nor_searched(spoiled: dict[str, bool]) -> None:
    site = packed_site()
    site.backup(4, 120, [90, 100], **spoiled)  # type: ignore[arg-type]
    assert site.find(None) == ResolvedTarget(identity(3), None)
    for request in (ToTid(tid(100)), AtTimestamp(at(110)), BeforeTid(tid(101))):
        refused = site.refusal(request)
        assert f"{identity(4)} (" in refused.message
        assert identity(4) in refused.hint
        assert site.find(request, identity(4)) == found(identity(4), 100)


def test_without_an_eligible_backup_nothing_is_searched() -> None:
    site = Site()
    with pytest.raises(BackupMissing, match="no backups yet"):
        site.find(None)
    site.backup(1, 35, [10], complete=False)
    with pytest.raises(BackupMissing) as caught:
        site.find(ToTid(tid(10)))
    assert identity(1) in caught.value.hint
    with pytest.raises(BackupMissing, match="no backup 2026"):
        site.find(None, "2026")


def test_unknown_databases_and_malformed_tids_are_usage_errors() -> None:
    site = packed_site()
    with pytest.raises(UsageError) as caught:
        search(site.reaches, "catalog", ToTid(tid(10)))
    assert "main" in caught.value.hint
    with pytest.raises(UsageError, match="not a TID"):
        site.find(ToTid("0x12"))


@pytest.mark.parametrize(
    ("second", "number"), [(90, 3), (80, 3), (60, 2), (50, 2), (40, 2), (30, 1), (20, 1), (10, 1)]
)
def test_a_tid_is_taken_from_the_newest_backup_where_it_is_a_target(second: int, number: int) -> None:
    assert packed_site().find(ToTid(tid(second))) == found(identity(number), second)


def test_a_tid_is_accepted_without_0x_and_in_capitals() -> None:
    assert packed_site().find(ToTid(tid(90)[2:].upper())) == found(identity(3), 90)


def test_a_missing_tid_names_its_neighbours() -> None:
    site = packed_site()
    refused = site.refusal(ToTid(tid(85)))
    assert f"before is {tid(80)}" in refused.message
    assert f"after is {tid(90)}" in refused.message
    between = site.refusal(ToTid(tid(70)))
    assert f"before is {tid(60)}" in between.message
    assert f"after is {tid(80)}" in between.message
    first, last = site.refusal(ToTid(tid(5))).message, site.refusal(ToTid(tid(99))).message
    assert f"after is {tid(10)}" in first
    assert "before is" not in first
    assert f"before is {tid(90)}" in last
    assert "after is" not in last


def test_a_transaction_from_before_the_pack_is_no_target_though_the_file_holds_it() -> None:
    site = Site()
    site.backup(3, 95, [60, 80, 90], packed=80)
    refused = site.refusal(ToTid(tid(60)))
    assert f"after is {tid(80)}" in refused.message
    assert "before is" not in refused.message
    assert str(tid(80)) in site.refusal(ToTid(tid(60)), identity(3)).message


def test_lists_are_read_only_as_far_as_needed() -> None:
    site = packed_site()
    site.find(ToTid(tid(90)))
    assert site.read_ids == [identity(3)]


def test_an_abandoned_transaction_is_named_and_needs_its_backup() -> None:
    site = diverged_site()
    for second, newest in ((30, 2), (50, 2)):
        refused = site.refusal(ToTid(tid(second)))
        assert f"only in {identity(newest)} (on an abandoned timeline)" in refused.message
        assert site.find(ToTid(tid(second)), identity(2)) == found(identity(2), second)
    assert f"before is {tid(20)}" in site.refusal(ToTid(tid(30))).message
    assert f"after is {tid(60)}" in site.refusal(ToTid(tid(30))).message


def test_an_older_backup_counts_up_to_the_point_where_the_timeline_left_it() -> None:
    site = diverged_site()
    site.backup(4, 75, [20, 60, 70], packed=60, timeline=((1, 20), (3, None)))
    assert site.find(ToTid(tid(20))) == found(identity(3), 20)
    assert candidates_for_tid(site.reaches, "main", tid(20)) == [identity(3), identity(2), identity(1)]
    assert candidates_for_tid(site.reaches, "main", tid(30)) == [identity(3)]
    assert elsewhere_for_tid(site.reaches, "main", tid(30)) == [identity(2), identity(1)]
    del site.reaches[2]
    assert site.find(ToTid(tid(20))) == found(identity(2), 20)
    assert candidates_for_tid(site.reaches, "main", tid(30)) == []


def test_elsewhere_is_named_only_where_the_transaction_exists() -> None:
    site = diverged_site()
    assert "exists only" not in site.refusal(ToTid(tid(40))).message


@pytest.mark.parametrize(
    ("second", "number", "expected"),
    [
        (95, 3, 90),
        (90, 3, 90),
        (89, 3, 80),
        (80, 3, 80),
        (65, 2, 60),
        (60, 2, 60),
        (59.5, 2, 50),
        (40, 2, 40),
        (35, 1, 30),
        (10, 1, 10),
    ],
)
def test_a_time_is_answered_by_the_newest_backup_that_covers_it(
    second: float, number: int, expected: int
) -> None:
    assert packed_site().find(AtTimestamp(at(second))) == found(identity(number), expected)


@pytest.mark.parametrize("second", [66, 79.999])
def test_a_time_between_an_old_backup_and_the_pack_is_refused_with_both_sides(second: float) -> None:
    refused = packed_site().refusal(AtTimestamp(at(second)))
    assert in_utc(at(65)) in refused.message
    assert identity(2) in refused.message
    assert tid(80) in refused.message
    assert identity(3) in refused.message


def test_a_time_after_the_newest_backup_is_refused() -> None:
    refused = packed_site().refusal(AtTimestamp(at(96)))
    assert f"reaches to {in_utc(at(95))}" in refused.message
    assert "latest" in refused.hint


def test_a_time_before_everything_is_refused_with_the_earliest() -> None:
    refused = packed_site().refusal(AtTimestamp(at(9)))
    assert f"earliest state that can is that of {in_utc(at(10))}" in refused.message


def test_a_time_on_the_abandoned_part_gives_the_current_timeline() -> None:
    assert diverged_site().find(AtTimestamp(at(50))) == found(identity(3), 20)
    assert diverged_site().find(AtTimestamp(at(50)), identity(2)) == found(identity(2), 50)


def test_an_abandoned_end_does_not_answer_for_the_current_timeline() -> None:
    site = diverged_site()
    site.backup(3, 75, [20, 60, 70], packed=60, timeline=((1, 20), (3, None)))
    del site.reaches[2]
    assert site.find(AtTimestamp(at(20))) == found(identity(2), 20)
    refused = site.refusal(AtTimestamp(at(30)))
    assert in_utc(at(20)) in refused.message
    assert f"{identity(2)} (on an abandoned timeline)" in refused.message


def test_a_clock_that_was_ahead_does_not_claim_what_a_newer_backup_saw() -> None:
    site = Site()
    site.backup(1, 1000, [10, 20])
    site.backup(2, 65, [20, 40, 60], packed=60)
    assert site.find(AtTimestamp(at(20))) == found(identity(1), 20)
    assert site.find(AtTimestamp(at(62))) == found(identity(2), 60)
    site.refusal(AtTimestamp(at(70)))


def test_tids_later_than_the_clock_of_the_backup_are_reached() -> None:
    site = Site()
    site.backup(1, 15, [10, 20, 30])
    assert site.find(AtTimestamp(at(30))) == found(identity(1), 30)
    site.refusal(AtTimestamp(at(31)))


def test_a_time_can_be_asked_of_one_backup() -> None:
    site = packed_site()
    assert site.find(AtTimestamp(at(30)), identity(1)) == found(identity(1), 30)
    assert "reaches to" in site.refusal(AtTimestamp(at(40)), identity(1)).message
    assert "earliest" in site.refusal(AtTimestamp(at(30)), identity(3)).message


@pytest.mark.parametrize(
    ("second", "number", "expected"),
    [(90, 3, 80), (85, 3, 80), (95, 3, 90), (60, 2, 50), (61, 2, 60), (40, 1, None), (20, 1, 10)],
)
def test_before_a_tid_whether_it_exists_or_not(second: int, number: int, expected: int | None) -> None:
    site = packed_site()
    if expected is None:
        assert f"the state before {tid(second)}" in site.refusal(BeforeTid(tid(second))).message
    else:
        assert site.find(BeforeTid(tid(second))) == found(identity(number), expected)


@pytest.mark.parametrize("second", [80, 10, 99])
def test_before_a_tid_needs_a_valid_target(second: int) -> None:
    packed_site().refusal(BeforeTid(tid(second)))


def test_before_a_tid_is_decided_by_the_last_tid_below_it() -> None:
    site = packed_site()
    assert search(site.reaches, "main", BeforeTid(tid(80))).choices == []
    beyond = to_hex((int.from_bytes(from_datetime(at(95)), "big") + 1).to_bytes(8, "big"))
    assert site.find(BeforeTid(beyond)) == found(identity(3), 90)


def test_a_backup_packed_after_the_common_past_is_not_named_as_a_neighbour() -> None:
    site = Site()
    site.backup(2, 55, [10, 20, 30, 50], packed=30)
    site.backup(3, 75, [20, 60, 70], packed=60, timeline=((1, 20), (3, None)))
    for request in (ToTid(tid(25)), AtTimestamp(at(25))):
        refused = site.refusal(request)
        assert tid(60) in refused.message
        assert tid(30) not in refused.message


def test_unordered_backups_count_up_to_the_end_of_their_timeline() -> None:
    site = Site()
    site.backup(1, 55, [10, 20, 50, 40], ordered=False)
    site.backup(3, 75, [20, 60, 70], packed=60, timeline=((1, 20), (3, None)))
    assert site.find(ToTid(tid(20))) == found(identity(1), 20)
    assert identity(1) in site.refusal(ToTid(tid(50))).hint
    assert identity(1) in site.refusal(BeforeTid(tid(50))).hint


def test_before_the_very_first_tid_there_is_nothing() -> None:
    assert "earliest" in packed_site().refusal(BeforeTid("0" * 16)).message


def test_unordered_tids_refuse_times_and_keep_the_order_of_the_file() -> None:
    site = Site()
    site.backup(1, 65, [10, 50, 30, 40, 20], packed=50, ordered=False)
    for backup_id in (None, identity(1)):
        refused = site.refusal(AtTimestamp(at(45)), backup_id)
        assert "do not ascend" in refused.message
        assert "--tid" in refused.hint
        assert site.find(ToTid(tid(40)), backup_id) == found(identity(1), 40)
        assert site.find(BeforeTid(tid(20)), backup_id) == found(identity(1), 40)
        site.refusal(ToTid(tid(10)), backup_id)
        site.refusal(BeforeTid(tid(50)), backup_id)
        site.refusal(BeforeTid(tid(35)), backup_id)


def test_a_backup_without_transactions_has_no_targets() -> None:
    site = Site()
    site.backup(1, 35, [])
    assert "no valid target at all" in site.refusal(ToTid(tid(10))).message
    site.refusal(AtTimestamp(at(20)))


def test_cut_points_in_an_ordered_list() -> None:
    transactions = [(tid(second), second) for second in (10, 20, 30, 40)]
    target = SearchStep(backup_id="A", bound=tid(25), start=tid(20), top=tid(30))
    assert cut_point_within(transactions, target) == CutPoint(tid(20), 20)
    assert cut_point_within(
        transactions, SearchStep(backup_id="A", bound=tid(20), start=tid(20), top=tid(30), inclusive=False)
    ) == Gap(None, tid(20))
    assert cut_point_within(
        transactions, SearchStep(backup_id="A", bound=tid(40), start=tid(20), top=tid(30))
    ) == CutPoint(tid(30), 30)
    assert cut_point_within(
        transactions, SearchStep(backup_id="A", bound=tid(25), start=tid(20), top=tid(30), exact=True)
    ) == Gap(tid(20), tid(30))
    assert cut_point_within(transactions, SearchStep(backup_id="A", bound=None)) == CutPoint(tid(40), 40)
    assert cut_point_within(iter([]), target) == Gap(None, None)


def test_equal_tids_are_kept_together() -> None:
    transactions = [(tid(10), 1), (tid(20), 2), (tid(20), 3), (tid(30), 4)]
    assert cut_point_within(
        transactions, SearchStep(backup_id="A", bound=tid(20), exact=True, start=tid(10), ordered=False)
    ) == CutPoint(tid(20), 3)
    assert cut_point_within(
        transactions, SearchStep(backup_id="A", bound=tid(20), inclusive=False, start=tid(10), ordered=False)
    ) == CutPoint(tid(10), 1)


class Life:
    """A site that commits, packs, is restored and backed up, with the complete history of every timeline."""

    def __init__(self) -> None:
        self.site = Site()
        self.clock = 0
        self.file: list[tuple[int, str]] = []
        self.line: list[int] = []
        self.truth: dict[str, tuple[list[tuple[int, str]], list[int]]] = {}
        self.restored = False

    def commit(self, choose: Callable[[int], int]) -> None:
        self.file = [*self.file, (self.clock, " ")]
        self.line = [*self.line, self.clock]

    def pack(self, choose: Callable[[int], int]) -> None:
        # By its TIDs, a restore that is packed before any backup looks like a mere pack.
        if not self.file or self.restored:
            return
        until = choose(len(self.file))
        past, rest = self.file[: until + 1], self.file[until + 1 :]
        kept = [one for one in past[:-1] if choose(2)] + past[-1:]
        self.file = [(second, "p") for second, _ in kept] + rest

    def restore(self, choose: Callable[[int], int]) -> None:
        if not self.truth:
            return
        ids = sorted(self.truth)
        file, line = self.truth[ids[choose(len(ids))]]
        targets = [
            n
            for n, (_, status) in enumerate(file)
            if status == " " or all(s == " " for _, s in file[n + 1 :])
        ]
        if targets:
            last = targets[choose(len(targets))]
            self.file = file[: last + 1]
            self.line = [second for second in line if second <= file[last][0]]
            self.restored = True

    def backup(self, choose: Callable[[int], int]) -> None:
        if not self.file:
            return
        own = identity(self.clock)
        packed = [second for second, status in self.file if status == "p"]
        parent = max(self.site.reaches, key=lambda r: r.id, default=None)
        decision = decide(self.facts(parent, packed[-1] if packed else None))
        line = tuple(next_timeline(parent.timeline if parent else [], own, decision))
        self.site.backup(
            self.clock, self.clock, [s for s, _ in self.file], packed=packed[-1] if packed else None
        )
        self.site.reaches[-1] = SearchableBackup(
            **{
                **{f: getattr(self.site.reaches[-1], f) for f in SearchableBackup.__struct_fields__},
                "timeline": line,
            }
        )
        self.truth[own] = (self.file, self.line)
        self.restored = False

    def facts(self, parent: SearchableBackup | None, packed: int | None) -> ContinuityFacts:
        old = self.truth[parent.id][0] if parent else []
        same = [a == b for a, b in zip(old, self.file, strict=False)]
        held = {second for second, _ in self.file}
        shared = [second for second, _ in old if second in held]
        return ContinuityFacts(
            parent=parent.id if parent else None,
            cut_end=len(self.file),
            matching_end=[*same, False].index(False),
            chain_end=len(old),
            parent_last_tid=tid(old[-1][0]) if old else None,
            common_tid=tid(shared[-1]) if shared else None,
            pack_tid=None if packed is None else tid(packed),
        )


@st.composite
def lives(draw: st.DrawFn) -> Life:
    life = Life()
    steps = st.sampled_from(
        [life.commit, life.commit, life.commit, life.backup, life.backup, life.pack, life.restore]
    )
    for step in draw(st.lists(steps, min_size=3, max_size=16)):
        life.clock += 2
        step(lambda n: draw(st.integers(0, n - 1)))
    life.clock += 2
    if not life.file:
        life.commit(lambda n: 0)
        life.clock += 2
    life.backup(lambda n: 0)
    return life


def resolved(life: Life, request: Request) -> int | None:
    """Return the second of the found transaction; require that it is a valid target of its backup."""
    try:
        result = life.site.find(request)
    except TargetMissing as error:
        message = error.message.split("; it exists only")[0]
        if isinstance(request, AtTimestamp):
            for text in ISO.findall(message)[1:]:
                assert life.site.find(AtTimestamp(*parse_timestamp(text, UTC))).cut
        return None
    assert result.cut is not None
    file, line = life.truth[result.backup_id]
    second = result.cut.end // 100
    after = [status for s, status in file if s > second]
    assert second in [s for s, _ in file]
    assert "p" not in after
    current = life.truth[max(life.truth)][1]
    assert [s for s in line if s <= second] == [s for s in current if s <= second]
    return second


@settings(max_examples=150, deadline=None)
@given(lives())
def test_every_answer_is_that_of_the_remembered_timeline(life: Life) -> None:
    newest = max(life.truth)
    file, line = life.truth[newest]
    start = max([file[0][0], *(s for s, status in file if status == "p")])
    for second in range(-1, life.clock + 2):
        past, before = [s for s in line if s <= second], [s for s in line if s < second]
        answers = [
            resolved(life, request)
            for request in (AtTimestamp(at(second)), ToTid(tid(second)), BeforeTid(tid(second)))
        ]
        if answers[0] is not None:
            assert answers[0] == past[-1]
        if answers[1] is not None:
            assert second in line
        if answers[2] is not None:
            assert answers[2] == before[-1]
        if start <= second <= life.clock:
            assert answers[0] is not None
            assert (answers[1] is not None) == (second in line)
            assert answers[2] is not None or second == start


@settings(max_examples=100, deadline=None)
@given(lives())
def test_every_target_of_a_backup_on_the_same_timeline_is_found(life: Life) -> None:
    newest = max(life.site.reaches, key=lambda r: r.id)
    for reach in life.site.reaches:
        file, _ = life.truth[reach.id]
        targets = [s for n, (s, status) in enumerate(file) if all(other == " " for _, other in file[n + 1 :])]
        for second in targets:
            assert life.site.find(ToTid(tid(second)), reach.id) == found(reach.id, second)
            if reach.timeline[-1].id == newest.timeline[-1].id:
                assert resolved(life, ToTid(tid(second))) == second
                assert resolved(life, AtTimestamp(at(second))) == second
