"""The failures that bit users of other tools, case by case: what zodb-vault does instead.

Each test bears the id of its case. Cases that need a server or a scene of their own are tested elsewhere:
``ELSEWHERE`` names the tests. These cases have no test:

==================  ================================================================================
F31                 an index is not stored but made at the restore
F37                 the reference of the options is generated from the options
F38                 nothing is restored to standard output
F45, F46, F47, F57  there is one kind of backup and one format, and no state is encoded in file names
F53                 there are no commands that run before a backup
==================  ================================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import independent_reader
import pytest
import site_factory
from filestorage_vault import SITE, Vault, blob_paths, entry_of
from site_factory import MINUTE, START, Site, SiteFiles, noise
from ZODB.fsIndex import fsIndex

from zodb_vault.cli.main import run
from zodb_vault.errors import Damage, VaultError
from zodb_vault.repository.objects import object_key
from zodb_vault.runtime import clock

ROOT = os.geteuid() == 0

# Lost data after a failed program, a restore, a copy or a pack of a database, and leftovers of a prune.
ELSEWHERE = {
    "F3": "strategies/postgres/test_dump_failures.py::test_pg_dump_is_killed_half_way",
    "F18": "cli/test_zeo.py::test_F18_a_client_reads_the_lost_future_from_its_cache_and_not_without_it",
    "F20": "strategies/portable/test_zeo.py::test_a_killed_run_is_continued_without_unchecked_data",
    "F21": "strategies/portable/test_relstorage.py::test_commits_and_packs_meanwhile_in_postgresql",
    "F22": "strategies/portable/test_zeo.py::test_a_changed_mirror_is_made_again",
    "F23": "strategies/portable/test_zeo.py::test_what_was_written_is_read_back_before_it_counts",
    "F24": "strategies/portable/test_zeo.py::test_a_blob_file_is_looked_at_before_it_counts",
    "F25": "strategies/blobs/test_source.py::test_a_cache_or_an_unknown_layout_is_refused",
    "F26": "strategies/relstorage/test_postgres.py::test_lost_and_extra_large_objects_are_reported",
    "F27": "strategies/relstorage/test_postgres.py::test_level_restore_loads_all_objects_and_blobs",
    "F28": "strategies/relstorage/test_sqlite.py::test_oids_that_are_given_after_a_restore_are_new",
    "F32": "operations/prune/test_sweep.py::test_what_is_deleted_goes_after_two_grace_periods_and_not_before",
    "F49": "crash/test_s3.py::test_what_passes_keeps_a_prune_and_a_copy_from_nothing",
    "F62": "strategies/relstorage/test_postgres.py::test_orphans_in_the_directory_are_not_copied",
    "F63": "cli/test_signals.py::test_a_create_into_s3_is_stopped_soon_in_the_middle_of_an_upload",
    "F64": "crash/test_copy.py::test_killed_at_any_moment",
    "F65": "strategies/pgjsonb/test_restore.py::test_into_an_empty_database_and_a_bucket_of_another_owner",
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_what_shows_a_case_elsewhere_is_there(case: str) -> None:
    file, _, name = ELSEWHERE[case].partition("::")
    assert f"\ndef {name}(" in (Path(__file__).parents[1] / file).read_text(encoding="utf-8")


@pytest.fixture
def files(tmp_path: Path) -> SiteFiles:
    return site_factory.populate(tmp_path / "site")


@pytest.fixture
def vault(tmp_path: Path, files: SiteFiles) -> Vault:
    return Vault(tmp_path, files)


def command(vault: Vault, *arguments: str, files: SiteFiles | None = None, source: bool = True) -> int:
    """Run a command on the repository, and on the site or other files, and return its exit status."""
    where = ["--repository", vault.repository.store.location, "--site", SITE]
    chosen = files or vault.files
    return run(
        [
            *arguments,
            *where,
            *(["--data-fs", str(chosen.data_fs), "--blob-dir", str(chosen.blob_dir)] if source else []),
        ]
    )


def answer(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return the JSON that was printed."""
    return json.loads(capsys.readouterr().out)


