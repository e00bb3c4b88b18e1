"""``create`` and ``delete`` at the same time: at every store call of one, the other runs from start to end.

In any order, no listed backup then misses an object, not even after the strictest sweep that is allowed
meanwhile.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pytest
import site_factory
from command_line import Outcome
from memory_store import MemoryStaging, MemoryStore

from zodb_vault.cli.main import run
from zodb_vault.model import chain
from zodb_vault.repository.codec import decode
from zodb_vault.repository.objects import meta_key, object_key
from zodb_vault.stores import registry
from zodb_vault.stores.base import ListedKey
from zodb_vault.strategies.blobs import directory_restore

NAMED: Final = re.compile(rb'"(object|meta|list)":"([0-9a-f]{64})"')
DONE, IN_USE, REFUSED, NO_SUCH, INTERRUPTED = 0, 11, 1, 13, 130
DEADLINE: Final = 60.0
MORE_THAN_ANY: Final = 10_000


class Interleaved:
    """A store that does something else once, before or after its ``at``-th call."""

    def __init__(self, store: MemoryStore, at: int, *, after: bool, action: Callable[[], None]) -> None:
        self._store, self._at, self._after, self._action = store, at, after, action
        self.calls = 0
        self.happened = False
        self.location = store.location

    def _now(self, *, after: bool) -> None:
        if self.calls == self._at and after is self._after and not self.happened:
            self.happened = True
            self._action()

    def _call(self, what: Callable[[], object]) -> object:
        self.calls += 1
        self._now(after=False)
        try:
            return what()
        finally:
            self._now(after=True)

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        return int(str(self._call(lambda: self._store.put(key, chunks))))

    def stage(self) -> MemoryStaging:
        return MemoryStaging(self)  # type: ignore[arg-type]

    def replace(self, key: str, data: bytes, expected: bytes) -> None:
        self._call(lambda: self._store.replace(key, data, expected))

    def get(self, key: str) -> bytes:
        found = self._call(lambda: self._store.get(key))
        assert isinstance(found, bytes)
        return found

    def stream(self, key: str) -> Iterator[bytes]:
        yield self.get(key)

    def list(self, prefix: str) -> Iterator[ListedKey]:
        found = self._call(lambda: [*self._store.list(prefix)])
        assert isinstance(found, list)
        yield from found

    def delete(self, key: str, expected: bytes | None = None) -> None:
        self._call(lambda: self._store.delete(key, expected))

    def clock(self) -> datetime:
        return self._store.clock()


class World(NamedTuple):
    """A site with something new in it, and a repository with two backups of what was before."""

    store: MemoryStore
    before: dict[str, bytes]
    options: list[str]
    ids: list[str]
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def reset(self) -> None:
        self.store.content.clear()
        self.store.content.update(self.before)

    def run(self, *arguments: object, store: object | None = None) -> Outcome:
        """Run a command on the repository, or on a store in front of it."""
        with self.monkeypatch.context() as patched:
            patched.setattr(registry, "open_store", lambda *_: store or self.store)
            status = run(["-q", *self.options, *map(str, arguments)])
        printed = self.capsys.readouterr()
        assert "internal error" not in printed.err, printed.err
        return Outcome(status, printed.out, printed.err)

    def listed(self) -> list[str]:
        return sorted(
            key.rsplit("/", 1)[1].removesuffix(".json") for key in self.store.content if "/backups/" in key
        )

    def named(self, manifest: bytes) -> set[str]:
        """Return the keys of everything that a manifest names, directly or through a list."""
        found = set()
        for kind, name in NAMED.findall(manifest):
            key = object_key(name.decode()) if kind == b"object" else meta_key(name.decode())
            found.add(key)
            if kind == b"list" and key in self.store.content:
                found |= self.named(b"".join(decode([self.store.content[key]], None, key)))
        return found

    def sweep(self) -> None:
        """Delete what was in the repository before, unless a listed manifest or a marker references it."""
        uses = {
            one
            for key, data in self.store.content.items()
            if "/running/" in key
            for one in msgspec.json.decode(data)["uses"]
        }
        protected = set[str]()
        for key, data in list(self.store.content.items()):
            if "/backups/" in key or (
                key.startswith("trash/") and key.rsplit("/", 1)[1].removesuffix(".json") in uses
            ):
                protected |= self.named(data)
        for key in self.before:
            if key.startswith(("objects/", "meta/")) and key not in protected:
                self.store.delete(key)

    def assert_sound(self, what: object) -> None:
        """Require that every backup has everything, also after a sweep of all that nothing references."""
        assert not [key for key in self.store.content if "/running/" in key], what
        for backup in self.listed():
            missing = self.named(self.store.content[f"sites/default/backups/{backup}.json"]) - set(
                self.store.content
            )
            assert not missing, (what, backup, missing)
        self.sweep()
        outcome = self.run("verify", "--all", "--level", "records")
        assert outcome.status == DONE, (what, outcome)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so small that backups share lists."""
    monkeypatch.setattr(chain, "TAIL_LIMIT", 2)
    monkeypatch.setattr(chain, "TAIL_KEPT", 1)


