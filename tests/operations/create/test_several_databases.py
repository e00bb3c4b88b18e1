"""All databases of a site are one backup: a commit to several of them is in it completely, or not at all.

No database is left out silently.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import filestorage_vault
import multi_database_writer
import pytest
import site_factory
from multi_database_site import NAMES, Several, agree, grown
from multi_database_writer import Together, databases, state_of
from site_factory import Site as OpenSite
from site_factory import SiteFiles, noise

from zodb_vault.cli.main import run
from zodb_vault.config.zopeconf import read_site
from zodb_vault.errors import InUse, SafetyBackupFailed, SourceError, TargetRefused, UsageError, WrongSource
from zodb_vault.model.manifest import Manifest
from zodb_vault.model.restore import DestinationOptions
from zodb_vault.model.source import Database, Site
from zodb_vault.operations.create import run as creating
from zodb_vault.operations.create.consistency import PAUSES
from zodb_vault.operations.create.preview import plan
from zodb_vault.operations.restore import run as restoring
from zodb_vault.operations.restore.abort import abort
from zodb_vault.operations.verify import run as verifying
from zodb_vault.operations.verify.options import VerifyOptions
from zodb_vault.policy.recovery import ToTid
from zodb_vault.repository.labels import Level
from zodb_vault.strategies.filestorage.restore import journal as journals
from zodb_vault.strategies.filestorage.restore.destination import of_database
from zodb_vault.strategies.filestorage.survey import FileStorageSurvey


@pytest.fixture
def several(tmp_path: Path) -> Several:
    """A site with a few commits to both databases and to one alone."""
    made = Several(tmp_path)
    with made.opened() as writer:
        for _ in range(3):
            writer.shared()
        writer.own("catalog")
    return made


# The cut point


def test_one_backup_holds_every_persistent_database_and_its_mount_point(several: Several) -> None:
    manifest = several.create().manifest
    assert [(entry.name, entry.mount_point) for entry in manifest.databases] == [
        ("main", "/"),
        ("catalog", "/catalog"),
    ]
    assert (manifest.contents, manifest.consistency, manifest.status) == ("all", "consistent", "complete")
    assert agree(several.restored()) == 3
    assert set(several.restored(databases=("catalog",))) == {"catalog"}
    assert (several.directory / "out" / "Data.fs").read_bytes() == several.files(
        "catalog"
    ).data_fs.read_bytes()
    for level in get_args(Level):
        backup, options = several.catalog().backup(manifest.id), VerifyOptions(level=level)
        report = verifying.verify(
            several.repository, filestorage_vault.SITE, backup, options, several.progress
        )
        assert report.ok and not report.source


def test_the_log_of_several_databases_is_in_the_order_of_time(
    several: Several, capsys: pytest.CaptureFixture[str]
) -> None:
    several.create()
    where = ["--repository", str(several.directory / "repository"), "--site", filestorage_vault.SITE]
    assert run([*where, "log", "--json", "-n", "6"]) == 0
    rows = json.loads(capsys.readouterr().out)["transactions"]
    assert [row["description"] for row in rows] == [
        "one alone",
        "commit 3",
        "commit 3",
        "commit 2",
        "commit 2",
        "commit 1",
    ]
    assert {row["database"] for row in rows[1:3]} == {"main", "catalog"}


@pytest.mark.parametrize("pack_every", [0.0, 0.4])
def test_backups_of_a_busy_site_never_hold_a_part_of_a_commit(tmp_path: Path, pack_every: float) -> None:
    several = Several(tmp_path)
    with several.opened() as writer:
        writer.shared()
    stop = tmp_path / "stop"
    arguments = [several.conf, "--finish", "0.01", "--pack-every", pack_every, "--stop", stop]
    process = subprocess.Popen([sys.executable, multi_database_writer.__file__, *map(str, arguments)])
    made: list[Manifest] = []
    try:
        # how often there is a time without commits depends on the machine: never would be wrong
        while [manifest.consistency for manifest in made].count("consistent") < 5 and len(made) < 40:
            grown(several.files("catalog").data_fs)
            made.append(several.create().manifest)
    finally:
        stop.touch()
        assert process.wait(30) == 0
    assert [manifest.consistency for manifest in made].count("consistent") == 5
    numbers = [
        agree(several.restored(backup=manifest.id))
        for manifest in made
        if manifest.consistency == "consistent"
    ]
    assert numbers == sorted(numbers) and numbers[-1] > numbers[0]
    several.create()
    assert several.restored() == several.in_place()


def test_a_commit_that_stays_between_vote_and_finish_is_said(
    several: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(creating.time, "sleep", pauses.append)
    made: list[Manifest] = []
    with several.opened(between=lambda: made.append(several.create().manifest)) as writer:
        writer.shared()
    assert made[0].consistency == "uncoordinated"
    assert tuple(pauses) == PAUSES
    assert all("no moment without commits" in entry.warnings[-1] for entry in made[0].databases)
    moving = restoring.plan(
        several.repository, filestorage_vault.SITE, several.site, restoring.RestoreOptions()
    )
    assert ["no moment without commits" in note for note in moving.notes] == [True]
    assert several.create().manifest.consistency == "consistent"
    assert agree(several.restored()) == 4


def test_a_commit_that_finishes_meanwhile_is_in_the_backup_whole(
    several: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create finds a commit finished in one database; the commit continues while the create waits."""
    halfway, go_on = threading.Event(), threading.Event()

    def stop_halfway() -> None:
        halfway.set()
        go_on.wait(30)

    with several.opened(between=stop_halfway) as writer:
        thread = threading.Thread(target=writer.shared)

        def pause(_seconds: float) -> None:
            if halfway.is_set():  # the second look: the first one has seen a part of it
                go_on.set()
                thread.join()
            else:
                thread.start()
                assert halfway.wait(30)

        monkeypatch.setattr(creating.time, "sleep", pause)
        manifest = several.create().manifest
    assert manifest.consistency == "consistent"
    assert agree(several.restored()) == 4


