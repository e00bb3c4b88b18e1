"""``restore`` is killed, or a call of it fails, at every moment that makes a difference.

The target is old or new, never mixed; the same restore again makes it new, ``--abort`` makes it old, and nothing is lost.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import oracle
import pytest
import seam
import sites
import vault
from factories import MINUTE, Site, noise
from sites import State, Target
from zodb_vault.cli import main
from zodb_vault.errors import TargetRefused
from zodb_vault.operations import restore as restoring
from zodb_vault.strategies import packing, segments

Check = Callable[[Target, "Scene"], None]


class Scene(NamedTuple):
    """A site before its restore, to be copied for every case; ``old`` is empty where there is nothing in place."""

    directory: Path
    names: tuple[str, ...]
    options: dict[str, Any]
    old: dict[str, State]
    new: dict[str, State]
    trees: dict[str, dict[str, str]]

    def copy(self, path: Path) -> Target:
        shutil.copytree(self.directory, path, symlinks=True)
        return Target(path, self.names)

    def operation(self, target: Target) -> seam.Operation:
        options = dict(self.options)
        if "output" in options:
            options["output"] = target.directory / options["output"]
        return lambda: Target(target.directory, self.names).restore(**options) and None


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make several segments and packs of a few kilobytes."""
    monkeypatch.setattr(segments, "SEGMENT_LIMIT", 1000)
    monkeypatch.setattr(packing, "PACK_LIMIT", 4000)


def _scene(directory: Path, names: tuple[str, ...] = ("main",), **options: Any) -> Scene:
    target, new, old = sites.build(directory, names)
    trees = {name: sites.blob_tree(target.files(name)) for name in names}
    return Scene(directory, names, options, old, new, trees)


def in_place(directory: Path) -> Scene:
    return _scene(directory)


def two_databases(directory: Path) -> Scene:
    return _scene(directory, ("main", "catalog"))


def only_the_blobs_are_left(directory: Path) -> Scene:
    scene = _scene(directory)
    for path in (directory / "main").glob("Data.fs*"):
        path.unlink()
    return scene._replace(old={})


def nothing_in_place(directory: Path) -> Scene:
    scene = _scene(directory)
    shutil.rmtree(directory / "main")
    return scene._replace(old={}, trees={"main": {}})


SCENES: dict[str, Callable[[Path], Scene]] = {
    builder.__name__: builder for builder in (in_place, two_databases, only_the_blobs_are_left, nothing_in_place)
}


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return SCENES[request.param](tmp_path / "base")


def traced(scene: Scene, tmp_path: Path) -> list[seam.Call]:
    target = scene.copy(tmp_path / "trace")
    calls = seam.calls_of(scene.operation(target), tmp_path)
    shutil.rmtree(target.directory)
    return calls


def which(target: Target, scene: Scene, name: str = "main") -> str:
    """Tell which state stands in place; fail unless it is whole."""
    files = target.files(name)
    if not files.data_fs.exists():
        assert not scene.old, "there is no Data.fs any more"
        return "old"
    data = files.data_fs.read_bytes()
    if data == scene.new[name].data:
        assert oracle.blob_files(files.data_fs, files.blob_dir) == scene.new[name].blobs, "the new state lacks blobs"
        sites.assert_opens(files, target.directory / "opened")
        return "new"
    assert scene.old and data == scene.old[name].data, "neither the old nor the new Data.fs"
    blobs = oracle.blob_files(files.data_fs, files.blob_dir)
    for key, digest in scene.old[name].blobs.items():
        # a file of other content than the backup has under the same name was exchanged, one that was gone has come back
        assert blobs[key] in (digest, scene.new[name].blobs.get(key)), f"a blob of the old state is not what it was: {key}"
        if blobs[key] != digest != oracle.MISSING:
            kept = files.blob_dir.glob(f".zodb-vault-kept-*/**/{oracle.blob_path(Path(), *key).name}")
            assert digest in [oracle.sha256(path) for path in kept], "a blob was exchanged and not kept"
    return "old"


