"""``zodb-vault doctor`` finds each obstacle to backups and restores by itself, and leaves no files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import site_factory
from command_line import (
    Outcome,
    Vault,
    flip,
    give_to_nobody,
    keys_of,
    process_as_nobody,
    take_from_nobody,
    tree,
    words,
)

from zodb_vault.errors import StoreError
from zodb_vault.model import canonical
from zodb_vault.model.manifest import Marker
from zodb_vault.operations.doctor import packages, repository, space, store_probe
from zodb_vault.repository.markers import marker_key, process_identity
from zodb_vault.runtime import clock
from zodb_vault.stores.base import ListedKey
from zodb_vault.stores.local import LocalStore
from zodb_vault.strategies.filestorage.restore.journal import Journal
from zodb_vault.strategies.filestorage.restore.journal import write as write_journal
from zodb_vault.strategies.pgjsonb import backend as pgjsonb_backend
from zodb_vault.strategies.relstorage import backend as relstorage_backend

SECRET = "hunter2"
RELSTORAGE = f"""%import relstorage
<zodb_db main>
mount-point /
<relstorage>
<postgresql>
dsn dbname=zodb host=localhost password={SECRET}
</postgresql>
</relstorage>
</zodb_db>
"""


def found(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Return the checks by their names, which have to be unique."""
    checks = outcome.document["checks"]
    by_name = {check["name"]: check for check in checks}
    assert len(by_name) == len(checks)
    assert outcome.status == (0 if all(check["ok"] for check in checks) else 1)
    return by_name


def wrong(outcome: Outcome) -> dict[str, str]:
    """Return the messages of what was found wrong."""
    return {name: check["message"] for name, check in found(outcome).items() if not check["ok"]}


def relstorage(vault: Vault) -> list[object]:
    conf = vault.directory / "zope.conf"
    conf.write_text(RELSTORAGE)
    return ["--repository", vault.repository, "--zope-conf", conf, "doctor", "--json"]


def test_a_site_in_order_has_no_findings_and_nothing_is_changed(vault: Vault) -> None:
    for _ in ("empty", "with a backup"):
        before = tree(vault.directory)
        outcome = vault.done("doctor", "--json")
        assert tree(vault.directory) == before
        assert keys_of(outcome.document) == ["checks"]
        assert {tuple(keys_of(check)) for check in outcome.document["checks"]} == {
            tuple(words("name ok message hint"))
        }
        assert wrong(outcome) == {}
        assert all(check["hint"] is None for check in outcome.document["checks"])
        vault.make()
    assert set(found(outcome)) == {
        "configuration",
        "site",
        "package ZODB",
        "package ZConfig",
        "package click",
        "package rich",
        "package msgspec",
        "package zstandard",
        "source main",
        "blobs main",
        "restore main",
        "space main",
        "create",
        "repository",
        "repository location",
        "site in the repository",
        "repository access",
        "newest backup",
        "damage",
        "space repository",
        "clock",
        "locks",
    }


def test_text_has_a_line_for_each_check_and_when_quiet_only_findings_with_what_to_do(vault: Vault) -> None:
    printed = vault.done("doctor").out
    assert all(line.startswith("ok ") for line in printed.splitlines())
    assert "repository access: writing, reading, listing and deleting work" in printed
    quiet = vault.done("doctor", "-q")
    assert (quiet.out, quiet.err) == ("", "")
    vault.files.data_fs.unlink()
    quiet = vault("doctor", "-q")
    assert quiet.status == 1
    findings = quiet.out.splitlines()
    assert findings[0] == f"FAILED  source main: {vault.files.data_fs} does not exist"
    assert findings[1].startswith("        -> ")
    assert not [line for line in findings if line.startswith("ok")]
    assert findings[0] in vault("doctor").out.splitlines()


