"""``create`` is killed, or a call of it fails, at every moment that makes a difference.

A partial backup is never seen, and the next run succeeds.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import fault_injection
import filestorage_vault
import independent_reader
import pytest
from filestorage_vault import ExistingVault
from site_factory import Site, SiteFiles, noise

from zodb_vault.cli import main
from zodb_vault.errors import KeyMissing
from zodb_vault.model import chain
from zodb_vault.model.manifest import Pack, Segment
from zodb_vault.operations.create import resume
from zodb_vault.repository import markers
from zodb_vault.repository.objects import meta_key
from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore
from zodb_vault.strategies.blobs import compaction, packer
from zodb_vault.strategies.filestorage import cut, segments

MARKER = markers.marker_key(filestorage_vault.SITE, "create", "")


class Scene(NamedTuple):
    """A site with a repository, to be copied for every case, and the states that its backups hold, by id."""

    directory: Path
    known: dict[str, SiteFiles]
    joins: bool = False

    def copy(self, target: Path) -> Path:
        shutil.copytree(self.directory, target)
        return target


def creating_in(directory: Path) -> fault_injection.Operation:
    def operation() -> None:
        ExistingVault(directory).create()

    return operation


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make several segments and packs of a few kilobytes, compact soon, list soon, and note each of them."""
    monkeypatch.setattr(cut, "SEGMENT_LIMIT", 1500)
    monkeypatch.setattr(segments, "SEGMENT_LIMIT", 1500)
    monkeypatch.setattr(packer, "PACK_LIMIT", 5000)
    monkeypatch.setattr(compaction, "NEIGHBOURS", 4)
    monkeypatch.setattr(chain, "TAIL_LIMIT", 4)
    monkeypatch.setattr(chain, "TAIL_KEPT", 2)
    monkeypatch.setattr(resume, "CHECKPOINT_BYTES", 1)


def new_scene(directory: Path) -> ExistingVault:
    with Site(directory / "site") as site:
        site.put(text="one", logo=noise(1500, 1))
        site.put(more="two" * 300, manual=noise(3000, 2))
        site.put(logo=noise(1600, 3))
    Repository.create(LocalStore(directory / "repository"))
    return ExistingVault(directory)


def remember(opened: ExistingVault, directory: Path) -> dict[str, SiteFiles]:
    """Keep what the newest backup holds."""
    shutil.copytree(opened.files.data_fs.parent, directory / "state")
    state = SiteFiles(directory / "state" / "Data.fs", directory / "state" / "blobs")
    known: dict[str, Any] = dict.fromkeys(opened.ids)
    return known | {opened.ids[-1]: state}


def first(directory: Path) -> Scene:
    new_scene(directory / "base")
    return Scene(directory / "base", {})


def incremental(directory: Path) -> Scene:
    opened = new_scene(directory / "base")
    opened.create()
    known = remember(opened, directory)
    with Site(directory / "base" / "site") as site:
        site.put(text="three", photo=noise(2000, 4))
    return Scene(directory / "base", known)


def joined(directory: Path) -> Scene:
    """The next create compacts small segments and packs, and moves a part of its tail into a list."""
    opened = new_scene(directory / "base")
    for number in range(3):
        opened.create()
        known = remember(opened, directory) if number == 2 else {}
        with Site(directory / "base" / "site") as site:
            site.put(**{f"text{number}": f"text {number}"}, **{f"blob{number}": noise(700, 10 + number)})
    return Scene(directory / "base", known, joins=True)


def resumed(directory: Path) -> Scene:
    """A first create was killed when all was stored and most of it noted."""
    scene = first(directory)
    trace = scene.copy(directory / "trace")
    calls = fault_injection.calls_of(creating_in(trace), directory)
    shutil.rmtree(trace)
    commit = next(
        point
        for point in fault_injection.points(calls)
        if "/backups/" in point.call.path and point.moment == "middle"
    )
    fault_injection.kill(creating_in(scene.directory), commit)
    assert ExistingVault(scene.directory).ids == []
    assert markers.read_marker(LocalStore(scene.directory / "repository"), MARKER)[0].stored
    return scene


SCENES: dict[str, Callable[[Path], Scene]] = {
    builder.__name__: builder for builder in (first, incremental, joined, resumed)
}


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return SCENES[request.param](tmp_path)


def judge(opened: ExistingVault, scene: Scene) -> bool:
    """Require every listed backup to be complete and the newest to restore its state; return if it is new."""
    for backup in opened.ids:
        report = opened.verify("objects" if backup in scene.known else "records", backup)
        assert report.ok, (backup, report.damage)
        assert not report.source, (backup, report.source)
    if opened.ids:
        opened.assert_restores(scene.known.get(opened.ids[-1], opened.files), opened.ids[-1])
    return len(opened.ids) > len(scene.known)


def noted(opened: ExistingVault) -> set[str]:
    """Return the objects of the Data.fs segments that an interrupted run took note of."""
    try:
        marker, _data = markers.read_marker(opened.repository.store, MARKER)
    except KeyMissing:
        return set()
    objects = opened.repository.objects("")
    refs = [ref for stored in marker.stored for ref in stored.segments]
    return {
        part.object
        for ref in refs
        for segment in chain.load_list(Segment, objects, ref)
        for part in segment.parts
    }


def go_on(opened: ExistingVault, scene: Scene) -> None:
    """Require the next run to succeed, to store nothing again that was noted, and to leave no marker."""
    committed, stored = len(opened.ids) > len(scene.known), noted(opened)
    made = opened.create()
    assert made.manifest.status == "complete"
    assert not opened.catalog.markers
    assert opened.verify("records").ok
    opened.assert_restores(opened.files)
    assert len(made.manifest.timeline) == 1 and (not committed or made.manifest.reason.code == "unchanged"), (
        "an interrupted run has cost the line"
    )
    if not committed and not scene.joins:
        assert stored <= {part.object for segment in opened.segments() for part in segment.parts}, (
            "what was noted is stored again"
        )


