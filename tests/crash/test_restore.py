"""``restore`` is killed, or a call of it fails, at every moment that makes a difference.

The target is old or new, never mixed. The same restore again makes it new, ``--abort`` makes it old, and
nothing is lost.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast

import fault_injection
import filestorage_vault
import in_place_sites
import independent_reader
import pytest
from in_place_sites import State, Target
from site_factory import START, Site, SiteFiles, noise
from ZODB.FileStorage import FileStorage

from zodb_vault.cli import main
from zodb_vault.errors import InUse, TargetRefused
from zodb_vault.operations.create.options import CreateOptions
from zodb_vault.strategies.blobs import directory_restore, packer
from zodb_vault.strategies.filestorage import cut

Check = Callable[[Target, "Scene"], None]


class Scene(NamedTuple):
    """A site before its restore, copied for every case; ``old`` is empty where the target does not exist."""

    directory: Path
    names: tuple[str, ...]
    options: dict[str, Any]
    old: dict[str, State]
    new: dict[str, State]
    trees: dict[str, dict[str, str]]

    def copy(self, path: Path) -> Target:
        shutil.copytree(self.directory, path, symlinks=True)
        return Target(path, self.names)

    def operation(self, target: Target) -> fault_injection.Operation:
        options = dict(self.options)
        if "output" in options:
            options["output"] = target.directory / options["output"]

        def operation() -> None:
            Target(target.directory, self.names).restore(**options)

        return operation


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make several segments and packs of a few kilobytes."""
    monkeypatch.setattr(cut, "SEGMENT_LIMIT", 1000)
    monkeypatch.setattr(packer, "PACK_LIMIT", 4000)


def _scene(directory: Path, names: tuple[str, ...] = ("main",), **options: Any) -> Scene:
    target, new, old = in_place_sites.build(directory, names)
    trees = {name: in_place_sites.blob_tree(target.files(name)) for name in names}
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
    builder.__name__: builder
    for builder in (in_place, two_databases, only_the_blobs_are_left, nothing_in_place)
}


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return SCENES[request.param](tmp_path / "base")


def traced(scene: Scene, tmp_path: Path) -> list[fault_injection.Call]:
    target = scene.copy(tmp_path / "trace")
    calls = fault_injection.calls_of(scene.operation(target), tmp_path)
    shutil.rmtree(target.directory)
    return calls


def which(target: Target, scene: Scene, name: str = "main") -> str:
    """Return which state exists in place; fail unless it is complete."""
    files = target.files(name)
    if not files.data_fs.exists():
        assert not scene.old, "there is no Data.fs any more"
        return "old"
    data = files.data_fs.read_bytes()
    if data == scene.new[name].data:
        assert independent_reader.blob_files(files.data_fs, files.blob_dir) == scene.new[name].blobs, (
            "the new state lacks blobs"
        )
        in_place_sites.assert_opens(files, target.directory / "opened")
        return "new"
    assert scene.old and data == scene.old[name].data, "neither the old nor the new Data.fs"
    blobs = independent_reader.blob_files(files.data_fs, files.blob_dir)
    for key, digest in scene.old[name].blobs.items():
        # A file with other content than in the backup was replaced; a missing file was restored.
        assert blobs[key] in (digest, scene.new[name].blobs.get(key)), (
            f"a blob of the old state is not what it was: {key}"
        )
        if blobs[key] != digest != independent_reader.MISSING:
            kept = files.blob_dir.glob(
                f".zodb-vault-kept-*/**/{independent_reader.blob_path(files.blob_dir, *key).name}"
            )
            assert digest in [independent_reader.sha256(path) for path in kept], (
                "a blob was exchanged and not kept"
            )
    return "old"