def assert_finished(target: Target, scene: Scene) -> None:
    """Require the new state, everything of the old one kept, and nothing else left."""
    assert not target.interrupted()
    for name in scene.names:
        assert which(target, scene, name) == "new"
        files = target.files(name)
        ours = sites.ours(files)
        assert not [path for path in ours if "restoring" in path or "-new" in path or "restore.json" in path or "probe" in path or ".tmp-" in path]
        if scene.old:
            assert scene.old[name].data in [path.read_bytes() for path in files.data_fs.parent.glob("Data.fs.replaced-*")]
            assert len(list(files.data_fs.parent.glob("Data.fs.*.kept-*"))) == 3
        kept = {oracle.sha256(path) for path in files.blob_dir.glob(".zodb-vault-kept-*/**/*.blob")}
        standing = sites.blob_tree(files)
        assert set(scene.trees[name].values()) <= kept | set(standing.values()), "a blob of the old state is gone"
        if scene.old:
            assert set(standing) == {str(oracle.blob_path(Path(), *key)) for key in scene.new[name].blobs}, "blobs that nobody asks for"


def assert_old_is_back(target: Target, scene: Scene) -> None:
    """Require exactly the old state, as if nothing had been."""
    for name in scene.names:
        files = target.files(name)
        assert files.data_fs.exists() == bool(scene.old)
        assert not scene.old or files.data_fs.read_bytes() == scene.old[name].data
        assert sites.blob_tree(files) == scene.trees[name]
        # the journal was not in place yet, or the file system had just shown that it can link
        assert set(sites.ours(files)) <= {"Data.fs.restore.json.new", "Data.fs.restore.probe"}
        assert not scene.old or len([path for path in files.data_fs.parent.iterdir() if path.name[7:] in (".old", ".pack", ".tr0")]) == 3


def run_again(target: Target, scene: Scene) -> None:
    scene.operation(target)()
    assert_finished(target, scene)


def put_back(target: Target, scene: Scene) -> None:
    states = {which(target, scene, name) for name in scene.names}
    if target.abort():
        assert_old_is_back(target, scene)
    elif states == {"old"}:
        assert_old_is_back(target, scene)
    else:
        assert_finished_but_for_the_list_of_added(target, scene)
    assert not target.interrupted()


def assert_finished_but_for_the_list_of_added(target: Target, scene: Scene) -> None:
    for name in scene.names:
        assert which(target, scene, name) == "new"


def site_goes_on(target: Target, scene: Scene) -> None:
    """The site is started, writes, and the restore is run again: what is new is left as it is, what is old is replaced and kept."""
    before = [which(target, scene, name) for name in scene.names]
    was_interrupted, grown = target.interrupted(), {}
    for name in scene.names:
        if not target.files(name).data_fs.exists():
            return
        with Site(target.directory / name) as site:
            site.put(afterwards=f"{name} went on", picture=noise(500, 77))
        grown[name] = sites.state_of(target.files(name))
    scene.operation(target)()
    assert not target.interrupted()
    for name, state in zip(scene.names, before, strict=True):
        files, kept = target.files(name), list((target.directory / name).glob("Data.fs.replaced-*"))
        if state == "new" and was_interrupted:
            assert sites.state_of(files) == grown[name]
        else:
            assert which(target, scene, name) == "new"
            assert grown[name].data in [path.read_bytes() for path in kept], "what the site had written is lost"
    if was_interrupted and "new" in before:
        return
    assert len(set(before)) == 1 or was_interrupted


def each_killed(scene: Scene, tmp_path: Path, points: list[seam.Point], then: Check) -> int:
    """Kill at every point and require what ``then`` says; return how many found the old state."""
    old, number = 0, itertools.count()
    for point in points:
        target = scene.copy(tmp_path / f"case{next(number)}")
        try:
            seam.kill(scene.operation(target), point)
            old += all(which(target, scene, name) == "old" for name in scene.names)
            then(target, scene)
        except Exception as error:
            raise AssertionError(f"killed {point}") from error
        shutil.rmtree(target.directory)
    return old


@pytest.mark.parametrize("then", [run_again, put_back], ids=lambda then: then.__name__)
def test_killed_at_any_moment(scene: Scene, tmp_path: Path, then: Check) -> None:
    points = list(seam.points(traced(scene, tmp_path)))
    old = each_killed(scene, tmp_path, points, then)
    print(len(points), "points")
    assert 10 < old < len(points)
