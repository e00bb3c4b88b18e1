"""Markers of runs: which are alive, which may be taken over, and that only one run does that."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from process_race import race

from zodb_vault.errors import Damage, InUse, KeyMissing
from zodb_vault.model import canonical
from zodb_vault.model.manifest import Marker, StoredProgress
from zodb_vault.repository import markers
from zodb_vault.repository.markers import (
    RENEW,
    STALE,
    RunMarker,
    is_alive,
    marker_key,
    process_identity,
    read_marker,
)
from zodb_vault.runtime import clock
from zodb_vault.stores.local import LocalStore

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SITE = "default"
KEY = marker_key(SITE, "create", "")
ELSEWHERE = "another-boot/pid:[1]/123"
SECOND = timedelta(seconds=1)


class Clock:
    """The clock of all processes, set by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    time = Clock()
    monkeypatch.setattr(clock, "now", time)
    return time


@pytest.fixture
def store(tmp_path: Path, time: Clock) -> LocalStore:
    return LocalStore(tmp_path / "repository")


def marker(**changes: Any) -> Marker:
    known: dict[str, Any] = {
        "run": "run",
        "what": "create",
        "host": "elsewhere",
        "pid": 1,
        "process": ELSEWHERE,
        "started": clock.iso(NOW),
        "heartbeat": clock.iso(NOW),
    }
    return Marker(**known | changes)


def start(store: LocalStore, run: str = "run", what: str = "create", **options: Any) -> RunMarker:
    return RunMarker.start(store, SITE, what, run, options.pop("uses", []), **options)


def dead(store: LocalStore, **changes: Any) -> tuple[Marker, bytes]:
    """Leave the marker of a run that died."""
    store.put(KEY, [canonical.with_digest(marker(**changes))])
    return read_marker(store, KEY)


# Which runs are alive


def test_a_run_of_this_process_is_alive_however_old_its_heartbeat(store: LocalStore, time: Clock) -> None:
    run = start(store)
    time.now += 100 * STALE
    assert is_alive(run.marker, store)


def test_a_run_of_a_process_that_ended_here_is_dead_at_once(store: LocalStore) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        found = marker(pid=child.pid, process=process_identity(child.pid))
        assert is_alive(found, store)
    finally:
        child.communicate()
    assert not is_alive(found, store)


def test_a_process_that_got_the_number_of_a_dead_one_is_not_taken_for_it(store: LocalStore) -> None:
    place, _, started = process_identity(os.getpid()).rpartition("/")
    assert not is_alive(marker(pid=os.getpid(), process=f"{place}/{int(started) - 1}"), store)


@pytest.mark.parametrize("process", [ELSEWHERE, "", "nonsense"])
def test_elsewhere_the_heartbeat_decides(store: LocalStore, time: Clock, process: str) -> None:
    found = marker(process=process, pid=os.getpid())
    for age, expected in ((timedelta(0), True), (STALE - SECOND, True), (STALE, False), (10 * STALE, False)):
        time.now = NOW + age
        assert is_alive(found, store) is expected, age