def assert_finished(target: Target, scene: Scene) -> None:
    """Require the new state, everything of the old one kept, and nothing else left."""
    assert not target.interrupted()
    for name in scene.names:
        assert which(target, scene, name) == "new"
        files = target.files(name)
        ours = in_place_sites.ours(files)
        assert not [
            path
            for path in ours
            if "restoring" in path
            or "-new" in path
            or "restore.json" in path
            or "probe" in path
            or ".tmp-" in path
        ]
        if scene.old:
            assert scene.old[name].data in [
                path.read_bytes() for path in files.data_fs.parent.glob("Data.fs.replaced-*")
            ]
            aside = {
                path.name.partition(".kept-")[0] for path in files.data_fs.parent.glob("Data.fs.*.kept-*")
            }
            assert aside >= {"Data.fs.old", "Data.fs.pack", "Data.fs.tr0"}
            assert not [path for path in files.data_fs.parent.iterdir() if path.name in aside]
        kept = {
            independent_reader.sha256(path) for path in files.blob_dir.glob(".zodb-vault-kept-*/**/*.blob")
        }
        existing = in_place_sites.blob_tree(files)
        assert set(scene.trees[name].values()) <= kept | set(existing.values()), (
            "a blob of the old state is gone"
        )
        if scene.old:
            wanted = {
                str(independent_reader.blob_path(files.blob_dir, *key).relative_to(files.blob_dir))
                for key in scene.new[name].blobs
            }
            assert set(existing) == wanted, "blobs that no record references"


def assert_old_is_back(target: Target, scene: Scene) -> None:
    """Require exactly the old state, as if nothing had been."""
    for name in scene.names:
        files = target.files(name)
        assert files.data_fs.exists() == bool(scene.old)
        assert not scene.old or files.data_fs.read_bytes() == scene.old[name].data
        assert in_place_sites.blob_tree(files) == scene.trees[name]
        # the journal was not in place yet, or the file system had just shown that it can link
        assert set(in_place_sites.ours(files)) <= {"Data.fs.restore.json.new", "Data.fs.restore.probe"}
        assert (
            not scene.old
            or len(
                [
                    path
                    for path in files.data_fs.parent.iterdir()
                    if path.name[7:] in (".old", ".pack", ".tr0")
                ]
            )
            == 3
        )


def run_again(target: Target, scene: Scene) -> None:
    scene.operation(target)()
    assert_finished(target, scene)


def put_back(target: Target, scene: Scene) -> None:
    states = {which(target, scene, name) for name in scene.names}
    if target.abort() or states == {"old"}:
        assert_old_is_back(target, scene)
    else:
        assert states == {"new"}
    assert not target.interrupted()


def later_site(target: Target) -> Site:
    """Return the site, open and at a time that neither state has seen."""
    site = Site(target.files().data_fs.parent)
    site.storage.next_moment = START + timedelta(days=1)
    return site


def site_goes_on(target: Target, scene: Scene) -> None:
    """The site starts, writes, and the restore runs again: new files stay, old ones are replaced and kept."""
    before, interrupted = which(target, scene), target.interrupted()
    with later_site(target) as site:
        site.put(afterwards="the site went on", picture=noise(500, 77))
    grown = in_place_sites.state_of(target.files())
    scene.operation(target)()
    assert not target.interrupted()
    if before == "new" and interrupted:
        assert in_place_sites.state_of(target.files()) == grown, (
            "what the site wrote to the restored file is lost"
        )
    else:
        assert which(target, scene) == "new"
        assert grown.data in [
            path.read_bytes() for path in target.files().data_fs.parent.glob("Data.fs.replaced-*")
        ]


def site_packs(target: Target, scene: Scene) -> None:
    """The same with a pack, which replaces the file and removes blobs; no refusal may be permanent."""
    before, interrupted = which(target, scene), target.interrupted()
    with later_site(target) as site:
        site.root["text"]["text"] = "packed"
        site.commit()
        site.pack()
    packed = in_place_sites.state_of(target.files())
    try:
        scene.operation(target)()
    except TargetRefused as error:
        # the old file was linked to its kept name before the site was started: there is only one such name
        assert "is another file than" in str(error), error
        assert before == "old"
        next(target.files().data_fs.parent.glob("Data.fs.replaced-*")).unlink()
        scene.operation(target)()
    assert not target.interrupted()
    if before == "new" and interrupted:
        assert in_place_sites.state_of(target.files()) == packed
    else:
        assert which(target, scene) == "new"