@pytest.fixture
def world(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> World:
    files = site_factory.SiteFiles(tmp_path / "site" / "Data.fs", tmp_path / "site" / "blobs")
    options = ["--repository", "/memory", "--data-fs", str(files.data_fs), "--blob-dir", str(files.blob_dir)]
    world = World(MemoryStore(), {}, options, [], monkeypatch, capsys)
    assert world.run("repository", "init").status == DONE
    for number in range(5):
        with site_factory.Site(files.data_fs.parent) as site:
            site.put(text=f"number {number}", blob=site_factory.noise(300, number))
        if number < 4:
            assert world.run("create").status == DONE
    # of the first two nothing remains but what the others share with them
    for old in world.listed()[:2]:
        assert world.run("delete", "--yes", old).status == DONE
        world.store.delete(f"trash/default/{old}.json")
    ids = world.listed()
    world.sweep()
    return world._replace(before=dict(world.store.content), ids=ids)


def moments(
    world: World, command: tuple[object, ...], action: Callable[[], None]
) -> Iterator[tuple[int, bool, Outcome]]:
    """Run a command again and again, with the action at one call later each time; yield how it ended."""
    for at in range(1, MORE_THAN_ANY):
        for after in (False, True):
            world.reset()
            store = Interleaved(world.store, at, after=after, action=action)
            outcome = world.run(*command, store=store)
            if not store.happened:
                assert at > 3, "the command makes calls"
                return
            yield at, after, outcome


@pytest.mark.parametrize("swept", [False, True], ids=["kept", "swept"])
def test_a_delete_of_the_parent_at_every_call_of_create(world: World, swept: bool) -> None:
    parent, deleted, ends = world.ids[-1], list[int](), set()

    def delete() -> None:
        deleted.append(world.run("delete", "--yes", parent).status)
        if swept:
            world.sweep()

    for at, after, outcome in moments(world, ("create", "--json"), delete):
        ends.add((deleted[-1], outcome.status))
        assert outcome.status == DONE, (at, after, deleted[-1], outcome)
        assert outcome.document["id"] in world.listed()
        assert (parent in world.listed()) is (deleted[-1] == IN_USE)
        world.assert_sound((at, after))
    assert ends == {(DONE, DONE), (IN_USE, DONE)}, "some deletes came in time and some were refused"


def test_a_create_at_every_call_of_delete(world: World) -> None:
    parent, made = world.ids[-1], list[str]()

    def create() -> None:
        outcome = world.run("create", "--json")
        assert outcome.status == DONE, outcome
        made.append(outcome.document["id"])

    parents = set()
    for at, after, outcome in moments(world, ("delete", "--yes", parent), create):
        assert outcome.status == DONE, (at, after, outcome)
        assert made[-1] in world.listed()
        assert parent not in world.listed()
        parents.add(
            msgspec.json.decode(world.store.content[f"sites/default/backups/{made[-1]}.json"])["parent"]
        )
        world.assert_sound((at, after))
    assert parents == set(world.ids), "some continued the deleted one and some the one before"


def test_a_create_that_is_running_at_every_call_of_delete(world: World) -> None:
    """The create begins before the delete does and ends after it."""
    parent, refused = world.ids[-1], 0
    calls = sum(1 for _ in moments(world, ("create",), lambda: None)) // 2
    for at in range(1, calls + 1):
        world.reset()
        ends = list[Outcome]()
        create = Interleaved(
            world.store,
            at,
            after=True,
            action=lambda ends=ends: ends.append(world.run("delete", "--yes", parent)),  # type: ignore[misc]
        )
        outcome = world.run("create", "--json", store=create)
        (deleted,) = ends
        assert (outcome.status, deleted.status in (DONE, IN_USE)) == (DONE, True)
        refused += deleted.status == IN_USE
        if deleted.status == IN_USE:
            assert parent in deleted.err
            assert f"trash/default/{parent}.json" not in world.store.content
            assert (
                world.store.content[f"sites/default/backups/{parent}.json"]
                == world.before[f"sites/default/backups/{parent}.json"]
            )
    assert refused > 3


def test_a_delete_of_an_older_backup_never_disturbs_a_create(world: World) -> None:
    def delete() -> None:
        assert world.run("delete", "--yes", world.ids[0]).status == DONE
        world.sweep()

    for at, after, outcome in moments(world, ("create", "--json"), delete):
        assert outcome.status == DONE, (at, after, outcome)
        assert outcome.document["id"] in world.listed()
        assert world.ids[0] not in world.listed()
        world.assert_sound((at, after))


class Paused(Interleaved):
    """A store that waits before its ``at``-th call until it may go on."""

    def __init__(self, store: MemoryStore, at: int) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        super().__init__(store, at, after=False, action=self._wait)

    def _wait(self) -> None:
        self.reached.set()
        assert self.go.wait(DEADLINE)


class Started:
    """A command that runs in a thread and has come to its pause, or to its end before."""

    def __init__(self, world: World, stores: dict[int, Paused], at: int, *command: object) -> None:
        self.store, self.status = Paused(world.store, at), -1
        self._arguments = ["-q", *world.options, *map(str, command)]
        self._stores = stores
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        while not self.store.reached.wait(0.002) and self._thread.is_alive():
            pass

    def _run(self) -> None:
        self._stores[threading.get_ident()] = self.store
        self.status = run(self._arguments)

    def finish(self) -> int:
        self.store.go.set()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        return self.status


@pytest.mark.parametrize("first", ["create", "delete"])
def test_create_and_delete_that_both_stop_anywhere(world: World, first: str) -> None:
    """Stop the first at one call and the other at one call; end the first, sweep, then end the other."""
    stores, ends = dict[int, Paused](), set()
    world.monkeypatch.setattr(registry, "open_store", lambda *_: stores[threading.get_ident()])
    commands: dict[str, tuple[object, ...]] = {
        "create": ("create",),
        "delete": ("delete", "--yes", world.ids[-1]),
    }
    second = "delete" if first == "create" else "create"
    for at in itertools.count(1):
        for other_at in itertools.count(1):
            world.reset()
            one = Started(world, stores, at, *commands[first])
            other = Started(world, stores, other_at, *commands[second])
            paused = one.store.reached.is_set(), other.store.reached.is_set()
            status = {first: one.finish()}
            if status.get("delete") == DONE:
                world.sweep()
            status[second] = other.finish()
            ends.add((status["create"], status["delete"]))
            assert status["create"] == DONE, (at, other_at, world.capsys.readouterr())
            assert status["delete"] in (DONE, IN_USE), (at, other_at, world.capsys.readouterr())
            assert (world.ids[-1] in world.listed()) is (status["delete"] == IN_USE), (at, other_at)
            assert len(world.listed()) == (3 if status["delete"] == IN_USE else 2)
            if first == "delete" and paused[1]:
                newest = world.store.content[f"sites/default/backups/{world.listed()[-1]}.json"]
                relied_on = msgspec.json.decode(newest)["parent"] == world.ids[-1]
                assert relied_on is (status["delete"] == IN_USE), (
                    at,
                    other_at,
                    "refused if and only if the create relied on it",
                )
            with world.monkeypatch.context() as patched:
                patched.setattr(registry, "open_store", lambda *_: world.store)
                world.assert_sound((at, other_at))
            if not paused[1]:
                break
        if not paused[0]:
            break
    assert ends == {(DONE, DONE), (DONE, IN_USE)}


def test_a_delete_that_is_interrupted_anywhere_loses_nothing(world: World) -> None:
    backup = world.ids[-1]

    def interrupt() -> None:
        raise KeyboardInterrupt

    statuses = set()
    for at, after, outcome in moments(world, ("delete", "--yes", backup), interrupt):
        statuses.add(outcome.status)
        for marker in [key for key in world.store.content if "/running/delete-" in key]:
            world.store.delete(marker)  # the process would be gone, so that it does not count
        if backup not in world.listed():
            assert f"trash/default/{backup}.json" in world.store.content, (at, after)
            assert world.run("undelete", backup).status == DONE
        assert world.run("verify", backup).status == DONE
        assert world.run("delete", "--yes", backup).status == DONE
    assert statuses == {INTERRUPTED}


def test_two_deletes_never_leave_no_backup(world: World) -> None:
    one, other = world.ids

    def delete() -> None:
        world.run("delete", "--yes", other)

    for at, after, outcome in moments(world, ("delete", "--yes", one), delete):
        assert outcome.status in (DONE, REFUSED), outcome
        assert world.listed(), (at, after)
        world.assert_sound((at, after))


def test_a_pin_that_comes_in_between_is_heeded(world: World) -> None:
    parent, statuses = world.ids[0], set()

    def pin() -> None:
        statuses.add(world.run("annotate", "--pin", parent).status)

    for at, after, outcome in moments(world, ("delete", "--yes", parent), pin):
        pinned = any("/labels/" in key for key in world.store.content)
        if outcome.status == REFUSED:
            assert pinned
            assert parent in world.listed(), (at, after)
    assert DONE in statuses


def test_a_delete_at_every_call_of_a_restore(world: World, tmp_path: Path) -> None:
    backup, deleted, output = world.ids[-1], list[int](), tmp_path / "output"
    for place, name in ((directory_restore, "sync_file_system"), (os, "fsync")):
        world.monkeypatch.setattr(
            place, name, lambda _what: None
        )  # proved elsewhere, and takes most of the time

    def delete() -> None:
        deleted.append(world.run("delete", "--yes", backup).status)

    for at, after, outcome in moments(world, ("restore", backup, "--output", output, "--yes"), delete):
        assert outcome.status in (DONE, NO_SUCH), (at, after, outcome)
        assert (outcome.status == DONE) is (output / "Data.fs").exists()
        shutil.rmtree(output, ignore_errors=True)
        world.assert_sound((at, after))
    assert set(deleted) == {DONE, IN_USE}


@pytest.mark.parametrize(
    "command", [("list",), ("show", "latest"), ("log", "latest"), ("verify",)], ids=lambda command: command[0]
)
def test_a_delete_at_every_call_of_a_command_that_only_reads(world: World, command: tuple[str, ...]) -> None:
    def delete() -> None:
        world.run("delete", "--yes", world.ids[-1])

    for at, after, outcome in moments(world, command, delete):
        assert outcome.status in ((DONE,) if command == ("list",) else (DONE, NO_SUCH)), (at, after, outcome)


def test_a_deleted_backup_comes_back_as_it_was(world: World) -> None:
    backup = world.ids[-1]
    assert world.run("delete", "--yes", backup).status == DONE
    assert backup not in world.run("list").out
    assert world.run("undelete", backup).status == DONE
    # except for the label that keeps later ids after it
    assert {
        key: data for key, data in world.store.content.items() if f"/labels/{backup}/" not in key
    } == world.before
    assert world.run("undelete", backup).status == NO_SUCH


def test_an_undelete_at_every_call_of_create(world: World) -> None:
    backup = world.ids[-1]
    assert world.run("delete", "--yes", backup).status == DONE
    deleted = world._replace(before=dict(world.store.content))

    def undelete() -> None:
        assert world.run("undelete", backup).status == DONE

    for at, after, outcome in moments(deleted, ("create", "--json"), undelete):
        assert outcome.status == DONE, (at, after, outcome)
        assert {backup, outcome.document["id"]} <= set(world.listed())
        assert sorted(world.listed()) == world.listed()
        assert outcome.document["id"] > backup
        world.assert_sound((at, after))