def test_where_processes_cannot_be_distinguished_the_heartbeat_decides(
    store: LocalStore, time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(markers, "process_identity", lambda _pid: "")
    run = start(store)
    assert is_alive(run.marker, store)
    time.now += STALE
    assert not is_alive(run.marker, store)


def test_a_run_that_gave_up_is_not_alive(store: LocalStore) -> None:
    run = start(store)
    run.update(ended=True)
    assert not is_alive(run.marker, store)
    assert not is_alive(read_marker(store, KEY)[0], store)


def test_a_process_has_a_name_that_no_other_has() -> None:
    ours, parents = process_identity(os.getpid()), process_identity(os.getppid())
    assert ours == process_identity(os.getpid())
    assert ours.rpartition("/")[0] == parents.rpartition("/")[0]
    assert process_identity(2**22 + 1).endswith("/gone")


# Starting


def test_there_is_one_marker_for_all_creates_and_one_each_for_others() -> None:
    assert marker_key("a", "create", "1") == marker_key("a", "create", "2") == "sites/a/running/create.json"
    assert marker_key("a", "restore", "1") == "sites/a/running/restore-1.json"


def test_a_marker_says_which_process_runs_and_what_it_relies_on(store: LocalStore) -> None:
    run = start(store, "20260101T000000Z-abcdef", uses=["parent"])
    found, data = read_marker(store, KEY)
    assert found == run.marker
    assert (found.run, found.uses, found.pid, found.process) == (
        "20260101T000000Z-abcdef",
        ["parent"],
        os.getpid(),
        process_identity(os.getpid()),
    )
    assert (found.started, found.heartbeat) == (clock.iso(NOW), clock.iso(NOW))
    assert store.get(KEY) == data == canonical.check_digest(data, KEY)


def test_a_second_create_is_refused_while_the_first_marker_exists(store: LocalStore) -> None:
    first = start(store, "one")
    with pytest.raises(InUse):
        start(store, "two")
    assert read_marker(store, KEY)[0] == first.marker


def test_runs_of_other_kinds_do_not_hinder_each_other(store: LocalStore) -> None:
    for what, run in (("create", "1"), ("restore", "2"), ("restore", "3")):
        start(store, run, what)
    assert len(list(store.list(f"sites/{SITE}/running/"))) == 3


# Taking over


def test_taking_over_keeps_what_the_dead_run_stored(store: LocalStore) -> None:
    stored = [StoredProgress(database="main", parent=None, keep=0)]
    stale = dead(store, stored=stored, uses=["old"])
    run = start(store, "new", uses=["parent"], adopted=stale)
    found = read_marker(store, KEY)[0]
    assert (found, found.stored, found.uses, found.run, found.ended) == (
        run.marker,
        stored,
        ["parent"],
        "new",
        False,
    )


def test_of_two_that_break_the_same_marker_only_the_first_may(store: LocalStore) -> None:
    stale = dead(store)
    first = start(store, "one", adopted=stale)
    with pytest.raises(InUse):
        start(store, "two", adopted=stale)
    assert read_marker(store, KEY)[0] == first.marker


def test_a_marker_that_came_alive_again_is_not_broken(store: LocalStore) -> None:
    slow = start(store, "slow")
    stale = read_marker(store, KEY)
    slow.update(uses=["parent"])
    with pytest.raises(InUse):
        start(store, "new", adopted=stale)
    assert read_marker(store, KEY)[0] == slow.marker


def test_a_marker_that_was_removed_meanwhile_is_not_taken_over(store: LocalStore) -> None:
    slow = start(store, "slow")
    stale = read_marker(store, KEY)
    slow.remove()
    with pytest.raises(InUse):
        start(store, "new", adopted=stale)
    start(store, "next")


def test_two_processes_that_break_a_marker_at_once_do_not_both_run(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from zodb_vault.errors import InUse; from "
        "zodb_vault.repository.markers import RunMarker, marker_key, read_marker\n"
        "from zodb_vault.stores.local import LocalStore; store = LocalStore(Path(sys.argv[1])); won = []\n"
        "stale = [read_marker(store, marker_key(f'site{n}', 'create', '')) for n in range(100)]\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for n in range(100):\n"
        "    try: RunMarker.start(store, f'site{n}', 'create', sys.argv[2], [], stale[n]); won.append(n)\n"
        "    except InUse: pass\n"
        "print(*won)"
    )
    store = LocalStore(tmp_path / "repository")
    for n in range(100):
        store.put(marker_key(f"site{n}", "create", ""), [canonical.with_digest(marker())])
    won = [set(map(int, printed.split())) for printed in race(code, str(store.root))]
    assert won[0] | won[1] == set(range(100))
    assert not won[0] & won[1]
    for run, numbers in zip(("left", "right"), won, strict=True):
        assert {read_marker(store, marker_key(f"site{n}", "create", ""))[0].run for n in numbers} <= {run}


# Going on


def test_a_heartbeat_is_due_after_half_a_minute(store: LocalStore, time: Clock) -> None:
    run = start(store)
    assert not run.heartbeat_is_due()
    time.now += RENEW - SECOND
    assert not run.heartbeat_is_due()
    time.now += SECOND
    assert run.heartbeat_is_due()
    run.update()
    assert not run.heartbeat_is_due()
    assert read_marker(store, KEY)[0].heartbeat == clock.iso(time.now)


def test_renewing_changes_only_what_is_given(store: LocalStore, time: Clock) -> None:
    run = start(store, uses=["parent"])
    stored = [StoredProgress(database="main", parent="parent", keep=4)]
    run.update(stored=stored)
    run.update(uses=["parent", "other"])
    run.update(ended=True)
    found = read_marker(store, KEY)[0]
    assert (found.stored, found.uses, found.ended, found.started) == (
        stored,
        ["parent", "other"],
        True,
        clock.iso(NOW),
    )
    run.update(stored=[])
    assert read_marker(store, KEY)[0].stored == []


@pytest.mark.parametrize("how", ["removed", "taken over"])
def test_a_run_whose_marker_is_lost_learns_it_when_it_renews(store: LocalStore, how: str) -> None:
    run = start(store)
    lose(store, how)
    with pytest.raises(InUse, match="considered this run dead"):
        run.update()


@pytest.mark.parametrize("how", ["removed", "taken over"])
def test_a_run_that_was_silent_for_long_looks_before_it_commits(
    store: LocalStore, time: Clock, how: str
) -> None:
    run = start(store)
    run.require_unchanged()
    time.now += STALE
    run.require_unchanged()
    lose(store, how)
    with pytest.raises(InUse, match="considered this run dead"):
        run.require_unchanged()


def test_a_run_with_a_fresh_heartbeat_does_not_look(store: LocalStore, time: Clock) -> None:
    run = start(store)
    time.now += STALE - SECOND
    lose(store, "removed")
    run.require_unchanged()


def lose(store: LocalStore, how: str) -> None:
    if how == "removed":
        store.delete(KEY)
    else:
        start(store, "new", adopted=read_marker(store, KEY))


# Ending


def test_the_marker_goes_when_the_run_ends(store: LocalStore) -> None:
    run = start(store)
    run.remove()
    with pytest.raises(KeyMissing):
        read_marker(store, KEY)
    run.remove()


def test_a_run_that_was_taken_for_dead_does_not_remove_the_marker_of_the_next(store: LocalStore) -> None:
    run = start(store)
    lose(store, "taken over")
    run.remove()
    assert read_marker(store, KEY)[0].run == "new"


# What is stored


def test_a_damaged_marker_is_damage(store: LocalStore) -> None:
    data = canonical.with_digest(marker())
    store.put(KEY, [data.replace(b"elsewhere", b"elsewherf")])
    with pytest.raises(Damage, match=KEY):
        read_marker(store, KEY)


def test_a_marker_of_another_form_is_damage(store: LocalStore) -> None:
    store.put(KEY, [canonical.with_digest({"run": 1})])
    with pytest.raises(Damage, match=KEY):
        read_marker(store, KEY)


def test_a_marker_of_a_later_version_is_read(store: LocalStore) -> None:
    store.put(KEY, [canonical.with_digest({**msgspec.to_builtins(marker()), "later": True})])
    assert read_marker(store, KEY)[0] == marker()