def abort_after_the_site_went_on(target: Target, scene: Scene) -> None:
    before, interrupted = which(target, scene), target.interrupted()
    with later_site(target) as site:
        site.put(afterwards="the site went on", picture=noise(500, 77))
    grown, tree = in_place_sites.state_of(target.files()), in_place_sites.blob_tree(target.files())
    if before == "new" and interrupted:
        with pytest.raises(TargetRefused, match="has changed since it was restored"):
            target.abort()
        assert in_place_sites.state_of(target.files()) == grown
        return
    assert target.abort() == interrupted
    assert target.files().data_fs.read_bytes() == grown.data
    if before == "old":
        blobs = independent_reader.blob_files(target.files().data_fs, target.files().blob_dir)
        assert blobs.items() >= scene.old["main"].blobs.items(), "a blob of the old state is not what it was"
        assert len(in_place_sites.blob_tree(target.files())) == len(scene.trees["main"]) + 1
    else:
        assert in_place_sites.blob_tree(target.files()) == tree


def each_killed(scene: Scene, tmp_path: Path, points: list[fault_injection.Point], then: Check) -> int:
    """Kill at every point and require what ``then`` says; return how many found the old state."""
    old = 0
    for number, point in enumerate(points):
        target = scene.copy(tmp_path / f"case{number}")
        try:
            fault_injection.kill(scene.operation(target), point)
            states = {which(target, scene, name) for name in scene.names}
            old += states == {"old"}
            assert len(states) == 1 or all_closed(target), (
                "the databases can be opened although they do not fit together"
            )
            then(target, scene)
        except Exception as error:
            raise AssertionError(f"killed {point}") from error
        shutil.rmtree(target.directory)
    return old


def all_closed(target: Target) -> bool:
    """Return whether no storage can be opened for writing and no backup can be made."""
    for name in target.names:
        with pytest.raises(OSError):  # noqa: PT011  whatever the system says of such a lock
            FileStorage(str(target.files(name).data_fs))
    with pytest.raises(InUse, match="interrupted"):
        filestorage_vault.creating.create(target.repository, target.site, CreateOptions(), target.progress)
    return True


@pytest.mark.parametrize("then", [run_again, put_back], ids=lambda then: then.__name__)
def test_killed_at_any_moment(scene: Scene, tmp_path: Path, then: Check) -> None:
    points = list(fault_injection.points(traced(scene, tmp_path)))
    if (
        len(scene.names) > 1
    ):  # what each does alone is seen with one; here it is the names that change in turn
        points = fault_injection.named(points)
    elif not scene.old:
        points = fault_injection.telling(points)
    old = each_killed(scene, tmp_path, points, then)
    assert 10 < old < len(points)


@pytest.mark.parametrize("then", [site_goes_on, site_packs], ids=lambda then: then.__name__)
def test_the_site_is_used_before_the_restore_is_run_again(tmp_path: Path, then: Check) -> None:
    scene = in_place(tmp_path / "base")
    each_killed(
        scene, tmp_path, fault_injection.telling(list(fault_injection.points(traced(scene, tmp_path)))), then
    )


def test_abort_leaves_what_the_site_has_written_since(tmp_path: Path) -> None:
    scene = in_place(tmp_path / "base")
    each_killed(
        scene,
        tmp_path,
        fault_injection.telling(list(fault_injection.points(traced(scene, tmp_path)))),
        abort_after_the_site_went_on,
    )