def more(files: SiteFiles, number: int = 1) -> bytes:
    with Site(files.data_fs.parent) as site:
        return site.put(news=f"more {number}", report=noise(4000, 500 + number))


def object_path(vault: Vault, name: str) -> Path:
    return Path(vault.repository.store.location) / object_key(name)


def truncate(path: Path) -> None:
    """Truncate a stored file to half of its size."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size // 2)
    path.chmod(mode)


def snapshot(files: SiteFiles) -> dict[str, bytes]:
    """Return the content of every file of a site, lock files aside: taking one leaves it there."""
    found = (path for path in files.data_fs.parent.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path): path.read_bytes() for path in found}


def parts(vault: Vault, what: str) -> list[str]:
    """Return the names of the objects of one component of the newest backup."""
    chain: list[Any] = list(vault.segments() if what == "storage" else vault.packs())
    return [part.object for one in chain for part in one.parts]


def at_phase(vault: Vault, phase: str, act: Callable[[], object]) -> None:
    """Do something once, when a backup begins a phase."""

    def begin(what: str) -> None:
        if what == phase:
            vault.progress.on_phase = lambda _what: None
            act()

    vault.progress.on_phase = begin


# Live today


@pytest.mark.parametrize("keep_old", [True, False])
def test_F1_a_pack_between_storage_and_blobs_loses_no_blob(tmp_path: Path, keep_old: bool) -> None:
    with Site(tmp_path / "site", keep_old=keep_old) as site:
        site.put(kept="kept", replaced=noise(1000, 1), removed=noise(1000, 2))
        vault = Vault(tmp_path, site.files)

        def pack() -> None:
            site.put(replaced=noise(1000, 3))
            del site.root["removed"]
            site.commit("remove")
            site.pack()

        at_phase(vault, "blobs", pack)
        assert vault.create().manifest.status == "complete"
    assert independent_reader.MISSING not in independent_reader.blob_files(*vault.restore()).values()
    assert vault.verify("restore").ok


@pytest.mark.parametrize("regrow", [True, False], ids=["F2", "F2b"])
@pytest.mark.parametrize("phase", ["storage", "blobs"])
def test_F2_F2b_a_pack_in_the_middle_of_an_increment_is_never_glued_to_the_unpacked_file(
    tmp_path: Path, phase: str, regrow: bool
) -> None:
    with Site(tmp_path / "site") as site:
        site.put(kept="kept", text="x" * 5000)
        vault = Vault(tmp_path, site.files)
        vault.create()
        site.put(text="y" * 5000, blob=noise(1000))
        end = site.files.data_fs.stat().st_size

        def swap() -> None:
            site.put(text="z" * 5000)
            site.pack()
            while regrow and site.files.data_fs.stat().st_size <= end + 1000:
                site.put(more="w" * 3000)
            assert (site.files.data_fs.stat().st_size > end) is regrow

        at_phase(vault, phase, swap)
        assert vault.create().manifest.status == "complete"
        assert Path(f"{site.files.data_fs}.old").read_bytes().startswith(vault.restore().data_fs.read_bytes())
        assert vault.verify("records").ok
        for _ in range(2):
            vault.create()
            vault.assert_restores(site.files)
        assert vault.verify("restore").ok


@pytest.mark.parametrize("when", ["storage", "blobs"])
def test_F4_what_an_interrupted_run_left_is_no_backup_although_nothing_changed(
    vault: Vault, files: SiteFiles, when: str
) -> None:
    vault.create()

    def die() -> None:
        raise KeyboardInterrupt

    more(files)
    at_phase(vault, when, die)
    with pytest.raises(KeyboardInterrupt):
        vault.create()
    assert len(vault.ids) == 1
    created = vault.create()
    assert entry_of(created.manifest).blobs_added == 1
    vault.assert_restores(files)


def test_F5_a_file_that_is_there_and_too_short_is_not_taken_for_what_it_should_be(
    vault: Vault, files: SiteFiles
) -> None:
    vault.create()
    truncate(object_path(vault, parts(vault, "blobs")[0]))
    assert command(vault, "verify", "--level", "objects") == 4
    shutil.rmtree(Path(vault.repository.store.location) / "sites")
    vault.create()  # with all of the old objects still there
    vault.assert_restores(files)


def test_F5b_temporary_files_of_commits_may_come_and_go(vault: Vault, files: SiteFiles) -> None:
    temporary = files.blob_dir / "tmp" / "BUShLd"
    temporary.write_bytes(b"uncommitted")
    at_phase(vault, "blobs", temporary.unlink)
    assert vault.create().manifest.status == "complete"
    restored = vault.restore()
    assert not (restored.blob_dir / "tmp" / "BUShLd").exists()
    vault.assert_restores(files)


def test_F6_blobs_are_restored_into_a_directory_of_any_name(
    vault: Vault, files: SiteFiles, tmp_path: Path
) -> None:
    vault.create()
    target = SiteFiles(tmp_path / "other" / "filestorage" / "Zope.fs", tmp_path / "other" / "blobstorage-2")
    target.data_fs.parent.mkdir(parents=True)
    assert command(vault, "restore", "--yes", "--no-safety-backup", files=target) == 0
    assert target.data_fs.read_bytes() == files.data_fs.read_bytes()
    assert independent_reader.blob_files(*target) == independent_reader.blob_files(*files)


def test_F7_a_kill_before_the_last_write_leaves_no_partly_known_data(
    vault: Vault, files: SiteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.create()
    more(files, 1)
    with monkeypatch.context() as patch:

        def die(*_arguments: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("zodb_vault.repository.repository.Repository.commit", die)
        with pytest.raises(KeyboardInterrupt):
            vault.create()
    more(files, 2)
    for _ in range(2):
        vault.create()
        vault.assert_restores(files)
        assert vault.verify("restore").ok
        more(files, 3)


@pytest.mark.parametrize("half", ["storage", "blobs"])
def test_F8_a_damaged_full_backup_under_an_increment_is_found_by_restore_and_verify(
    vault: Vault, files: SiteFiles, half: str
) -> None:
    vault.create()
    damaged = object_path(vault, parts(vault, half)[0])
    truncate(damaged)
    more(files)
    vault.create()
    with pytest.raises(Damage):
        vault.restore()
    assert command(vault, "restore", "--yes", "--output", str(vault.directory / "out"), source=False) == 4
    assert not (vault.directory / "out" / "Data.fs").exists()
    assert command(vault, "verify") == 4


@pytest.mark.parametrize(
    "date",
    ["yesterday", "2026/03/02", "2026-13-45", "2026-3-2", "2026-03-01-12", "", "now", "2026-02-30", "12:00"],
)
def test_F9_a_malformed_date_is_refused(vault: Vault, files: SiteFiles, date: str) -> None:
    vault.create()
    output = vault.directory / "out"
    assert command(vault, "restore", "--at", date, "--output", str(output), "--yes", source=False) == 2
    assert not output.exists()


def test_F9_what_was_understood_is_said_and_exact(
    vault: Vault, files: SiteFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.create()
    header = independent_reader.headers(files.data_fs)[-2]
    moment = site_factory.time_of(header.tid)
    for at, tid in ((moment, header.tid), (moment + timedelta(seconds=59), header.tid)):
        output = vault.directory / f"out-{at.second}"
        assert (
            command(vault, "restore", "--at", at.isoformat(), "--output", str(output), "--yes", source=False)
            == 0
        )
        assert moment.strftime("%Y-%m-%d") in capsys.readouterr().err
        assert independent_reader.headers(output / "Data.fs")[-1].tid == tid


@pytest.mark.parametrize(
    "arguments",
    [["2099-13-45"], ["2099-01"], ["--at", "2099-13-45"], ["--at", "--dry-run"], ["--dry-run", "--at"]],
)
def test_F9b_nonsense_is_a_usage_error_or_an_unknown_backup(
    vault: Vault, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    vault.create()
    assert command(vault, "restore", *arguments, "--yes") in (2, 13)
    assert "internal error" not in capsys.readouterr().err


def test_F9c_a_date_means_one_time_for_storage_and_blobs(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        site.put(text="one", blob=noise(100, 1))
        vault.create()
        before = snapshot(site.files)
    with Site(tmp_path / "site") as site:
        site.put(text="two", blob=noise(100, 2))
    vault.create()
    day = START.date().isoformat()
    output = tmp_path / "out"
    status = command(vault, "restore", "--at", day, "--output", str(output), "--yes", source=False)
    assert status in (2, 13)  # a day is no point in time, and at its start there was nothing
    assert not output.exists()
    assert snapshot(site.files) != before
    at = (START + MINUTE).isoformat()
    assert command(vault, "restore", "--at", at, "--output", str(output), "--yes", source=False) == 0
    restored = SiteFiles(output / "Data.fs", output / "blobs")
    assert independent_reader.MISSING not in independent_reader.blob_files(*restored).values()


def test_F10_the_order_is_that_of_the_ids_and_never_of_modification_times(
    vault: Vault, files: SiteFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        more(files, number)
        vault.create()
    for age, path in enumerate(sorted(Path(vault.repository.store.location).rglob("*.json"))):
        os.utime(path, (1_000_000 * (10 - age),) * 2)
    assert command(vault, "list", "--json", source=False) == 0
    assert [backup["id"] for backup in answer(capsys)["backups"]] == vault.ids[::-1]
    vault.assert_restores(files)
    more(files, 9)
    assert vault.create().manifest.parent == vault.ids[-2]


@pytest.mark.parametrize("half", ["storage", "blobs"])
def test_F11_old_file_is_whole_when_the_repository_is_damaged(
    vault: Vault, files: SiteFiles, half: str
) -> None:
    vault.create()
    truncate(object_path(vault, parts(vault, half)[-1]))
    more(files)
    if half == "blobs":
        shutil.rmtree(files.blob_dir)
        files.blob_dir.mkdir()
        (files.blob_dir / ".layout").write_text("bushy")
    before = snapshot(files)
    assert command(vault, "restore", vault.ids[0], "--yes", "--no-safety-backup") == 4
    after = snapshot(files)
    assert {name: data for name, data in after.items() if name in before} == before
    assert not [
        name
        for name in set(after) - set(before)
        if name.endswith(".blob") and ".zodb-vault" not in name and half == "storage"
    ]
    Site(files.data_fs.parent).close()


def test_F12_two_runs_at_once_do_not_disturb_each_other(vault: Vault, files: SiteFiles) -> None:
    outcomes: list[int] = []
    at_phase(vault, "storage", lambda: outcomes.append(command(vault, "create")))
    vault.create()
    assert outcomes == [11]
    vault.assert_restores(files)


def test_F13_an_old_index_does_not_survive_a_restore(vault: Vault, files: SiteFiles) -> None:
    vault.create()
    with Site(files.data_fs.parent) as site:
        for number in range(20):
            site.put(**{f"new{number}": "text"})
    index = Path(f"{files.data_fs}.index")
    stale = index.read_bytes()
    assert command(vault, "restore", "--yes", "--no-safety-backup") == 0
    assert not index.exists() or index.read_bytes() != stale
    if index.exists():
        assert fsIndex.load(str(index))["pos"] == files.data_fs.stat().st_size


def test_F14_two_backups_in_one_second_are_in_order(
    vault: Vault, files: SiteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime(2026, 6, 1, tzinfo=UTC)
    monkeypatch.setattr(clock, "now", lambda: moment)
    made = [vault.create().manifest.id]
    for number in range(3):
        more(files, number)
        made.append(vault.create().manifest.id)
    assert made == sorted(made) == vault.ids
    assert len({one.split("-")[0] for one in made}) == 4
    vault.assert_restores(files)


@pytest.mark.parametrize(
    "name", ["with a blank", "two  'quotes\"", "new\nline", "Ünï-日本", "$HOME;x", "-dash"]
)
def test_F15_any_path_will_do(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    files = site_factory.populate(directory / name)
    vault = Vault(directory, files)
    for number in range(2):
        assert command(vault, "create") == 0
        more(files, number)
    assert command(vault, "create") == 0
    assert command(vault, "verify", "--level", "restore") == 0
    vault.assert_restores(files)


@pytest.mark.parametrize("phase", ["storage", "blobs"])
def test_F16_a_commit_while_blobs_are_copied_is_in_the_next_backup_whole(tmp_path: Path, phase: str) -> None:
    with Site(tmp_path / "site") as site:
        site.put(text="one", blob=noise(100, 1))
        vault = Vault(tmp_path, site.files)
        at_phase(vault, phase, lambda: site.put(text="two", blob=noise(100, 2), other=noise(100, 3)))
        assert vault.create().manifest.status == "complete"
        assert independent_reader.MISSING not in independent_reader.blob_files(*vault.restore()).values()
        vault.create()
    vault.assert_restores(site.files)


# Historical


@pytest.mark.parametrize("tail", site_factory.TAILS)
def test_F17_a_transaction_that_is_being_written_is_not_in_the_backup(
    vault: Vault, files: SiteFiles, tail: str
) -> None:
    whole = files.data_fs.read_bytes()
    site_factory.tear(files.data_fs, tail)
    vault.create()
    restored = vault.restore()
    assert restored.data_fs.read_bytes() == whole
    with Site(restored.data_fs.parent) as site:
        site.put(after="after")
    assert len(independent_reader.transactions(*restored)) == len(
        independent_reader.headers(restored.data_fs)
    )


def test_F19_storage_and_blobs_of_one_backup_belong_together(
    vault: Vault, files: SiteFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.create()
    more(files)
    half = vault.create(only="storage").manifest
    assert command(vault, "show", "latest", "--json", source=False) == 0
    assert answer(capsys)["manifest"]["id"] == vault.ids[0]
    with pytest.raises(VaultError):
        vault.restore(half.id)


def test_F29_stray_files_are_never_taken_for_data(
    vault: Vault, files: SiteFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.create()
    root = Path(vault.repository.store.location)
    newest = root / "sites" / SITE / "backups"
    for name in (
        "README.txt",
        ".DS_Store",
        "99991231T235959Z-ffffff.json.bak",
        "99991231T235959Z-ffffff.json~",
    ):
        (newest / name).write_bytes((newest / f"{vault.ids[0]}.json").read_bytes())
    for directory in (root / "objects", root / "meta", root):
        (directory / "stray").write_bytes(b"stray")
    assert command(vault, "list", "--json", source=False) == 0
    assert len(answer(capsys)["backups"]) == 1
    more(files)
    vault.create()
    vault.assert_restores(files)
    assert command(vault, "verify", "--level", "bytes", source=False) == 0


def test_F30_a_time_before_the_newest_full_backup_is_found_in_an_older_one(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        tids = [site.put(kept="kept", blob=noise(100, 1))]
        vault.create()
        tids.append(site.put(blob=noise(100, 2)))
        vault.create()
        old = shutil.copytree(site.files.data_fs.parent, tmp_path / "old")
        site.put(blob=noise(100, 3))
        site.pack()
        assert vault.create().manifest.how == "full"
    for tid in tids:
        vault.assert_restores(SiteFiles(old / "Data.fs", old / "blobs"), tid=tid)


@pytest.mark.parametrize("number", range(6))
def test_F33_a_killed_backup_leaves_no_partial_file_with_a_final_name(
    vault: Vault, files: SiteFiles, number: int
) -> None:
    code = f"""
