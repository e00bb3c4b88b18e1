"""``--tid``, ``--before-tid`` and ``--at`` across databases: a restored state holds complete commits."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import filestorage_vault
import independent_reader
import pytest
from multi_database_site import Several, agree
from site_factory import time_of

from zodb_vault.errors import TargetMissing, UsageError
from zodb_vault.operations.restore.targets import RestoreTarget, resolve
from zodb_vault.policy.recovery import AtTimestamp, BeforeTid, Request, ToTid


class Committed(NamedTuple):
    """One transaction: its database, TID, and the last commit to both that is to be seen after it."""

    database: str
    tid: bytes
    shared: int


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Several, list[Committed]]:
    """Commits to both databases and to each alone, with equal and other descriptions, in three backups."""
    several = Several(tmp_path_factory.mktemp("history"))
    known: list[Committed] = []
    seen: dict[str, set[bytes]] = {"main": set(), "catalog": set()}

    def note(number: int) -> None:
        for name in several.names:
            for header in independent_reader.headers(several.files(name).data_fs):
                if header.tid not in seen[name]:
                    seen[name].add(header.tid)
                    known.append(Committed(name, header.tid, number))

    with several.opened() as writer:
        note(0)
        for step in "ss.m.sc.ss.cm.s.":
            if step == ".":
                several.create()
            elif step == "s":
                note(writer.shared("the same words" if writer.number % 2 else ""))
            else:
                writer.own({"m": "main", "c": "catalog"}[step])
                note(writer.number)
    return several, known


def found(
    several: Several, request: Request, databases: tuple[str, ...] = (), backup: str | None = None
) -> RestoreTarget:
    return resolve(several.catalog(), backup, request, databases)


def shared_of(target: RestoreTarget, known: list[Committed]) -> set[int]:
    """Return the last commit to both that each database of a target ends with or after."""
    numbers = {(one.database, one.tid): one.shared for one in known}
    return {numbers[cut.entry.name, bytes.fromhex(str(cut.last_tid)[2:])] for cut in target.cuts}


def hexed(tid: bytes) -> str:
    return "0x" + tid.hex()


def test_every_transaction_of_every_database_is_a_target_that_splits_no_commit(
    history: tuple[Several, list[Committed]],
) -> None:
    several, known = history
    written = {one.tid for one in known[::4]}
    for one in known:
        if one.shared:
            target = found(several, ToTid(hexed(one.tid)))
            cuts = {cut.entry.name: str(cut.last_tid) for cut in target.cuts}
            assert cuts[one.database] == hexed(one.tid)
            assert shared_of(target, known) == {one.shared}
            if one.tid in written:
                assert agree(several.restored(request=ToTid(hexed(one.tid)))) == one.shared


def test_before_a_transaction_both_parts_of_it_are_gone(history: tuple[Several, list[Committed]]) -> None:
    several, known = history
    for before, one in zip(known, known[1:], strict=False):
        if before.shared and (before.shared, before.database) != (one.shared, one.database):
            first = one.shared if one.shared == before.shared else before.shared
            target = found(several, BeforeTid(hexed(one.tid)))
            twin = (
                {other.tid for other in known if other.shared == one.shared}
                if one.shared != before.shared
                else {one.tid}
            )
            assert all(bytes.fromhex(str(cut.last_tid)[2:]) not in twin for cut in target.cuts)
            assert len(shared_of(target, known)) == 1 and shared_of(target, known) <= {first, first - 1}


def test_at_every_time_there_are_complete_commits_only(history: tuple[Several, list[Committed]]) -> None:
    several, known = history
    for one in known:
        # a time after the survey of the newest backup is refused
        for offset in (-1, 0, 1) if one.tid < max(other.tid for other in known) else (-1, 0):
            moment = time_of(one.tid) + timedelta(microseconds=offset)
            if one.shared > 1:
                target = found(several, AtTimestamp(moment))
                assert len(shared_of(target, known)) == 1
                assert all(
                    bytes.fromhex(str(cut.last_tid)[2:]) <= one.tid or offset == 1 for cut in target.cuts
                )


def test_one_database_can_be_asked_alone(history: tuple[Several, list[Committed]]) -> None:
    several, known = history
    one = next(one for one in known if one.database == "catalog" and one.shared == 2)
    (cut,) = found(several, ToTid(hexed(one.tid)), ("catalog",)).cuts
    assert (cut.entry.name, cut.last_tid) == ("catalog", hexed(one.tid))
    with pytest.raises(TargetMissing, match="not a valid target"):
        found(several, ToTid(hexed(one.tid)), ("main",))
    with pytest.raises(UsageError, match="no database users"):
        found(several, ToTid(hexed(one.tid)), ("users",))


def test_what_is_in_no_database_names_the_neighbours_in_each(
    history: tuple[Several, list[Committed]],
) -> None:
    several, known = history
    missing = hexed((int.from_bytes(known[-1].tid, "big") + 5).to_bytes(8, "big"))
    with pytest.raises(TargetMissing) as caught:
        found(several, ToTid(missing))
    assert caught.value.message.startswith("main: ") and "; catalog: " in caught.value.message
    for name in several.names:
        assert hexed(max(one.tid for one in known if one.database == name)) in caught.value.message
    with pytest.raises(TargetMissing, match="main: .*reaches to.*; catalog: "):
        found(several, AtTimestamp(time_of(known[-1].tid) + timedelta(hours=1)))


@pytest.fixture
def copied(history: tuple[Several, list[Committed]], tmp_path: Path) -> Several:
    """A copy of the history that may change; the source is at its old path."""
    several, _known = history
    copy = object.__new__(Several)
    copy.__dict__.update(several.__dict__)
    copy.directory = tmp_path
    shutil.copytree(several.directory, tmp_path, dirs_exist_ok=True)
    copy.conf = tmp_path / "zope.conf"
    copy.conf.write_text(copy.conf.read_text().replace(str(several.directory), str(tmp_path)))
    copy.repository = filestorage_vault.Repository.open(filestorage_vault.LocalStore(tmp_path / "repository"))
    return copy


def pack(several: Several, name: str) -> None:
    with several.opened() as writer:
        writer.connections[name].db().pack()


def test_a_pack_of_one_database_moves_the_state_of_all_to_an_older_backup(
    copied: Several, history: tuple[Several, list[Committed]]
) -> None:
    _several, known = history
    pack(copied, "catalog")
    newest = copied.create().manifest
    early = next(one for one in known if one.database == "main" and one.shared == 2)
    target = found(copied, ToTid(hexed(early.tid)))
    assert target.backup.manifest.id < newest.id
    assert shared_of(target, known) == {2}
    with pytest.raises(
        TargetMissing, match="catalog cannot be restored to that state: the last packed transaction"
    ):
        found(copied, ToTid(hexed(early.tid)), backup=newest.id)
    assert [cut.last_tid for cut in found(copied, ToTid(hexed(early.tid)), ("main",), newest.id).cuts] == [
        hexed(early.tid)
    ]
    # the part of the last commit that is in catalog comes before that in main, and is a packed one
    with pytest.raises(
        TargetMissing, match="catalog cannot be restored to that state: the last packed transaction"
    ):
        found(copied, BeforeTid(str(newest.databases[0].last_tid)), backup=newest.id)


def test_a_database_that_was_not_there_yet_is_said(
    copied: Several, history: tuple[Several, list[Committed]]
) -> None:
    _several, known = history
    before = next(one for one in known if one.database == "main" and one.shared == 2)
    copied.write_conf(("main", "catalog", "users"))
    copied.names = ("main", "catalog", "users")
    with copied.opened() as writer:
        number = writer.shared()
    newest = copied.create().manifest
    assert {cut.entry.name for cut in found(copied, ToTid(hexed(before.tid))).cuts} == {"main", "catalog"}, (
        "from a backup that knows no users"
    )
    assert {cut.entry.name for cut in found(copied, ToTid(str(newest.databases[2].last_tid))).cuts} == {
        "main",
        "catalog",
        "users",
    }
    with pytest.raises(TargetMissing, match="users cannot be restored to that state: the first transaction"):
        found(copied, ToTid(hexed(before.tid)), backup=newest.id)
    assert agree(copied.restored()) == number


def test_databases_that_were_put_back_together_go_on_together(
    copied: Several, history: tuple[Several, list[Committed]]
) -> None:
    _several, known = history
    third = [one for one in known if one.shared == 3]
    copied.restore(request=ToTid(hexed(third[0].tid)))
    assert agree(copied.in_place()) == 3
    with copied.opened() as writer:
        assert writer.shared("another line") == 4
    made = copied.create(take_over=True).manifest
    assert made.reason.code == "diverged" and len(made.timeline) == 2
    assert agree(copied.restored(request=ToTid(str(made.databases[0].last_tid)))) == 4
    assert agree(copied.restored(request=ToTid(hexed(third[1].tid)))) == 3
    with pytest.raises(TargetMissing, match="on an abandoned timeline"):
        found(copied, ToTid(hexed(next(one.tid for one in known if one.shared == 5))))