def test_every_check_runs_whatever_the_others_find(vault: Vault) -> None:
    checks = found(vault.bare("doctor", "--json"))
    assert "no site is given or configured" in checks["site"]["message"]
    assert "no location of the repository is configured" in checks["repository"]["message"]
    assert {name for name, check in checks.items() if not check["ok"]} == {"site", "repository"}
    assert checks["package ZODB"]["ok"]
    assert "not checked because of that: packages of the site, tools" in checks["site"]["message"]
    named = checks["repository"]["message"].partition("not checked because of that: ")[2].split(", ")
    assert {"repository access", "clock", "locks"} <= set(named)

    without_site = found(
        vault.bare("--repository", vault.repository, "--zope-conf", "nowhere.conf", "doctor", "--json")
    )
    assert not without_site["site"]["ok"]
    assert all(
        without_site[name]["ok"]
        for name in ("repository", "repository access", "newest backup", "clock", "locks")
    )
    without_repository = found(vault.bare(*vault.options[2:], "--repository", "nowhere", "doctor", "--json"))
    assert all(without_repository[name]["ok"] for name in ("site", "source main", "blobs main", "space main"))
    assert "repository init" in without_repository["repository"]["hint"]
    assert not Path("nowhere").exists()

    broken = found(vault.bare("--config", "nowhere.toml", *vault.options, "doctor", "--json"))
    assert "nowhere.toml cannot be read" in broken["configuration"]["message"]
    assert broken["package ZODB"]["ok"]
    assert [name for name, check in broken.items() if not check["ok"]] == ["configuration"]


def test_a_mistake_of_ours_in_one_check_is_a_finding_without_the_values_it_holds(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(repository, "refuse_overlap", fail)
    outcome = vault("doctor", "--json")
    assert wrong(outcome) == {"repository location": "the check failed: RuntimeError"}
    assert SECRET not in outcome.out + outcome.err


def test_no_secret_is_shown(vault: Vault) -> None:
    arguments = relstorage(vault)
    for more in ([], ["-v"]):
        for command in (arguments, arguments[:-1]):
            outcome = vault.bare(*command, *more)
            assert outcome.status == 1
            assert SECRET not in outcome.out + outcome.err


# Packages and tools


def test_packages_are_asked_for_only_where_the_site_needs_them(vault: Vault) -> None:
    assert not {"package RelStorage", "package psycopg2-binary", "tool pg_dump"} & set(
        found(vault("doctor", "--json"))
    )
    native = set(found(vault.bare(*relstorage(vault))))
    assert {"package psycopg2-binary", "tool pg_dump", "tool pg_restore", "proof main"} <= native
    assert "package RelStorage" not in native
    portable = set(found(vault.bare(*relstorage(vault), "--method", "portable")))
    assert {"package RelStorage", "package psycopg2-binary"} <= portable
    assert not {"tool pg_dump", "proof main"} & portable
    conf = vault.directory / "s3.conf"
    conf.write_text(
        "<zodb_db main>\nmount-point /\n<s3blobstorage>\nbucket-name b\ncache-dir c\n<zlibstorage>\n"
        "<filestorage>\npath Data.fs\n</filestorage>\n"
        "</zlibstorage>\n</s3blobstorage>\n</zodb_db>\n<zodb_db zeo>\nmount-point /z\n<zeoclient>\n"
        "server localhost:1\n</zeoclient>\n</zodb_db>\n"
        f"<zodb_db pg>\nmount-point /p\n<pgjsonb>\ndsn password={SECRET}\n</pgjsonb>\n</zodb_db>\n"
    )
    checks = found(vault.bare("--repository", vault.repository, "--zope-conf", conf, "doctor", "--json"))
    others = {"package zodb-s3blobs", "package zc.zlibstorage", "package ZEO", "package zodb-pgjsonb"}
    assert {"package boto3", "package psycopg2-binary"} <= set(checks)
    assert not others & set(checks)
    options = ("--repository", vault.repository, "--zope-conf", conf, "doctor", "--json")
    portable = set(found(vault.bare(*options, "--method", "portable")))
    assert {"package zodb-s3blobs", "package ZEO"} <= portable
    assert not {"package zc.zlibstorage", "package zodb-pgjsonb"} & portable
    toml = vault.directory / "zodb-vault.toml"
    toml.write_text('[repository.encryption]\nrecipients = ["age1x"]\n')
    assert "package pyrage" in found(vault("--config", toml, "doctor", "--json"))


def installed(directory: Path, version: str, module: str = "") -> None:
    """Install a package of this version as pip does."""
    (directory / "psycopg2.py").write_text(module)
    info = directory / f"psycopg2_binary-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: psycopg2-binary\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("version", "module", "message"),
    [
        ("2.9.13", "", None),
        ("10.0.dev1+local5", "", None),
        ("2.7.7", "", "2.7.7, needed is 2.8 or later"),
        ("2.9", "import not_there_at_all", "cannot be imported: ModuleNotFoundError"),
        ("2.9", "raise OSError('libpq.so.5: cannot open shared object file')", "libpq.so.5"),
    ],
)
def test_a_package_that_is_too_old_or_broken_is_a_finding(
    vault: Vault,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    module: str,
    message: str | None,
) -> None:
    installed(tmp_path, version, module)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "psycopg2", raising=False)
    try:
        check = found(vault.bare(*relstorage(vault)))["package psycopg2-binary"]
    finally:
        sys.modules.pop("psycopg2", None)
    assert check["ok"] is (message is None)
    assert (message or version) in check["message"]
    assert message is None or "pip install 'psycopg2-binary>=2.8'" in check["hint"]