def test_a_pack_while_cut_points_are_taken_makes_it_start_over(
    several: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor that was opened first does not see what is committed to the packed file."""
    survey = FileStorageSurvey.__init__
    packed: list[str] = []

    def then_packed(self: FileStorageSurvey, *arguments: Any) -> None:
        survey(self, *arguments)
        if not packed:
            packed.append(self.database.name)
            dbs = databases(several.conf)
            dbs["main"].pack()
            writer = Together(dbs, list(NAMES))
            writer.shared()
            writer.close()
            for db in dbs.values():
                db.close()

    monkeypatch.setattr(FileStorageSurvey, "__init__", then_packed)
    made = several.create().manifest
    assert packed == ["main"]
    assert any("starting over" in note for note in several.progress.notes)
    assert made.consistency == "consistent"
    assert agree(several.restored()) == 4


def test_all_storages_are_copied_before_the_first_blob(several: Several) -> None:
    phases: list[str] = []
    several.progress.on_phase = phases.append
    several.create()
    assert phases == ["storage", "storage", "blobs", "blobs"]
    steps = [
        step
        for database in plan(several.site, several.repository, None).document()["databases"]
        for step in database["steps"]
    ]
    assert [
        (step["order"], step["what"], step["database"])
        for step in sorted(steps, key=lambda step: step["order"])
    ] == [
        (1, "storage", "main"),
        (2, "storage", "catalog"),
        (3, "blobs", "main"),
        (4, "blobs", "catalog"),
    ]


# Databases that fail, come and go


@pytest.mark.parametrize("what", ["missing", "damaged"])
def test_one_database_that_cannot_be_read_fails_the_backup(several: Several, what: str) -> None:
    several.create()
    data_fs = several.files("catalog").data_fs
    data_fs.unlink() if what == "missing" else data_fs.write_bytes(b"no Data.fs at all")
    before = several.catalog().listing.backups
    with pytest.raises(SourceError, match="catalog"):
        several.create()
    assert several.catalog().listing.backups == before


def test_a_database_that_is_added_leaves_the_others_on_their_timeline(several: Several) -> None:
    first = several.create().manifest
    with several.opened() as writer:
        writer.shared()
    with OpenSite(several.directory / "users") as site:
        site.put(someone="a user", picture=noise(900, 1))
    several.write_conf((*NAMES, "users"))
    added = several.create()
    manifest = added.manifest
    assert (manifest.status, manifest.contents, added.findings) == ("complete", "all", [])
    assert manifest.timeline == first.timeline and manifest.parent == first.id
    assert manifest.reason.code == "first" and manifest.reason.text.startswith("users: ")
    tid = first.databases[0].last_tid
    assert several.catalog().backup(first.id).searchable.eligible
    options = restoring.RestoreOptions(request=ToTid(str(tid)), output=several.directory / "out")
    done = restoring.plan(several.repository, filestorage_vault.SITE, None, options)
    assert done.target.cuts[0].last_tid == tid
    assert several.create().manifest.reason.code == "unchanged"
    older = restoring.plan(
        several.repository, filestorage_vault.SITE, several.site, restoring.RestoreOptions(backup=first.id)
    )
    assert older.notes == ["users is not in this backup and stays as it is: it may not fit the others"]


def test_a_database_that_is_taken_out_is_said_once_and_its_backups_stay(several: Several) -> None:
    first = several.create().manifest
    several.write_conf(("main",))
    made = several.create(skip_unchanged=True)
    assert not made.skipped
    assert [finding for finding in made.findings if f"catalog of backup {first.id}" in finding]
    assert made.manifest.databases[0].warnings == made.findings
    assert made.manifest.timeline == first.timeline
    assert several.create().findings == []
    assert several.create(skip_unchanged=True).skipped
    assert set(several.restored(backup=first.id, databases=("catalog",))) == {"catalog"}
    with pytest.raises(UsageError, match="no database catalog to restore into"):
        several.restore(backup=first.id)
    several.write_conf(NAMES)
    again = several.create().manifest
    assert again.timeline == first.timeline and {entry.transactions_added for entry in again.databases} == {0}


def test_a_database_that_moved_and_goes_on_is_the_same_and_another_one_is_refused(
    several: Several, tmp_path: Path
) -> None:
    several.create()
    shutil.copytree(several.directory / "catalog", tmp_path / "moved")
    several.write_conf(NAMES, catalog=str(tmp_path / "moved"))
    assert several.create().manifest.reason.code == "unchanged"
    assert any("moved" in note for note in several.progress.notes)
    with OpenSite(tmp_path / "other") as site:
        site.put(text="another database")
    several.write_conf(NAMES, catalog=str(tmp_path / "other"))
    with pytest.raises(WrongSource, match="does not continue"):
        several.create()


def test_a_site_whose_databases_all_have_other_names_is_refused(several: Several) -> None:
    several.create()
    text = (
        several.conf.read_text()
        .replace("<zodb_db main>", "<zodb_db 1>")
        .replace("<zodb_db catalog>", "<zodb_db 2>")
    )
    several.conf.write_text(text)
    with pytest.raises(WrongSource, match=r"none of its databases \(main, catalog\) has the name 1 or 2"):
        several.create()
    assert several.create(take_over=True).manifest.reason.code == "first"


def test_one_database_packed_is_full_for_that_one_only(several: Several) -> None:
    first = several.create().manifest
    dbs = databases(several.conf)
    dbs["catalog"].pack()
    for db in dbs.values():
        db.close()
    made = several.create().manifest
    assert (made.how, made.reason.code, made.reason.text[:9]) == ("full", "packed", "catalog: ")
    assert made.timeline == first.timeline
    assert made.databases[0].transactions_added == 0
    assert several.restored() == several.in_place()
    assert agree(several.restored(backup=first.id)) == 3


# Restoring into the site


def test_restoring_the_newest_state_and_packing_is_no_other_timeline(several: Several) -> None:
    first = several.create().manifest
    several.restore()
    dbs = databases(several.conf)
    for name in NAMES:
        dbs[name].pack()
    for db in dbs.values():
        db.close()
    made = several.create().manifest
    assert (made.reason.code, made.timeline) == ("packed", first.timeline)


def test_going_back_with_one_database_is_noted_for_that_one(several: Several) -> None:
    several.create()
    with several.opened() as writer:
        writer.own("catalog")
    tid = several.create().manifest.databases[1].last_tid
    older = several.catalog().listing.backups[0]
    several.restore(backup=older, databases=("catalog",))
    (note,) = several.catalog().backup(older).facts.restored
    assert note["databases"] == {"catalog": several.catalog().backup(older).manifest.databases[1].last_tid}
    assert note["databases"]["catalog"] != tid
    dbs = databases(several.conf)
    for name in NAMES:
        dbs[name].pack()
    for db in dbs.values():
        db.close()
    made = several.create().manifest
    assert made.reason.code == "packed" and made.reason.text.startswith("main: ")
    assert len(made.timeline) == 2, "what catalog has left behind is no past of the site"


def test_a_database_whose_file_is_gone_comes_back_and_only_what_is_there_is_saved(several: Several) -> None:
    several.create()
    with several.opened() as writer:
        writer.shared()
    several.files("catalog").data_fs.unlink()
    done = several.restore(safety_backup=True)
    assert agree(several.in_place()) == 3
    safety = several.catalog().backup(str(done.safety_backup)).manifest
    assert (safety.contents, safety.trigger) == (["main"], "safety")
    several.files("catalog").data_fs.write_bytes(b"no Data.fs at all")
    with pytest.raises(SafetyBackupFailed):
        several.restore(safety_backup=True)
    several.restore(safety_backup=True, databases=("main",))


def test_all_databases_together_have_to_fit(several: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    several.create()
    sizes = [several.files(name).data_fs.stat().st_size for name in NAMES]
    real = shutil.disk_usage(several.directory)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: real._replace(free=sum(sizes) - 1))
    with pytest.raises(TargetRefused, match=f"{sum(sizes)} are needed"):
        several.restore()
    several.restore(databases=("main",))


def test_a_process_that_has_one_of_the_databases_open_keeps_all_as_they_are(several: Several) -> None:
    several.create()
    with several.opened() as writer:
        writer.shared()
    before = several.in_place()
    with OpenSite(several.directory / "catalog"), pytest.raises(InUse, match="catalog"):
        several.restore()
    assert several.in_place() == before
    several.restore()
    assert agree(several.in_place()) == 3


def test_another_site_of_the_same_databases_is_a_target_and_no_restore_of_the_site_itself(
    several: Several, tmp_path: Path
) -> None:
    backup = several.create().manifest
    site = tmp_path / "staging.conf"
    text = several.conf.read_text()
    for name in NAMES:
        text = text.replace(f"{several.directory}/{name}/", f"{tmp_path}/staging/{name}/")
    site.write_text(text)
    several.restore(site=read_site(site, filestorage_vault.SITE, os.environ), elsewhere=True)
    for name in NAMES:
        assert (
            state_of(tmp_path / "staging" / name / "Data.fs", tmp_path / "staging" / name / "blobs")
            == several.in_place()[name]
        )
    assert several.catalog().backup(backup.id).facts.restored == []
    several.restore(elsewhere=True)
    assert len(several.catalog().backup(backup.id).facts.restored) == 1, (
        "the other configuration was the site itself"
    )


def test_an_interrupted_restore_of_several_is_put_back_together(
    several: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    several.create()
    with several.opened() as writer:
        writer.shared()
    renamed: list[str] = []
    rename = os.rename

    def fails_at_the_second(source: Any, target: Any, **options: Any) -> None:
        if str(target).endswith("/Data.fs"):
            if renamed:
                raise OSError("pulled")
            renamed.append(str(target))
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", fails_at_the_second)
    with pytest.raises(OSError, match="pulled"):
        several.restore()
    monkeypatch.undo()
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever ZODB says of such a lock
        databases(several.conf)
    with pytest.raises(InUse, match="interrupted"):
        several.create()
    for name in NAMES:
        with pytest.raises(TargetRefused, match="only together they fit"):
            several.restore(databases=(name,))
        where = [
            "--repository",
            str(several.directory / "repository"),
            "--site",
            filestorage_vault.SITE,
            "--zope-conf",
            str(several.conf),
        ]
        assert run([*where, "restore", "--abort", "--database", name]) == 1
    places = [of_database(one, DestinationOptions()) for one in several.site.databases]
    assert {journal.database for journal in abort(places)} == set(NAMES)
    assert agree(several.in_place()) == 4


def test_U10_what_an_undo_needs_is_not_discarded(several: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    several.create()
    with several.opened() as writer:
        writer.shared()
    finish, finished = journals.finish, list[Path]()

    def fails_at_the_second(data_fs: Path, journal: Any) -> Any:
        if finished:
            raise OSError("pulled")
        finished.append(data_fs)
        return finish(data_fs, journal)

    with monkeypatch.context() as patched:
        patched.setattr(journals, "finish", fails_at_the_second)
        with pytest.raises(OSError, match="pulled"):
            several.restore()
    before = several.in_place()
    where = ["--repository", str(several.directory / "repository"), "--site", filestorage_vault.SITE]
    where += ["--zope-conf", str(several.conf), "restore", "--yes"]
    assert run([*where, "--discard-kept", "latest"]) == 1
    assert several.in_place() == before
    assert run([*where, "--abort"]) == 0
    assert agree(several.in_place()) == 4


def test_a_clock_that_was_put_back_does_not_save_the_blobs_that_clients_have_seen(tmp_path: Path) -> None:
    """The rest may be earlier than the last restored transaction: what both timelines share decides."""
    files = SiteFiles(tmp_path / "site" / "Data.fs", tmp_path / "site" / "blobs")
    one = filestorage_vault.Vault(tmp_path, files)
    with OpenSite(files.data_fs.parent) as site:
        site.put(first=noise(300, 1))
    older = one.create().manifest.id
    with OpenSite(files.data_fs.parent) as site:
        site.storage.next_moment += timedelta(hours=1)
        late = site.put(late=noise(300, 2))
    newer = one.create().manifest.id
    client = Database(
        name="main",
        backend="zeo",
        blob_mode="server",
        blob_dir=str(tmp_path / "cache"),
        options={"server": "8100"},
    )
    clients = (Site(name="client", config="client.conf", databases=(client,)),)

    def restored(backup: str) -> list[str]:
        options = restoring.RestoreOptions(backup=backup, safety_backup=False, clients=clients)
        done = restoring.execute(
            one.repository,
            restoring.plan(one.repository, filestorage_vault.SITE, one.site, options),
            filestorage_vault.SITE,
            one.progress,
        )
        return [path for cache in done.caches for path in cache.paths]

    restored(older)
    with OpenSite(files.data_fs.parent) as site:
        left = site.put(left=noise(300, 3))
    assert left < late
    (tmp_path / "cache" / "5").mkdir(parents=True)
    paths = {
        tid: tmp_path / "cache" / "5" / f"0.{tid.hex()}.blob"
        for tid in (site_factory.tid_at(site_factory.START), left, late)
    }
    for path in paths.values():
        path.write_bytes(b"cached")
    assert restored(newer) == [str(paths[left]), str(paths[late])]
