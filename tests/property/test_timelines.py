"""P1: no request is answered from one timeline when another one has another answer.

Random sites with several databases commit, pack, go back to a state of any backup (of one database or of
all), and are backed up. A model remembers every transaction of every backup. What ``resolve`` decides from
manifests and lists is compared with the model.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from filestorage_vault import SITE
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from memory_store import MemoryStore

from zodb_vault.errors import TargetAmbiguous, TargetMissing
from zodb_vault.model import canonical
from zodb_vault.model.manifest import DatabaseEntry, DataFs, Manifest, Origin, Reason, Segment, Timeline
from zodb_vault.model.tid import from_datetime, to_hex
from zodb_vault.operations.catalog import Catalog
from zodb_vault.operations.restore.targets import resolve
from zodb_vault.policy.full_or_incremental import ContinuityFacts, decide, next_timeline
from zodb_vault.policy.recovery import AtTimestamp, BeforeTid, Request, ToTid, restore_command
from zodb_vault.repository.ids import ID_TIME
from zodb_vault.repository.repository import Repository
from zodb_vault.runtime import clock

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SIZE = 100


def at(second: int) -> datetime:
    return NOON + timedelta(seconds=second)


def tid(second: int) -> str:
    return to_hex(from_datetime(at(second)))


class Content(NamedTuple):
    """The transactions of one database, by second; those up to ``packed`` may be incomplete."""

    seconds: tuple[int, ...] = ()
    packed: int | None = None

    @property
    def targets(self) -> list[int]:
        return [second for second in self.seconds if self.packed is None or second >= self.packed]


class Saved(NamedTuple):
    """A backup: its contents by database, and until which second it knows everything."""

    id: str
    content: dict[str, Content]
    created: int
    eligible: bool

    def answer(self, name: str, request: Request) -> int | None:
        """Return the last second of the requested state, None when this backup does not know it."""
        content = self.content.get(name, Content())
        until = max([self.created, *content.seconds])
        if isinstance(request, ToTid):
            return next((one for one in content.targets if tid(one) == request.tid), None)
        if isinstance(request, AtTimestamp):
            second = (request.time - NOON) // timedelta(seconds=1)
            below = [one for one in content.targets if one <= second]
        else:
            second = next(second for second in range(400) if tid(second) == request.tid)
            below = [one for one in content.targets if one < second]
        return below[-1] if below and second <= until else None


class World:
    """A site, its repository, and what the model knows of both."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names, self.second = names, 0
        self.site = {name: Content() for name in names}
        self.saved: list[Saved] = []
        self.repository = Repository.create(MemoryStore())
        self.restored = False

    def commit(self, choose: st.DataObject) -> None:
        for name in choose.draw(st.sets(st.sampled_from(self.names), min_size=1)):
            self.second += 1
            content = self.site[name]
            self.site[name] = Content((*content.seconds, self.second), content.packed)

    def pack(self, choose: st.DataObject) -> None:
        # a restore that is packed before any backup looks like a mere pack
        name = choose.draw(st.sampled_from(self.names))
        seconds = self.site[name].seconds
        if seconds and not self.restored:
            last = choose.draw(st.integers(0, len(seconds) - 1))
            kept = [one for one in seconds[:last] if choose.draw(st.booleans())]
            # what an earlier pack has removed does not come back with a pack up to an older transaction
            packed = max(seconds[last], self.site[name].packed or 0)
            self.site[name] = Content((*kept, *seconds[last:]), packed)

    def restore(self, choose: st.DataObject) -> None:
        # A site that goes back, and forward again to what only a safety backup has, leaves no trace of
        # the way back: for the repository it has always been on one timeline.
        eligible = [saved for saved in self.saved if saved.eligible]
        if not eligible:
            return
        saved = choose.draw(st.sampled_from(eligible))
        until = choose.draw(st.sampled_from([one for c in saved.content.values() for one in c.seconds]))
        for name in choose.draw(st.sets(st.sampled_from(sorted(saved.content)), min_size=1)):
            content = saved.content[name]
            kept = tuple(one for one in content.seconds if one <= until)
            if kept and kept[-1] in content.targets:
                self.site[name] = Content(kept, content.packed)
                self.restored = True

    def backup(self, choose: st.DataObject) -> None:
        whole = len(self.names) == 1 or choose.draw(st.integers(0, 5)) > 0 or not self.saved
        names = self.names if whole else self.names[:1]
        if not all(self.site[name].seconds for name in names):
            return
        self.second += 1
        eligible = whole and (choose.draw(st.integers(0, 5)) > 0 or not self.saved)
        self.save(names, eligible=eligible, trigger="scheduled" if eligible or not whole else "safety")
        self.restored = self.restored and not eligible

    def save(self, names: tuple[str, ...], *, eligible: bool = True, trigger: str = "scheduled") -> None:
        own = at(self.second).strftime(ID_TIME) + "-aaaaaa"
        content = {name: self.site[name] for name in names}
        self._commit(own, content, trigger)
        self.saved.append(Saved(own, content, self.second, eligible))

    def is_beginning(self, saved: Saved) -> bool:
        """Tell whether the newest eligible backup continues this one: it is no other timeline.

        Also when the site went back to it and forward again in between, which leaves no trace.
        """
        newest = next(one for one in reversed(self.saved) if one.eligible)
        return saved is not newest and all(
            newest.content[name].seconds[: len(content.seconds)] == content.seconds
            for name, content in saved.content.items()
        )

    def _commit(self, own: str, content: dict[str, Content], trigger: str) -> None:
        documents = self.repository.objects("")
        entries = []
        for name, one in content.items():
            rows = [[tid(s), n * SIZE, SIZE, " ", 1, 0] for n, s in enumerate(one.seconds)]
            tids = documents.put_document(canonical.encode({"rows": rows}))
            segment = Segment(
                start=0,
                end=len(rows) * SIZE,
                sha256="",
                transactions=len(rows),
                first_tid=tid(one.seconds[0]),
                last_tid=tid(one.seconds[-1]),
                tail_start=0,
                tail_digest="",
                parts=[],
                tids=tids,
            )
            entries.append(_entry(name, one, segment))
        manifest = Manifest(
            id=own,
            site=SITE,
            repository=self.repository.info.id,
            created_at=clock.iso(at(self.second)),
            finished_at=clock.iso(at(self.second)),
            trigger=trigger,  # type: ignore[arg-type]
            contents="all" if len(content) == len(self.names) else sorted(content),
            how="full",
            reason=Reason("first", "of the test"),
            parent=None,
            timeline=self._timeline(own, content),
            status="complete",
            consistency="consistent",
            source=Origin("machine", None, []),
            software={},
            seen=[],
            databases=entries,
            added=0,
            recovery=self.repository.info.recovery,
        )
        self.repository.commit(manifest)

    def _timeline(self, own: str, content: dict[str, Content]) -> list[Timeline]:
        parent = next((one for one in reversed(self.saved) if one.eligible), None)
        if parent is None:
            return [Timeline(own, None)]
        before = Catalog(self.repository, SITE).backup(parent.id).manifest.timeline
        decisions = [decide(_facts(parent, name, one)) for name, one in content.items()]
        starting = [one for one in decisions if one.starts_timeline]
        if not starting:
            return before
        return next_timeline(before, own, min(starting, key=lambda one: one.common_tid or ""))