def test_a_package_that_is_missing_is_a_finding(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)  # as import itself notes that there is none
    check = found(vault.bare(*relstorage(vault)))["package psycopg2-binary"]
    assert not check["ok"]
    assert "cannot be imported" in check["message"]


def test_a_python_that_is_too_old_for_a_package_is_said_instead_of_a_failing_import(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relstorage_backend, "RELSTORAGE", pgjsonb_backend.PGJSONB._replace(python=(99, 1)))
    check = found(vault.bare(*relstorage(vault), "--method", "portable"))["package zodb-pgjsonb"]
    assert check["message"].startswith("needs Python 99.1, this is 3.")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo pg_dump 15.20", None),
        ("echo no version is installed >&2; exit 1", "no version is installed"),
        ("sleep 60", "did not end within 1 seconds"),
        (None, "is not on PATH"),
        ("", "Exec format error"),
    ],
)
def test_a_tool_is_really_run(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, message: str | None
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("pg_dump", "pg_restore") if script is not None else ():
        (programs / name).write_text(f"#!/bin/sh\nexec 3>&-\n{script}\n" if script else "no program")
        (programs / name).chmod(0o755)
    for name in ("sh", "sleep"):
        (programs / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(packages, "TOOL_SECONDS", 1)
    check = found(vault.bare(*relstorage(vault)))["tool pg_dump"]
    assert check["ok"] is (message is None)
    assert (message or "pg_dump 15.20") in check["message"]


def test_one_of_two_names_of_a_tool_is_enough(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mysqldump").write_text("#!/bin/sh\necho mysqldump 8\n")
    (tmp_path / "mysqldump").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    conf = vault.directory / "zope.conf"
    conf.write_text(RELSTORAGE.replace("postgresql", "mysql").replace("dsn", "db"))
    check = found(vault.bare("--repository", vault.repository, "--zope-conf", conf, "doctor", "--json"))[
        "tool mariadb-dump"
    ]
    assert check["ok"]
    assert "mysqldump 8" in check["message"]


# The site


def test_a_source_that_may_not_be_read_and_a_repository_that_may_not_be_written_to_are_findings(
    reachable: Path, capsys: Any
) -> None:
    vault = Vault(reachable, capsys)
    site_factory.populate(vault.files.data_fs.parent)
    vault.done("repository", "init")
    give_to_nobody(reachable)
    assert wrong(process_as_nobody(*vault.options, "doctor", "--json")) == {}
    (blob, *_) = vault.files.blob_dir.rglob("*.blob")
    for path in (vault.files.data_fs, blob.parent, vault.repository):
        take_from_nobody(path)
    outcome = process_as_nobody(*vault.options, "doctor", "--json")
    findings = wrong(outcome)
    assert "may not be read" in findings["source main"]
    assert "Permission denied" in findings["blobs main"]
    assert "Permission denied" in findings["repository"]
    vault.repository.chmod(0o555)
    before = tree(vault.repository)
    outcome = process_as_nobody(*vault.options, "doctor", "--json")
    assert "Permission denied" in wrong(outcome)["repository access"]
    assert "run as root; to let a group read" in found(outcome)["repository access"]["hint"]
    assert found(outcome)["repository"]["ok"]
    assert tree(vault.repository) == before


def test_a_blob_directory_of_an_unknown_layout_or_none_at_all_is_a_finding(vault: Vault) -> None:
    marker = vault.files.blob_dir / ".layout"
    marker.write_text("shrub")
    assert "unknown layout 'shrub'" in wrong(vault("doctor", "--json"))["blobs main"]
    marker.write_text("zeocache")
    assert "cache" in wrong(vault("doctor", "--json"))["site"]
    shutil.rmtree(vault.files.blob_dir)
    assert "does not exist" in wrong(vault("doctor", "--json"))["blobs main"]
    vault.files.blob_dir.mkdir()
    assert "no blobs" in found(vault("doctor", "--json"))["blobs main"]["message"]
    assert not marker.exists()


def test_a_file_that_is_no_data_fs_is_a_finding(vault: Vault) -> None:
    vault.files.data_fs.write_text("no Data.fs")
    assert str(vault.files.data_fs) in wrong(vault("doctor", "--json"))["source main"]


def test_a_restore_that_did_not_end_is_a_finding(stocked: Vault) -> None:
    data_fs = stocked.files.data_fs
    journal = Journal(
        restore="20260101T000000Z-aaaaaa",
        backup="20260101T000000Z-bbbbbb",
        site="default",
        database="main",
        phase="building",
        end=1,
        last_tid=None,
        only=None,
        data_fs=str(data_fs),
        blob_dir=None,
        building="x",
        replaced=None,
        kept_dir="y",
    )
    write_journal(data_fs, journal)
    check = found(stocked("doctor", "--json"))["source main"]
    assert not check["ok"]
    assert "20260101T000000Z-bbbbbb" in check["message"]
    assert "--abort" in check["hint"]


def test_a_backend_that_cannot_be_backed_up_yet_is_a_finding_and_a_site_without_any_database_too(
    vault: Vault,
) -> None:
    conf = vault.directory / "zope.conf"
    conf.write_text(RELSTORAGE.replace("postgresql", "oracle"))
    outcome = vault.bare("--repository", vault.repository, "--zope-conf", conf, "doctor", "--json")
    assert wrong(outcome)["source main"].startswith("RelStorage on oracle has no dump")
    conf.write_text("<zodb_db main>\nmount-point /\n<mappingstorage/>\n</zodb_db>\n")
    outcome = vault.bare("--repository", vault.repository, "--zope-conf", conf, "doctor", "--json")
    assert list(wrong(outcome)) == ["site"]


# Space


USAGE = shutil.disk_usage("/")


class Usage:
    """File systems that have as many bytes free as is said, by a part of their path."""

    def __init__(self, **free: int) -> None:
        self.free = free

    def __call__(self, path: Path) -> Any:
        free = next(free for part, free in self.free.items() if part in str(path))
        return USAGE._replace(free=free)


def test_space_is_compared_with_what_the_next_backup_and_a_restore_need(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = vault.files.data_fs.stat().st_size
    blobs = sum(path.stat().st_size for path in vault.files.blob_dir.rglob("*.blob"))
    monkeypatch.setattr(space, "readable_size", str)

    def findings(repository: int, site: int) -> set[str]:
        monkeypatch.setattr(space.shutil, "disk_usage", Usage(repository=repository, site=site))
        return set(wrong(vault("doctor", "--json")))

    assert findings(size + blobs, size) == set()
    assert findings(size + blobs - 1, size) == {"space repository"}
    assert findings(size + blobs, size - 1) == {"space main"}

    vault.make()
    assert findings(0, size) == set(), "nothing is new"
    message = found(vault("doctor", "--json"))["space repository"]["message"]
    assert message.endswith("a full backup does not fit")
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(news=site_factory.noise(4000, 7).hex())
    assert findings(0, 10 * size) == {"space repository"}
    assert findings(10 * size, 10 * size) == set()
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.pack()
    vault.files.data_fs.write_bytes(vault.files.data_fs.read_bytes())
    assert findings(10 * size, size // 2) == {"space main"}, (
        "the newest backup is larger than what is there now"
    )


def test_the_count_of_blobs_ends_somewhere(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "MAX_BLOBS_COUNTED", 2)
    assert "at least" in found(vault("doctor", "--json"))["space repository"]["message"]


def test_before_the_restore_of_a_site_the_space_that_it_needs_is_said(stocked: Vault) -> None:
    size = stocked.files.data_fs.stat().st_size
    shutil.rmtree(stocked.files.data_fs.parent)
    checks = found(stocked("doctor", "--json"))
    assert not checks["source main"]["ok"]
    assert checks["space main"]["ok"]
    assert f"a restore in place needs {size / 1000:.1f} kB" in checks["space main"]["message"]


# The repository


def test_a_repository_in_the_blob_directory_is_a_finding(vault: Vault) -> None:
    inside = vault.files.blob_dir / "backups"
    vault.bare("--repository", inside, "repository", "init")
    assert (
        "contains the other"
        in wrong(vault.bare("--repository", inside, *vault.options[2:], "doctor", "--json"))[
            "repository location"
        ]
    )


def test_a_backup_of_the_future_is_a_finding_about_the_clock(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        real = clock.now
        patch.setattr(clock, "now", lambda: real() + timedelta(days=2))
        vault.make()
    check = found(vault("doctor", "--json"))["clock"]
    assert not check["ok"]
    assert "in the future: the clock is wrong, or it was wrong when that backup was made" in check["message"]
    assert "NTP" in check["hint"]
    assert "this finding ends with the next backup" in check["hint"]


def test_a_store_with_another_clock_is_a_finding(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "clock", lambda _self: clock.now() + timedelta(hours=2))
    assert "where the repository is" in wrong(vault("doctor", "--json"))["clock"]


def test_a_newest_backup_that_cannot_be_read_is_a_finding(stocked: Vault) -> None:
    newest = stocked.done("list", "--json").document["backups"][0]["id"]
    flip(stocked.repository / f"sites/default/backups/{newest}.json")
    check = found(stocked("doctor", "--json"))["newest backup"]
    assert not check["ok"]
    assert newest in check["message"]


def marked(vault: Vault, pid: int, process: str, what: str = "create", ended: bool = False) -> None:
    moment = clock.iso(clock.now())
    marker = Marker(
        run="20260101T000000Z-cccccc",
        what=what,
        host="zope1",
        pid=pid,
        process=process,
        started=moment,
        heartbeat=moment,
        uses=[],
        stored=[],
        ended=ended,
    )
    LocalStore(vault.repository).put(marker_key("default", what, marker.run), [canonical.with_digest(marker)])


def test_a_run_in_progress_is_named_and_a_dead_one_is_a_finding(vault: Vault) -> None:
    marked(vault, os.getpid(), process_identity(os.getpid()))
    check = found(vault("doctor", "--json"))["lock create"]
    assert check["ok"]
    assert check["message"].startswith("running: create 20260101T000000Z-cccccc, host zope1, pid ")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    child.communicate(b"\n")
    marked(vault, child.pid, identity, "restore")
    marked(vault, os.getpid(), process_identity(os.getpid()), "verify", ended=True)
    checks = found(vault("doctor", "--json"))
    assert checks["lock create"]["ok"]
    (restore, verify) = (checks[f"lock {what}-20260101T000000Z-cccccc"] for what in ("restore", "verify"))
    assert (restore["ok"], verify["ok"]) == (False, False)
    assert restore["message"].startswith("died, last heartbeat")
    assert f"pid {child.pid}" in restore["message"]
    assert verify["message"].startswith("interrupted")
    flip(vault.repository / "sites/default/running/create.json")
    assert set(wrong(vault("doctor", "--json"))) == {
        "lock create",
        *(f"lock {what}-20260101T000000Z-cccccc" for what in ("restore", "verify")),
    }


# What a repository may do wrong. No real medium does it on demand.


class Bad(LocalStore):
    """A store that does one thing wrong with the probe; ``listed`` counts what was asked of its list."""

    fault = ""
    listed = 0

    def stage(self) -> Any:
        return BadStaging(self, super().stage())

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        if self.fault == "overwrites":
            self.delete(key)
        return super().put(key, chunks)

    def get(self, key: str) -> bytes:
        data = super().get(key)
        return data[:-1] + b"?" if self.fault == "reads differently" and key.startswith("_") else data

    def list(self, prefix: str) -> Iterator[ListedKey]:
        for entry in super().list(prefix):
            type(self).listed += not prefix
            if not (self.fault == "does not list" and entry.key.startswith("_")):
                yield entry

    def delete(self, key: str, expected: bytes | None = None) -> None:
        if self.fault == "ignores deletes" and key.startswith("_"):
            return
        if self.fault == "refuses deletes" and key.startswith("_"):
            raise StoreError("no deletes here")
        super().delete(key, expected)


class BadStaging:
    """Content that may get lost on its way."""

    def __init__(self, store: Bad, inner: Any) -> None:
        self.outer, self.inner = store, inner

    def write(self, data: bytes) -> None:
        self.inner.write(data)

    def store(self, key: str) -> None:
        if self.outer.fault == "loses writes" and key.startswith("_"):
            return
        self.inner.store(key)
        if self.outer.fault == "is interrupted":
            raise KeyboardInterrupt

    def discard(self) -> None:
        self.inner.discard()


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bad]]:
    """The store that every repository is opened with."""
    from zodb_vault.stores import local

    monkeypatch.setattr(local, "LocalStore", Bad)
    yield Bad
    Bad.fault, Bad.listed = "", 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("", None),
        ("overwrites", "an existing key can be overwritten"),
        ("reads differently", "the store returns other bytes than were written"),
        ("does not list", "the store does not list what was written"),
        ("loses writes", "is not in"),
        ("refuses deletes", "no deletes here"),
        ("ignores deletes", "the store still lists what was deleted"),
    ],
)
def test_a_repository_that_does_not_do_what_it_has_to_is_a_finding_and_keeps_no_probe(
    vault: Vault, bad: type[Bad], fault: str, message: str | None
) -> None:
    before = tree(vault.repository)
    bad.fault = fault
    findings = wrong(vault("doctor", "--json"))
    assert list(findings) == ([] if message is None else ["repository access"])
    assert (message or "") in findings.get("repository access", "")
    left = [path for path in tree(vault.repository) if path not in before]
    if "deletes" in fault:
        assert [path.startswith("_doctor-") for path in left] == [True]
        assert (
            fault != "refuses deletes" or f"{left[0]} could not be removed" in findings["repository access"]
        )
    else:
        assert tree(vault.repository) == before


def test_an_interrupted_check_keeps_no_probe(vault: Vault, bad: type[Bad]) -> None:
    before = tree(vault.repository)
    bad.fault = "is interrupted"
    assert vault("doctor").status == 130
    assert tree(vault.repository) == before


def test_what_a_killed_check_left_is_removed_by_the_next_one_and_what_runs_now_is_not_touched(
    vault: Vault,
) -> None:
    old = clock.now() - timedelta(hours=1)
    store = LocalStore(vault.repository)
    names = [
        f"{store_probe.PROBE_PREFIX}{moment.strftime('%Y%m%dT%H%M%SZ')}-0000000000000000"
        for moment in (old, clock.now())
    ]
    for name in names:
        store.put(name, [b"x"])
    vault.done("doctor")
    assert [entry.key for entry in store.list("") if entry.key.startswith("_")] == names[1:]


def test_the_list_of_a_large_repository_is_not_read_to_its_end(stocked: Vault, bad: type[Bad]) -> None:
    stocked.done("doctor")
    assert 0 < bad.listed <= 12, "RECOVERY.md, the probe, and the first name behind it, each time"