import os, signal, sys
from zodb_vault.runtime import durable
left = {number}
sync = os.fsync
def fsync(fd):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(fd)
os.fsync = fsync
from zodb_vault.cli.main import run
sys.exit(run(sys.argv[1:]))
"""
    where = [
        "--repository",
        vault.repository.store.location,
        "--data-fs",
        str(files.data_fs),
        "--blob-dir",
        str(files.blob_dir),
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, "create", *where, "--site", SITE], check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL
    root = Path(vault.repository.store.location)
    for path in (*(root / "objects").rglob("*"), *(root / "meta").rglob("*")):
        assert (
            path.is_dir()
            or path.name.startswith(".")
            or hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        )
    assert vault.ids == []
    assert vault.create().manifest.status == "complete"
    vault.assert_restores(files)


def test_F34_no_full_backup_is_made_where_an_increment_will_do(vault: Vault, files: SiteFiles) -> None:
    kinds = [vault.create().manifest.how]
    for number in range(3):
        more(files, number)
        kinds += [vault.create().manifest.how, vault.create().manifest.how]
    assert kinds == ["full"] + 6 * ["incremental"]


@pytest.mark.parametrize("level", ["bytes", "records", "restore"])
def test_F35_verify_reports_damage_by_its_exit_status(vault: Vault, level: str) -> None:
    vault.create()
    assert command(vault, "verify", "--level", level, source=False) == 0
    damaged = object_path(vault, parts(vault, "storage")[0])
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.chmod(0o600)
    damaged.write_bytes(data)
    assert command(vault, "verify", "--level", level, source=False) == 4


@pytest.mark.parametrize("level", ["objects", "bytes", "records", "restore"])
@pytest.mark.parametrize(
    "name", ["populate", "lawn", "undone_into_packed", "without_transactions", "big_transaction"]
)
def test_F36_every_level_of_verify_works_on_every_kind_of_backup(
    tmp_path: Path, name: str, level: str
) -> None:
    files = {**site_factory.BUILDERS, **site_factory.UNUSUAL}[name](tmp_path / "site")
    vault = Vault(tmp_path, files)
    for number in range(2):
        vault.create()
        assert command(vault, "verify", "--level", level, source=False) == 0
        more(files, number)


def test_F39_a_backup_of_nothing_is_a_clear_usage_error(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(vault, "create", source=False) == 2
    assert "--data-fs" in capsys.readouterr().err


def test_F40_a_repository_may_be_moved(vault: Vault, files: SiteFiles, tmp_path: Path) -> None:
    vault.create()
    (tmp_path / "repository").rename(tmp_path / "moved")
    moved = ["--repository", str(tmp_path / "moved"), "--site", SITE]
    source = ["--data-fs", str(files.data_fs), "--blob-dir", str(files.blob_dir)]
    assert run(["verify", *moved]) == 0
    more(files)
    assert run(["create", *moved, *source]) == 0
    assert run(["restore", *moved, "--output", str(tmp_path / "out"), "--yes"]) == 0
    assert (tmp_path / "out" / "Data.fs").read_bytes() == files.data_fs.read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "undone_blob_change",
        "undone_undo",
        "uncreated",
        "recreated",
        "undone_into_packed",
        "twice_in_one_transaction",
    ],
)
def test_F41_undo_records_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    files = site_factory.BUILDERS[name](tmp_path / "site")
    vault = Vault(tmp_path, files)
    vault.create()
    vault.assert_restores(files)
    for tid in independent_reader.valid_tids(files.data_fs)[-3:-1]:
        vault.assert_restores(files, tid=tid)
    assert independent_reader.transactions(*vault.restore()) == independent_reader.transactions(*files)


@pytest.mark.parametrize(
    "arguments", [["--tid", "0x0000000000000001"], ["--at", "2001-01-01T00:00Z"], ["20010101T000000Z-000000"]]
)
def test_F42_nothing_at_all_is_restored_when_there_is_no_such_state(
    vault: Vault, files: SiteFiles, arguments: list[str]
) -> None:
    vault.create()
    more(files)
    before = snapshot(files)
    assert command(vault, "restore", *arguments, "--yes", "--no-safety-backup") == 13
    assert snapshot(files) == before


@pytest.mark.parametrize("half", ["storage", "blobs"])
def test_F43_a_missing_component_is_found_before_the_other_one_is_replaced(
    vault: Vault, files: SiteFiles, half: str
) -> None:
    vault.create()
    object_path(vault, parts(vault, half)[0]).unlink()
    shutil.rmtree(files.blob_dir)
    files.blob_dir.mkdir()
    (files.blob_dir / ".layout").write_text("bushy")
    before = files.data_fs.read_bytes()
    assert command(vault, "restore", "--yes", "--no-safety-backup") == 4
    assert files.data_fs.read_bytes() == before


def test_F44_a_time_before_a_pack_gets_the_blobs_of_that_time(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        vault = Vault(tmp_path, site.files)
        tid = site.put(kept="kept", blob=noise(100, 1))
        vault.create()
        old = shutil.copytree(site.files.data_fs.parent, tmp_path / "old")
        site.put(blob=noise(100, 2))
        site.pack()
        vault.create()
    output = tmp_path / "out"
    at = (site_factory.time_of(tid) + timedelta(seconds=30)).isoformat()
    assert command(vault, "restore", "--at", at, "--output", str(output), "--yes", source=False) == 0
    assert independent_reader.blob_files(
        output / "Data.fs", output / "blobs"
    ) == independent_reader.blob_files(old / "Data.fs", old / "blobs")


def test_F48_a_slash_at_the_end_of_a_path_changes_nothing(vault: Vault, files: SiteFiles) -> None:
    where = ["--repository", vault.repository.store.location + "/", "--site", SITE]
    for _ in range(2):
        assert (
            run(["create", *where, "--data-fs", str(files.data_fs), "--blob-dir", f"{files.blob_dir}//"]) == 0
        )
    assert vault.newest.reason.code == "unchanged"
    vault.assert_restores(files)


def test_F50_every_database_of_a_site_is_in_the_backup(tmp_path: Path) -> None:
    sections = []
    for name in ("main", "catalog"):
        files = (
            site_factory.populate(tmp_path / name) if name == "main" else site_factory.packed(tmp_path / name)
        )
        storage = (
            f"<blobstorage>\nblob-dir {files.blob_dir}\n<filestorage>\npath {files.data_fs}\n"
            "</filestorage>\n</blobstorage>"
        )
        sections.append(
            f"<zodb_db {name}>\nmount-point /{'' if name == 'main' else name}\n{storage}\n</zodb_db>\n"
        )
    conf = tmp_path / "zope.conf"
    conf.write_text(f"%define INSTANCE {tmp_path}\ninstancehome $INSTANCE\n" + "".join(sections))
    where = ["--repository", str(tmp_path / "repository"), "--site", SITE]
    assert run(["--repository", str(tmp_path / "repository"), "repository", "init"]) == 0
    assert run(["create", *where, "--zope-conf", str(conf)]) == 0
    assert run(["restore", *where, "--output", str(tmp_path / "out"), "--yes"]) == 0
    for name in ("main", "catalog"):
        restored = SiteFiles(tmp_path / "out" / name / "Data.fs", tmp_path / "out" / name / "blobs")
        source = SiteFiles(tmp_path / name / "Data.fs", tmp_path / name / "blobs")
        assert restored.data_fs.read_bytes() == source.data_fs.read_bytes()
        assert independent_reader.blob_files(*restored) == independent_reader.blob_files(*source)


def test_F51_the_working_directory_does_not_matter(
    vault: Vault, files: SiteFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files.data_fs.parent)
    where = ["--repository", "../repository", "--site", SITE]
    assert run(["create", *where, "--data-fs", "Data.fs", "--blob-dir", "./blobs"]) == 0
    assert vault.newest.source.paths == [str(files.data_fs)]
    monkeypatch.chdir("/")
    assert command(vault, "create") == 0
    assert vault.newest.reason.code == "unchanged"


def test_F52_directories_that_a_restore_needs_are_made(
    vault: Vault, files: SiteFiles, tmp_path: Path
) -> None:
    vault.create()
    output = tmp_path / "not" / "there" / "yet"
    assert command(vault, "restore", "--output", str(output), "--yes", source=False) == 0
    assert (output / "Data.fs").read_bytes() == files.data_fs.read_bytes()


@pytest.mark.parametrize("where", ["blobs", "blobs/backup", "."])
def test_F54_a_repository_in_the_blob_directory_or_around_it_is_refused(tmp_path: Path, where: str) -> None:
    files = site_factory.populate(tmp_path / "site")
    root = files.data_fs.parent / where
    if where == "blobs":
        shutil.move(files.blob_dir, tmp_path / "blobs")
        files = SiteFiles(files.data_fs, files.blob_dir)
    if where == ".":
        root = tmp_path / "around"
    assert run(["--repository", str(root), "repository", "init"]) == 0
    if where == ".":
        shutil.move(files.blob_dir, root / "blobs")
        files = SiteFiles(files.data_fs, root / "blobs")
    assert (
        run(
            [
                "create",
                "--repository",
                str(root),
                "--data-fs",
                str(files.data_fs),
                "--blob-dir",
                str(files.blob_dir),
            ]
        )
        == 2
    )


def test_F55_the_order_of_directory_entries_does_not_matter(
    vault: Vault, files: SiteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        more(files, number)
        vault.create()
    expected, scandir = vault.ids, os.scandir

    class Shuffled:
        """What ``os.scandir`` gives, backwards."""

        def __init__(self, path: Any) -> None:
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> Any:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> Any:
            return iter(self.entries)

    with monkeypatch.context() as patch:
        patch.setattr("zodb_vault.stores.local.os.scandir", Shuffled)
        assert vault.ids == expected
        assert vault.create().manifest.parent == expected[-1]


def test_F56_a_live_site_is_not_overwritten_without_a_yes(
    vault: Vault, files: SiteFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.create()
    more(files)
    before = snapshot(files)
    assert command(vault, "restore") == 2
    assert "--yes" in capsys.readouterr().err
    assert snapshot(files) == before
    with Site(files.data_fs.parent):  # and not at all while it is in use
        assert command(vault, "restore", "--yes", "--no-safety-backup") == 11
    assert files.data_fs.read_bytes() == before[str(files.data_fs)]


def test_F58_a_repository_that_may_not_be_written_is_an_error_that_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not even root can create a directory in /sys."""
    assert run(["--repository", "/sys/zodb-vault", "repository", "init"]) == 1
    said = capsys.readouterr().err
    assert "/sys/zodb-vault" in said
    assert "internal error" not in said