def interruptions(scene: Scene, tmp_path: Path) -> list[fault_injection.Point]:
    """Return three calls: blobs are being exchanged, the file is new, half of the old state is put aside."""
    points = list(fault_injection.points(traced(scene, tmp_path)))
    renamed = next(
        n
        for n, p in enumerate(points)
        if p.call.name == "rename" and p.call.path.endswith("/Data.fs") and p.moment == "after"
    )
    aside = [
        n for n, p in enumerate(points) if "kept-" in p.call.path and n > renamed and p.call.name == "rename"
    ]
    return [points[renamed - 6], points[renamed], points[aside[len(aside) // 2]]]


def interrupted(scene: Scene, path: Path, point: fault_injection.Point) -> Target:
    """Return a target that a restore left at a point; a copy of such a target would have other inodes."""
    target = scene.copy(path)
    fault_injection.kill(scene.operation(target), point)
    return target


def abort_of(target: Target) -> fault_injection.Operation:
    return lambda: target.abort() and None


def abort_points(scene: Scene, tmp_path: Path, point: fault_injection.Point) -> list[fault_injection.Point]:
    target = interrupted(scene, tmp_path / "trace", point)
    points = list(fault_injection.points(fault_injection.calls_of(abort_of(target), tmp_path)))
    shutil.rmtree(target.directory)
    return points if len(scene.names) == 1 else fault_injection.named(points)


@pytest.mark.parametrize("build", [in_place, two_databases], ids=lambda build: build.__name__)
def test_abort_is_killed_at_any_moment(tmp_path: Path, build: Callable[[Path], Scene]) -> None:
    scene = build(tmp_path / "base")
    for first in interruptions(scene, tmp_path):
        for point in abort_points(scene, tmp_path, first):
            target = interrupted(scene, tmp_path / "case", first)
            try:
                fault_injection.kill(abort_of(target), point)
                states = {which(target, scene, name) for name in scene.names}
                assert len(states) == 1 or all_closed(target), (
                    "the databases can be opened although they do not fit together"
                )
                if target.interrupted():
                    put_back(target, scene)
                assert_old_is_back(target, scene)
            except Exception as error:
                raise AssertionError(f"restore killed {first}, abort killed {point}") from error
            shutil.rmtree(target.directory)


def test_restore_instead_of_an_abort_that_was_killed(tmp_path: Path) -> None:
    """While the restored file is in place, the restore can be finished; afterwards only the abort works."""
    scene, outcomes = in_place(tmp_path / "base"), set()
    first = interruptions(scene, tmp_path)[2]
    for point in abort_points(scene, tmp_path, first):
        target = interrupted(scene, tmp_path / "case", first)
        try:
            fault_injection.kill(abort_of(target), point)
            state = which(target, scene)
            if state == "old" and target.interrupted():
                with pytest.raises(TargetRefused, match="interrupted"):
                    scene.operation(target)()
                assert target.abort()
                assert_old_is_back(target, scene)
            else:
                run_again(target, scene)
            outcomes.add(state)
        except Exception as error:
            raise AssertionError(f"abort killed {point}") from error
        shutil.rmtree(target.directory)
    assert outcomes == {"old", "new"}


# Into a directory


def into_a_directory(directory: Path) -> Scene:
    scene = _scene(directory, output="out")
    (directory / "main").rename(directory / "source")
    return scene


def output_of(target: Target, scene: Scene) -> str:
    """Return what is in the output directory; fail unless it is nothing valid or complete."""
    files = SiteFiles(target.directory / "out" / "Data.fs", target.directory / "out" / "blobs")
    if not files.data_fs.exists():
        return "nothing"
    assert in_place_sites.state_of(files) == scene.new["main"]
    in_place_sites.assert_opens(files, target.directory / "opened")
    return "new"


def test_into_a_directory_killed_at_any_moment(tmp_path: Path) -> None:
    scene = into_a_directory(tmp_path / "base")
    found = []
    for point in fault_injection.points(traced(scene, tmp_path)):
        target = scene.copy(tmp_path / "case")
        try:
            fault_injection.kill(scene.operation(target), point)
            found.append(output_of(target, scene))
            try:
                scene.operation(target)()
            except TargetRefused as error:
                # it was killed after its last change, and the directory looks like a finished one
                assert (
                    "exists already" in str(error) and "it has finished" in error.hint and found[-1] == "new"
                ), error
            assert output_of(target, scene) == "new"
            left = {path.name for path in (target.directory / "out").iterdir()}
            assert left - {"Data.fs.lock"} == {"Data.fs", "Data.fs.index", "blobs"}
            assert {path.name for path in (target.directory / "out" / "blobs").iterdir()} == {
                ".layout",
                "0x00",
            }
        except Exception as error:
            raise AssertionError(f"killed {point}") from error
        shutil.rmtree(target.directory)
    assert found == sorted(found, reverse=True) and {"nothing", "new"} == set(found)


# Errors


def options(target: Target) -> list[str]:
    """Return the options that say what is where."""
    files = {
        "--repository": target.directory / "repository",
        "--data-fs": target.files().data_fs,
        "--blob-dir": target.files().blob_dir,
    }
    return [
        "--site",
        filestorage_vault.SITE,
        *(part for name, path in files.items() for part in (name, str(path))),
    ]


@pytest.mark.parametrize(
    ("error", "then"), [(errno.ENOSPC, run_again), (errno.EIO, put_back)], ids=["ENOSPC", "EIO"]
)
def test_any_call_fails(tmp_path: Path, error: int, then: Check) -> None:
    scene, said = in_place(tmp_path / "base"), tmp_path / "said"
    calls = traced(scene, tmp_path)
    for number in fault_injection.each(calls, (*fault_injection.ALLOCATING, "unlink", "symlink")):
        target = scene.copy(tmp_path / "case")
        try:
            failing = fault_injection.Failing(number, error, lasting=error == errno.ENOSPC)
            command = [*options(target), "restore", "--yes", "--no-safety-backup"]
            status = fault_injection.through(failing, lambda: main.run(command), output=said)  # noqa: B023
            text, code = said.read_text(), os.waitstatus_to_exitcode(status)
            state = which(target, scene)
            assert "internal error" not in text and "Traceback" not in text, text
            assert code == 1 or (code == 0 and state == "new"), (code, text)
            assert code == 0 or os.strerror(error) in text, text
            if code == 0:
                assert_finished(target, scene)
            else:
                then(target, scene)
        except Exception as failure:
            raise AssertionError(
                f"{errno.errorcode[error]} at call {number}: {calls[number - 1]}"
            ) from failure
        shutil.rmtree(target.directory)
        said.unlink()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_any_call_fails_into_a_directory(tmp_path: Path, error: int) -> None:
    scene, said = into_a_directory(tmp_path / "base"), tmp_path / "said"
    calls = traced(scene, tmp_path)
    for number in fault_injection.each(calls, (*fault_injection.ALLOCATING, "unlink", "symlink")):
        target = scene.copy(tmp_path / "case")
        try:
            failing = fault_injection.Failing(number, error, lasting=error == errno.ENOSPC)
            place = target.directory
            command = [
                "--site",
                filestorage_vault.SITE,
                "--repository",
                str(place / "repository"),
                "restore",
                "--yes",
                "--output",
                str(place / "out"),
            ]
            status = fault_injection.through(failing, lambda: main.run(command), output=said)  # noqa: B023
            text, code = said.read_text(), os.waitstatus_to_exitcode(status)
            state = output_of(target, scene)
            assert "internal error" not in text and "Traceback" not in text, text
            assert code == 1 or (code == 0 and state == "new"), (code, text)
            assert code == 0 or os.strerror(error) in text, text
            if state == "nothing":
                scene.operation(target)()
                assert output_of(target, scene) == "new"
        except Exception as failure:
            raise AssertionError(
                f"{errno.errorcode[error]} at call {number}: {calls[number - 1]}"
            ) from failure
        shutil.rmtree(target.directory)
        said.unlink()


def test_a_power_failure_at_the_rename_takes_nothing_that_the_new_state_needs(tmp_path: Path) -> None:
    scene = in_place(tmp_path / "base")
    target, seen = scene.copy(tmp_path / "case"), tmp_path / "seen"

    def look(call: fault_injection.Call, files: set[str], directories: set[str]) -> None:
        if call.name == "rename" and call.path.endswith("/Data.fs"):
            # a list that only an abort reads
            seen.write_text(
                "\n".join(sorted(path for path in files | directories if not path.endswith(".lock")))
                or "nothing"
            )

    volatile = fault_injection.Volatile(look)

    def operation() -> None:
        cast(Any, directory_restore).sync_file_system = volatile.synced
        scene.operation(target)()

    fault_injection.through(volatile, operation)
    assert seen.read_text() == "nothing"