def traced(scene: Scene, tmp_path: Path) -> list[fault_injection.Call]:
    directory = scene.copy(tmp_path / "trace")
    calls = fault_injection.calls_of(creating_in(directory), tmp_path)
    shutil.rmtree(directory)
    return calls


def test_killed_at_any_moment(scene: Scene, tmp_path: Path) -> None:
    points = list(fault_injection.points(traced(scene, tmp_path)))
    assert len(points) > 10
    committed = 0
    for point in points:
        case = scene.copy(tmp_path / "case")
        try:
            fault_injection.kill(creating_in(case), point)
            committed += judge(ExistingVault(case), scene)
            go_on(ExistingVault(case), scene)
        except Exception as error:
            raise AssertionError(f"killed {point}") from error
        shutil.rmtree(case)
    print(len(points), "points")
    assert 0 < committed < len(points) / 2, "the commit is not near the end"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_any_call_fails(scene: Scene, tmp_path: Path, error: int) -> None:
    calls = traced(scene, tmp_path)
    for number in fault_injection.each(calls, fault_injection.ALLOCATING):
        case, said = scene.copy(tmp_path / "case"), tmp_path / "said"
        try:
            failing = fault_injection.Failing(number, error, lasting=error == errno.ENOSPC)
            command = [*options(case), "create"]
            status = fault_injection.through(failing, partial(main.run, command), output=said)
            text, code = said.read_text(), os.waitstatus_to_exitcode(status)
            new = judge(ExistingVault(case), scene)
            assert code == 1 or (code == 0 and new), (code, text)
            assert "internal error" not in text and "Traceback" not in text
            assert code == 0 or os.strerror(error) in text, text
            go_on(ExistingVault(case), scene)
        except Exception as failure:
            raise AssertionError(
                f"{errno.errorcode[error]} at call {number}: {calls[number - 1]}"
            ) from failure
        shutil.rmtree(case)
        said.unlink()


def documents_noted(opened: ExistingVault) -> set[str]:
    """Return the lists and indexes from which the next run continues an interrupted one."""
    marker, _data = markers.read_marker(opened.repository.store, MARKER)
    objects = opened.repository.objects("")
    packs = [ref for stored in marker.stored for ref in stored.packs]
    indexes = {pack.index.meta for ref in packs for pack in chain.load_list(Pack, objects, ref)}
    return (
        {ref.list for stored in marker.stored for ref in stored.segments}
        | {ref.list for ref in packs}
        | indexes
    )


def test_notes_of_an_interrupted_run_that_are_lost_fail_no_later_one(scene: Scene, tmp_path: Path) -> None:
    """A backup is made without them and the error is reported; the next create and a sweep succeed."""
    interrupted = scene.copy(tmp_path / "interrupted")
    commit = next(
        number
        for number, call in enumerate(traced(scene, tmp_path), 1)
        if call.name == "link" and "/backups/" in call.path
    )
    fault_injection.kill(
        creating_in(interrupted),
        fault_injection.Point(commit, "before", fault_injection.Call("link", "", visible=True)),
    )
    names = sorted(documents_noted(ExistingVault(interrupted)))
    assert len(names) >= 3
    said = tmp_path / "said"
    for name in names:
        case = Path(shutil.copytree(interrupted, tmp_path / "case"))
        LocalStore(case / "repository").delete(meta_key(name))
        create, prune = (partial(main.run, [*options(case), command]) for command in ("create", "prune"))
        status = fault_injection.fork(create, said)
        assert os.waitstatus_to_exitcode(status) == 4, said.read_text()
        assert name in said.read_text() and "it was interrupted" in said.read_text()
        assert judge(ExistingVault(case), scene)
        assert os.waitstatus_to_exitcode(fault_injection.fork(prune, said)) == 0, said.read_text()
        go_on(ExistingVault(case), scene)
        shutil.rmtree(case)
        said.unlink()


def options(directory: Path) -> list[str]:
    """Return the options that say what is where."""
    files = {"--repository": "repository", "--data-fs": "site/Data.fs", "--blob-dir": "site/blobs"}
    return [
        "--site",
        filestorage_vault.SITE,
        *(part for name, path in files.items() for part in (name, str(directory / path))),
    ]


def test_a_power_failure_at_the_commit_takes_nothing_that_the_manifest_needs(
    scene: Scene, tmp_path: Path
) -> None:
    directory, seen = scene.copy(tmp_path / "case"), tmp_path / "seen"

    def look(call: fault_injection.Call, files: set[str], directories: set[str]) -> None:
        if call.name == "link" and "/backups/" in call.path:
            left = {path for path in files | directories if "/running" not in path and "/backups" not in path}
            seen.write_text("\n".join(sorted(left)) or "nothing")

    fault_injection.through(fault_injection.Volatile(look), creating_in(directory))
    assert seen.read_text() == "nothing"


def test_states_are_those_of_the_backups(tmp_path: Path) -> None:
    """The check itself: it notices a state that is one transaction later."""
    scene = incremental(tmp_path)
    with pytest.raises(AssertionError):
        ExistingVault(scene.directory).assert_restores(ExistingVault(scene.directory).files)
    assert len(independent_reader.headers(scene.directory / "site" / "Data.fs")) == 1 + len(
        independent_reader.headers(next(iter(scene.known.values())).data_fs)
    )