def test_F59_backup_and_site_share_no_file(vault: Vault, files: SiteFiles) -> None:
    vault.create()
    restored = vault.restore()
    live = {path.stat().st_ino for path in files.data_fs.parent.rglob("*") if path.is_file()}
    for root in (Path(vault.repository.store.location), restored.data_fs.parent):
        assert not live & {path.stat().st_ino for path in root.rglob("*") if path.is_file()}
    assert {path.stat().st_nlink for path in blob_paths(files)} <= {
        1,
        2,
    }  # 2: a pack links to its .old, we never do


def test_F60_a_blob_with_another_content_and_the_same_length_and_time_is_exchanged(
    vault: Vault, files: SiteFiles
) -> None:
    vault.create()
    expected = independent_reader.blob_files(*files)
    victim = next(path for path in blob_paths(files) if path.stat().st_size)
    before, data = victim.stat(), bytearray(victim.read_bytes())
    data[0] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(data)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert independent_reader.blob_files(*files) != expected
    assert command(vault, "restore", "--yes", "--no-safety-backup") == 0
    assert independent_reader.blob_files(*files) == expected


@pytest.mark.skipif(not ROOT, reason="needs to give files to another user")
def test_F61_restored_files_keep_their_owners_and_modes(vault: Vault, files: SiteFiles) -> None:
    vault.create()
    shutil.rmtree(next(path for path in files.blob_dir.iterdir() if path.is_dir() and path.name != "tmp"))
    for path in (files.data_fs.parent, *files.data_fs.parent.rglob("*")):
        os.chown(path, 12345, 23456)
    files.data_fs.chmod(0o640)
    assert command(vault, "restore", "--yes", "--no-safety-backup") == 0
    owners = {
        path: (path.stat().st_uid, path.stat().st_gid)
        for path in files.data_fs.parent.rglob("*")
        if ".restored-" not in path.name
    }
    assert {path for path, owner in owners.items() if owner != (12345, 23456)} == set()
    assert files.data_fs.stat().st_mode & 0o777 == 0o640
    assert {path.stat().st_mode & 0o777 for path in blob_paths(files)} == {0o444}
    assert independent_reader.MISSING not in independent_reader.blob_files(*files).values()
