"""Restores into a site that is not as plain as one would like, and runs that a user ends."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import command_line
import fault_injection
import filestorage_vault
import in_place_sites
import independent_reader
import pytest
from in_place_sites import State, Target
from site_factory import START, Site, SiteFiles, noise, populate
from ZODB.FileStorage import FileStorage

from zodb_vault.errors import Damage, InUse, SafetyBackupFailed, TargetMissing, TargetRefused, VaultError
from zodb_vault.model.restore import DestinationOptions
from zodb_vault.operations.create import run as creating
from zodb_vault.operations.create.options import CreateOptions
from zodb_vault.operations.restore import run as restoring
from zodb_vault.operations.restore.abort import discard_kept, kept_restore
from zodb_vault.repository import markers
from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore
from zodb_vault.strategies.filestorage.capture import FileStorageBlobCapture
from zodb_vault.strategies.filestorage.lock import storage_locks
from zodb_vault.strategies.filestorage.restore import phases
from zodb_vault.strategies.filestorage.restore.destination import DataFsDestination
from zodb_vault.strategies.filestorage.restore.paths import paths_for
from zodb_vault.strategies.filestorage.survey import FileStorageSurvey

NOBODY = command_line.NOBODY


class Built(NamedTuple):
    target: Target
    new: State
    old: State

    @property
    def files(self) -> SiteFiles:
        return self.target.files()


def _build(directory: Path, **options: Any) -> Built:
    target, new, old = in_place_sites.build(directory, **options)
    return Built(target, new["main"], old["main"])


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return _build(tmp_path / "work")


@pytest.fixture
def as_root() -> Iterator[Path]:
    """A directory that every user can enter; only root can try out what other users may do."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    directory = Path(tempfile.mkdtemp(prefix="vault-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def nobody(operation: Callable[[], object], said: Path) -> str:
    """Do something as a user without rights; return what it printed, its errors included."""

    def dropped() -> object:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            return operation() and None
        except VaultError as error:
            print(type(error).__name__, error.message)
            return 1

    status = os.waitstatus_to_exitcode(fault_injection.fork(dropped, said))
    return f"{status} {said.read_text()}"


def refused_without_a_change(built: Built, error: type[VaultError], match: str, **options: Any) -> None:
    before = command_line.stored(built.target.directory)
    with pytest.raises(error, match=match):
        built.target.restore(**options)
    assert command_line.stored(built.target.directory) == before


# What exists in place


def test_symlinked_data_fs_is_resolved_and_the_index_goes_to_the_configured_name(
    built: Built, tmp_path: Path
) -> None:
    real = tmp_path / "disk" / "Real.fs"
    real.parent.mkdir()
    built.files.data_fs.rename(real)
    built.files.data_fs.symlink_to(real)
    for lock in (built.files.data_fs, real):
        with storage_locks(lock), pytest.raises(InUse):
            built.target.restore()
    built.target.restore()
    assert built.files.data_fs.is_symlink()
    assert in_place_sites.state_of(built.files) == built.new
    assert Path(f"{built.files.data_fs}.index").exists()
    assert not Path(f"{real}.index").exists()
    assert next(real.parent.glob("Real.fs.replaced-*")).read_bytes() == built.old.data
    assert len(list(built.files.data_fs.parent.glob("Data.fs.*.kept-*"))) >= 3, (
        "FileStorage leaves things beside the configured name"
    )