def _entry(name: str, content: Content, segment: Segment) -> DatabaseEntry:
    return DatabaseEntry(
        name=name,
        folder=name,
        mount_point=None,
        backend="filestorage",
        method="native",
        history=True,
        blob_mode="none",
        layout=None,
        first_tid=segment.first_tid,
        pack_tid=None if content.packed is None else tid(content.packed),
        last_tid=segment.last_tid,
        last_time=None,
        storage=DataFs(end=segment.end, transactions=segment.transactions, lists=[], tail=[segment]),
        blobs=None,
    )


def _facts(parent: Saved, name: str, content: Content) -> ContinuityFacts:
    old = parent.content[name].seconds
    shared = [one for one in old if one in content.seconds]
    same = [*(a == b for a, b in zip(old, content.seconds, strict=False)), False]
    return ContinuityFacts(
        parent=parent.id,
        cut_end=len(content.seconds),
        matching_end=same.index(False),
        chain_end=len(old),
        parent_last_tid=tid(old[-1]),
        common_tid=tid(shared[-1]) if shared else None,
        pack_tid=None if content.packed is None else tid(content.packed),
    )


@st.composite
def worlds(draw: st.DrawFn, names: tuple[str, ...]) -> World:
    world, data = World(names), draw(st.data())
    then = st.lists(st.sampled_from([world.commit, world.restore, world.pack]), min_size=1, max_size=4)
    for steps in [[world.commit], *draw(st.lists(then, min_size=2, max_size=5))]:
        for step in [*steps, world.backup]:
            world.second += 1
            step(data)
    return world


def requests(world: World) -> list[Request]:
    seconds = range(1, world.second + 1)
    return [kind for s in seconds for kind in (AtTimestamp(at(s)), ToTid(tid(s)), BeforeTid(tid(s)))]


@settings(max_examples=40, phases=[Phase.generate], derandomize=True)
@given(worlds(("main",)))
def test_p1_every_timeline_with_an_answer_agrees_or_the_user_has_to_choose(world: World) -> None:
    if not any(saved.eligible for saved in world.saved):
        return
    catalog = Catalog(world.repository, SITE)
    for request in requests(world):
        answers = {saved.id: saved.answer("main", request) for saved in world.saved}
        states = {state for state in answers.values() if state is not None}
        try:
            found = resolve(catalog, None, request)
        except TargetAmbiguous as error:
            assert len(states) > 1, (request, answers)
            _assert_choices(catalog, error, request, states)
        except TargetMissing as error:
            assert (error.exit_code, bool(states)) == (13, "it exists only in" in error.message)
        else:
            last = found.cuts[0].last_tid
            assert last in {tid(state) for state in states}, (request, world.saved)
            others = {answers[one.id] for one in world.saved if not world.is_beginning(one)} - {None}
            assert {tid(state) for state in others if state is not None} <= {last}, (request, world.saved)


def _assert_choices(catalog: Catalog, error: TargetAmbiguous, request: Request, states: set[int]) -> None:
    """Require that each command in the hint restores another one of all states."""
    named = [backup for backup in catalog.listing.backups if restore_command(backup, request) in error.hint]
    given = [resolve(catalog, backup, request).cuts[0].last_tid for backup in named]
    if len(states) <= 5 and len(named) == error.hint.count("restore "):
        assert sorted(map(str, given)) == sorted(tid(state) for state in states)


@settings(max_examples=40, phases=[Phase.generate], derandomize=True)
@given(worlds(("main", "catalog")))
def test_p1_several_databases_are_restored_from_one_timeline_only_if_all_agree(world: World) -> None:
    if not any(saved.eligible for saved in world.saved):
        return
    catalog = Catalog(world.repository, SITE)
    for request in requests(world):
        answers = {saved.id: _joint(catalog, saved.id, request) for saved in world.saved}
        given_answers = [answer for answer in answers.values() if answer]
        try:
            found = resolve(catalog, None, request)
        except TargetAmbiguous as error:
            assert error.exit_code == 13
            assert any(_differ(one, other) for one in given_answers for other in given_answers)
        except TargetMissing as error:
            assert error.exit_code == 13
        else:
            cuts = {cut.entry.name: cut.last_tid for cut in found.cuts}
            others = [answers[one.id] for one in world.saved if not world.is_beginning(one)]
            assert not any(_differ(cuts, other) for other in others), (request, cuts, answers)


def _joint(catalog: Catalog, backup: str, request: Request) -> dict[str, str | None]:
    try:
        return {cut.entry.name: cut.last_tid for cut in resolve(catalog, backup, request).cuts}
    except TargetMissing:
        return {}


def _differ(one: dict[str, str | None], other: dict[str, str | None]) -> bool:
    return any(one[name] != other[name] for name in one.keys() & other.keys())


@pytest.mark.parametrize("names", [("main",), ("main", "catalog")])
def test_p1_a_state_too_far_back_was_restored_and_the_lost_hour_is_asked_for(names: tuple[str, ...]) -> None:
    world, commits = World(names), []
    for what in ["commit", "backup", "commit", "commit", "backup", "restore", "commit", "backup"]:
        world.second += 10
        for number, name in enumerate(names if what == "commit" else ()):
            seconds = world.site[name].seconds
            world.site[name] = Content((*seconds, world.second + number))
        if what == "commit":
            commits.append(world.second)
        elif what == "backup":
            world.save(names)
        else:
            world.site = dict(world.saved[0].content)
    two = AtTimestamp(at(commits[1] + 1))
    with pytest.raises(TargetAmbiguous) as caught:
        resolve(Catalog(world.repository, SITE), None, two)
    for saved in world.saved[1:]:
        assert restore_command(saved.id, two) in caught.value.hint