def test_symlinked_directory_is_not_locked_twice(built: Built, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(built.target.directory)
    linked = Target(tmp_path / "link")
    linked.restore()
    assert in_place_sites.state_of(linked.files()) == built.new


def test_lawn_target_stays_a_lawn(tmp_path: Path) -> None:
    built = _build(tmp_path / "work", layout="lawn")
    built.target.restore()
    assert (built.files.blob_dir / ".layout").read_text() == "lawn"
    assert in_place_sites.state_of(built.files) == built.new
    assert all(len(Path(path).parts) == 2 for path in in_place_sites.blob_tree(built.files))


def test_exchanged_blob_is_kept_and_everything_can_be_freed(built: Built) -> None:
    done = built.target.restore()
    kept = [path for path in done.kept if "kept-2" in path and Path(path).is_dir()]
    assert b"another content" in [path.read_bytes() for path in Path(kept[0]).rglob("*.blob")]
    with Site(built.files.data_fs.parent) as site:  # a pack hard-links all it finds in the blob directory
        site.storage.next_moment = START.replace(year=2027)
        site.put(text="packed")
        site.pack()
    restore = Path(kept[0]).name.rpartition("kept-")[2]
    assert kept_restore(built.target.destinations(), "latest") == restore
    removed = discard_kept(built.target.destinations(), restore)
    assert set(done.kept) <= set(removed)
    assert not [path for path in built.files.data_fs.parent.rglob("*") if restore in path.name]
    with pytest.raises(TargetMissing):
        kept_restore(built.target.destinations(), restore)
    in_place_sites.assert_opens(built.files, built.target.directory / "opened")


def test_blob_directory_of_another_site_is_refused_unless_it_is_to_be_replaced(built: Built) -> None:
    shutil.rmtree(built.files.data_fs.parent)
    with Site(built.files.data_fs.parent, start=START.replace(year=2025)) as site:
        site.put(other="site", picture=noise(400, 50))
    refused_without_a_change(built, TargetRefused, "another site")
    other = in_place_sites.state_of(built.files)
    built.target.restore(replace_blobs=True)
    assert in_place_sites.state_of(built.files) == built.new
    assert next(built.files.data_fs.parent.glob("Data.fs.replaced-*")).read_bytes() == other.data


def test_stale_index_is_never_used_and_the_new_one_is_valid(
    built: Built, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F13, with the real process that writes the index."""
    monkeypatch.undo()
    index = Path(f"{built.files.data_fs}.index")
    stale = index.read_bytes()
    built.target.restore()
    assert index.read_bytes() != stale
    with caplog.at_level(logging.INFO, logger="ZODB"):
        storage = FileStorage(str(built.files.data_fs), read_only=True)
    assert storage.getSize() == len(built.new.data)
    assert len(storage) > 3
    storage.close()
    assert "index" not in caplog.text.lower()


def test_no_process_can_make_an_empty_data_fs_meanwhile(built: Built) -> None:
    """FileStorage empties a blob directory without a Data.fs, so the lock is held until Data.fs exists."""
    for path in built.files.data_fs.parent.glob("Data.fs*"):
        path.unlink()
    tried = []

    def start(what: str) -> None:
        tried.append(what)
        with pytest.raises(Exception, match="lock"):
            FileStorage(str(built.files.data_fs), blob_dir=str(built.files.blob_dir))

    built.target.progress.on_phase = start
    built.target.restore()
    assert tried == ["storage", "blobs"]
    assert in_place_sites.state_of(built.files) == built.new


def test_site_that_was_started_without_a_data_fs_between_two_runs_is_kept(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(built.files.data_fs.parent)
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(phases.DataFsRestore, "make_valid", _interrupt)
        built.target.restore()
    with Site(built.files.data_fs.parent) as site:
        site.put(made="meanwhile")
    meanwhile = built.files.data_fs.read_bytes()
    built.target.restore()
    assert in_place_sites.state_of(built.files) == built.new
    assert next(built.files.data_fs.parent.glob("Data.fs.replaced-*")).read_bytes() == meanwhile


def _interrupt(*_arguments: object, **_options: object) -> Any:
    raise InterruptedError(errno.EINTR, "interrupted by the test")


# What is refused before anything changes


def test_too_little_space(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage(built.target.directory)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: real._replace(free=len(built.new.data) - 1))
    refused_without_a_change(built, TargetRefused, "are needed")


def test_file_system_without_hard_links(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def refuse(source: Any, target: Any, **options: Any) -> None:
        if "/main/" in os.fspath(target):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), target)
        link(source, target, **options)

    monkeypatch.setattr(os, "link", refuse)
    refused_without_a_change(built, TargetRefused, "hard-linked")


def test_another_restore_that_ran_during_the_question(built: Built) -> None:
    options = restoring.RestoreOptions(safety_backup=False)
    plan = restoring.plan(built.target.repository, filestorage_vault.SITE, built.target.site, options)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(phases.DataFsRestore, "make_valid", _interrupt)
        built.target.restore()
    with pytest.raises(InUse, match="has run since"):
        restoring.execute(built.target.repository, plan, filestorage_vault.SITE, built.target.progress)
    built.target.restore()
    assert in_place_sites.state_of(built.files) == built.new


def test_another_target_than_the_one_that_was_interrupted(built: Built) -> None:
    first = built.target.repository.listing(filestorage_vault.SITE).backups[0]
    creating.create(built.target.repository, built.target.site, CreateOptions(), built.target.progress)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(phases.DataFsRestore, "make_valid", _interrupt)
        built.target.restore(backup=first)
    refused_without_a_change(built, TargetRefused, f"backup {first} .* was interrupted")
    refused_without_a_change(built, TargetRefused, "was interrupted", backup=first, only="storage")
    built.target.restore(backup=first)
    assert in_place_sites.state_of(built.files) == built.new


def test_a_user_who_may_not_give_files_to_their_owner(as_root: Path) -> None:
    built = _build(as_root / "work")
    command_line.give_to_nobody(as_root / "work")
    os.chown(built.files.data_fs, 0, 0)
    before = command_line.stored(as_root / "work")
    assert "TargetRefused" in nobody(built.target.restore, as_root / "said")
    assert command_line.stored(as_root / "work") == before


def test_a_user_who_is_not_in_the_group_of_the_files(as_root: Path) -> None:
    built = _build(as_root / "work")
    command_line.give_to_nobody(as_root / "work")
    os.chown(built.files.blob_dir, NOBODY, 0)
    assert "gid 0" in nobody(built.target.restore, as_root / "said")


def test_read_only_repository_is_no_obstacle(as_root: Path) -> None:
    built = _build(as_root / "work")
    command_line.give_to_nobody(as_root / "work")
    for path in ((as_root / "work" / "repository"), *(as_root / "work" / "repository").rglob("*")):
        os.chown(path, 0, 0)
        path.chmod(0o555 if path.is_dir() else 0o444)

    def restore() -> None:
        done = built.target.restore()
        print(built.target.progress.notes, done.notes)

    said = nobody(restore, as_root / "said")
    assert said.startswith("0 "), said
    assert "cannot be written to" in said
    assert "could not be noted" in said
    assert in_place_sites.state_of(built.files) == built.new
    output = as_root / "free" / "out"
    output.parent.mkdir()
    output.parent.chmod(0o777)
    said = nobody(lambda: built.target.restore(output=output), as_root / "said again")
    assert said.startswith("0 "), said
    assert stat.S_IMODE(output.stat().st_mode) == 0o700


def test_what_root_restores_belongs_to_the_user_of_the_site(as_root: Path) -> None:
    built = _build(as_root / "work")
    command_line.give_to_nobody(as_root / "work")
    built.files.data_fs.chmod(0o640)
    built.target.restore()
    strangers = [
        path
        for path in (as_root / "work" / "main").rglob("*")
        if path.stat().st_uid != NOBODY and "restored-" not in path.name
    ]
    assert strangers == []
    assert stat.S_IMODE(built.files.data_fs.stat().st_mode) == 0o640

    def start() -> None:
        FileStorage(str(built.files.data_fs), blob_dir=str(built.files.blob_dir)).close()

    assert nobody(start, as_root / "said").startswith("0 ")
    shutil.rmtree(as_root / "work" / "main")
    os.chown(as_root / "work", NOBODY, NOBODY)
    mask = os.umask(0o077)
    try:
        built.target.restore()
    finally:
        os.umask(mask)
    strangers = [
        path
        for path in (as_root / "work" / "main").rglob("*")
        if path.stat().st_uid != NOBODY and "restored-" not in path.name
    ]
    assert strangers == []
    assert nobody(start, as_root / "said again").startswith("0 ")


# The safety backup


def safety_backups(target: Target) -> list[str]:
    repository = target.repository
    manifests = [
        repository.manifest(filestorage_vault.SITE, one)
        for one in repository.listing(filestorage_vault.SITE).backups
    ]
    return [
        f"{manifest.status} {manifest.databases[0].last_tid}"
        for manifest in manifests
        if manifest.trigger == "safety"
    ]


def test_incomplete_safety_backup_of_a_damaged_target_suffices_and_is_named(built: Built) -> None:
    # what an earlier backup has of it is no loss
    next(path for path in built.files.blob_dir.rglob("*.blob") if path.stat().st_size == 650).unlink()
    done = built.target.restore(safety_backup=True)
    assert [one.partition(" ")[0] for one in safety_backups(built.target)] == ["incomplete"]
    assert any(f"the safety backup {done.safety_backup}" in note for note in built.target.progress.notes)
    assert in_place_sites.state_of(built.files) == built.new


def test_safety_backup_that_cannot_be_taken_is_a_refusal_with_the_way_round(built: Built) -> None:
    marker = markers.marker_key(filestorage_vault.SITE, "create", "")
    run = markers.RunMarker.start(
        built.target.repository.store, filestorage_vault.SITE, "create", "another", []
    )
    before = command_line.stored(built.files.data_fs.parent)
    with pytest.raises(SafetyBackupFailed) as failed:
        built.target.restore(safety_backup=True)
    assert "--no-safety-backup" in failed.value.hint
    assert command_line.stored(built.files.data_fs.parent) == before
    run.remove()
    assert marker not in built.target.repository.listing(filestorage_vault.SITE).markers


def test_safety_backup_is_made_again_when_the_site_went_on_after_an_interruption(built: Built) -> None:
    def interrupted() -> None:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(phases.DataFsRestore, "make_valid", _interrupt)
            built.target.restore(safety_backup=True)

    interrupted()
    interrupted()
    assert len(safety_backups(built.target)) == 1, "nothing was new the second time"
    with Site(built.files.data_fs.parent) as site:
        last = site.put(more="went on")
    built.target.restore(safety_backup=True)
    assert [one.partition(" ")[2] for one in safety_backups(built.target)][1:] == ["0x" + last.hex()]
    assert in_place_sites.state_of(built.files) == built.new


def test_two_restores_within_a_second_do_not_collide(built: Built) -> None:
    built.target.restore()
    built.target.restore()
    assert len(list(built.files.data_fs.parent.glob("Data.fs.replaced-*"))) == 2
    assert in_place_sites.state_of(built.files) == built.new


def test_restore_is_noted_once_however_often_it_is_interrupted(built: Built) -> None:
    for phase in ("put_aside", "tidy"):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(phases.DataFsRestore, phase, _interrupt)
            built.target.restore()
        if phase == "put_aside":
            built.target.restore()
    repository = built.target.repository
    listing = repository.listing(filestorage_vault.SITE)
    notes = repository.labels.facts(listing, listing.backups[0]).restored
    assert len(notes) == len({note["restore"] for note in notes}) == 2


def test_abort_without_the_blob_directory_on_the_command_line(built: Built) -> None:
    """The journal knows where the blobs were."""
    tree = in_place_sites.blob_tree(built.files)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(phases.DataFsRestore, "make_valid", _interrupt)
        built.target.restore()
    assert in_place_sites.blob_tree(built.files) != tree
    from zodb_vault.operations.restore.abort import abort

    abort([DataFsDestination(paths_for(built.files.data_fs, None), DestinationOptions())])
    assert in_place_sites.blob_tree(built.files) == tree


def test_abort_takes_the_blobs_out_of_a_directory_that_had_none(built: Built) -> None:
    """Those of one pack are noted together there, before the first is made."""
    shutil.rmtree(built.files.blob_dir)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(phases.DataFsRestore, "make_valid", _interrupt)
        built.target.restore(safety_backup=False)
    assert in_place_sites.blob_tree(built.files)
    built.target.abort()
    assert not in_place_sites.blob_tree(built.files)
    assert built.files.data_fs.read_bytes() == built.old.data


def test_damaged_pack_never_takes_the_place_of_a_blob(tmp_path: Path) -> None:
    """An object is checked at its end, after a long blob was written: the blob is checked by itself."""
    directory = tmp_path / "work"
    with Site(directory / "main") as site:
        site.put(first=noise(700_000, 1), second=noise(600_000, 2))
    Repository.create(LocalStore(directory / "repository"))
    target = Target(directory)
    creating.create(target.repository, target.site, CreateOptions(), target.progress)
    objects = [path for path in (directory / "repository" / "objects").rglob("*") if path.is_file()]
    command_line.flip(max(objects, key=lambda path: path.stat().st_size), 300_000)
    for path in target.files().blob_dir.rglob("*.blob"):
        path.chmod(0o600)
        path.write_bytes(b"another content")
    with pytest.raises(Damage):
        target.restore()
    assert {path.read_bytes()[:20] for path in target.files().blob_dir.rglob("*.blob")} == {
        b"another content"
    }
    assert target.abort()
    assert in_place_sites.ours(target.files()) == []


# Runs that are ended


ENDED = """
import sys, time
from zodb_vault.cli import main
from zodb_vault.strategies.filestorage.restore import phases
from zodb_vault.strategies.filestorage import capture

def wait(*arguments):
    print("ready", flush=True)
    time.sleep(60)

{hook} = wait
sys.argv[0] = "zodb-vault"
main.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_create_that_is_ended_leaves_what_it_stored_to_the_next_run(
    tmp_path: Path, number: signal.Signals
) -> None:
    files = populate(tmp_path / "site")
    opened = filestorage_vault.Vault(tmp_path, files)
    options = [
        "--repository",
        tmp_path / "repository",
        "--site",
        filestorage_vault.SITE,
        "--data-fs",
        files.data_fs,
        "--blob-dir",
        files.blob_dir,
    ]
    _end("capture.FileStorageBlobCapture.copy_blobs", number, *options, "create")
    marker, _data = markers.read_marker(
        opened.repository.store, markers.marker_key(filestorage_vault.SITE, "create", "")
    )
    assert marker.ended and marker.stored[0].segments
    assert opened.ids == []
    before = {path.name for path in (tmp_path / "repository" / "objects").rglob("*")}
    made = opened.create()
    assert made.manifest.reason.code == "resumed"
    assert {part.object for segment in opened.segments() for part in segment.parts} <= before
    opened.assert_restores(files)


def test_restore_that_is_ended_is_finished_by_the_next_run(built: Built) -> None:
    options = ["--repository", built.target.directory / "repository", "--site", filestorage_vault.SITE]
    options += ["--data-fs", built.files.data_fs, "--blob-dir", built.files.blob_dir]
    _end(
        "phases.DataFsRestore.make_valid", signal.SIGTERM, *options, "restore", "--yes", "--no-safety-backup"
    )
    assert built.files.data_fs.read_bytes() == built.old.data
    assert built.target.interrupted()
    assert built.target.repository.listing(filestorage_vault.SITE).markers == []
    built.target.restore()
    assert in_place_sites.state_of(built.files) == built.new


def _end(hook: str, number: signal.Signals, *arguments: object) -> None:
    """Start a command whose ``hook`` waits, and end it there; require the status 130 and no traceback."""
    script = [sys.executable, "-c", ENDED.format(hook=hook), *map(str, arguments)]
    with subprocess.Popen(
        script,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=command_line.environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted" in err


def test_run_that_fails_at_once_does_not_forget_what_an_earlier_one_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = populate(tmp_path / "site")
    opened = filestorage_vault.Vault(tmp_path, files)
    for kind, method in ((FileStorageBlobCapture, "copy_blobs"), (FileStorageSurvey, "begin")):
        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(kind, method, _interrupt)
            opened.create()
    before = {path.name for path in (tmp_path / "repository" / "objects").rglob("*")}
    assert opened.create().manifest.reason.code == "resumed"
    assert {part.object for segment in opened.segments() for part in segment.parts} <= before
    assert independent_reader.headers(files.data_fs)
