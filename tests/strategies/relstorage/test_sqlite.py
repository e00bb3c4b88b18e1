"""RelStorage on SQLite: backups of a site that is written to, got back by hand and by restore."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import key_pairs
import pytest
import relstorage_sites
from command_line import environment, flip
from relstorage_sites import RelSite
from relstorage_vault import NOISE, RelVault, by_hand

from zodb_vault.model import chain
from zodb_vault.operations.restore import plan as restoreplan
from zodb_vault.operations.verify import records

EACH = pytest.mark.parametrize(
    ("history", "shared"), [(False, False), (False, True), (True, False), (True, True)]
)
Make = Callable[..., RelVault]


def on(directory: Path) -> str:
    directory.mkdir(exist_ok=True)
    return f"<sqlite3>\n      data-dir {directory}\n    </sqlite3>"


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Make:
    """Make a site with some content."""

    def make(history: bool = True, shared: bool = False) -> RelVault:
        vault = RelVault(
            tmp_path, capsys, RelSite(on(tmp_path / "data"), history, tmp_path / "blobs", shared)
        )
        vault.fill()
        return vault

    return make


def elsewhere(vault: RelVault, directory: Path) -> RelSite:
    """Return the site in a directory."""
    return vault.site._replace(
        adapter=on(directory), blob_dir=directory / "blobs" if vault.site.shared else directory / "cache"
    )


@EACH
def test_a_backup_is_all_there_is(make: Make, tmp_path: Path, history: bool, shared: bool) -> None:
    vault = make(history, shared)
    with vault.site.opened() as opened:  # in use, and not all of it in the file itself
        opened.put(title="in the log of SQLite", logo=NOISE[5])
        made = vault.created()
    assert made["status"] == "complete"
    checked = vault.done("verify", "--level", "restore", "--json").document
    assert checked["damage"] == [] and checked["checked"]["blobs opened"] >= 3
    by_hand(vault.repository, made["id"], tmp_path / "by hand")
    vault.done("restore", "--output", tmp_path / "out", "--yes")
    wanted = relstorage_sites.state(vault.site), relstorage_sites.history(vault.site)
    for name in ("by hand", "out"):
        found = elsewhere(vault, tmp_path / name)
        assert (relstorage_sites.state(found), relstorage_sites.history(found)) == wanted


def test_without_the_right_key_nothing_of_an_encrypted_dump_is_begun(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the manifest holds only the newest parts, with other recipients than the older ones."""
    monkeypatch.setattr(chain, "TAIL_LIMIT", 1)
    monkeypatch.setattr(chain, "TAIL_KEPT", 1)
    (one, old), (two, new) = key_pairs.x25519(tmp_path / "old"), key_pairs.x25519(tmp_path / "new")
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY_ENCRYPTION_RECIPIENTS", one)
    vault = make(True, True)
    vault.created()
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY_ENCRYPTION_RECIPIENTS", two)
    vault.done("repository", "recipients", "set")
    with vault.site.opened() as opened:
        opened.put(logo=NOISE[4])
    vault.created()
    with monkeypatch.context() as patched:
        patched.setattr(records, "backend_of_entry", lambda _entry: pytest.fail("a check has begun"))
        patched.setattr(restoreplan, "choose", lambda *_: pytest.fail("a target was looked at"))
        for identity in ("", str(new)):
            patched.setenv("ZODB_VAULT_IDENTITY_FILE", identity)
            for command in (
                ("verify",),
                ("verify", "--level", "restore"),
                ("restore", "--output", tmp_path / "out", "--yes"),
            ):
                assert vault(*command).status == 12, (identity, command)
    assert not (tmp_path / "out").exists()
    (both := tmp_path / "both").write_text(old.read_text() + new.read_text())
    monkeypatch.setenv("ZODB_VAULT_IDENTITY_FILE", str(both))
    vault.done("verify", "--level", "restore")


def test_oids_that_are_given_after_a_restore_are_new(make: Make, tmp_path: Path) -> None:
    vault, stop = make(), threading.Event()

    def write() -> None:
        with vault.site.opened() as opened:
            number = 0
            while not stop.is_set():
                number += 1
                opened.put(**{f"key-{number}": str(number)})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            vault.created()
    finally:
        stop.set()
        writer.join()
    for backup in vault.backups():
        vault.done("restore", backup, "--output", tmp_path / backup, "--yes")
        site = elsewhere(vault, tmp_path / backup)
        before = relstorage_sites.state(site)
        with site.opened() as opened:
            opened.put(**{f"new-{number}": "new" for number in range(50)})
        assert relstorage_sites.state(site) == before | {f"new-{number}": "new" for number in range(50)}


@EACH
def test_in_place_what_it_replaces_is_kept(make: Make, history: bool, shared: bool) -> None:
    vault = make(history, shared)
    vault.created()
    (first,) = vault.backups()
    wanted = relstorage_sites.state(vault.site)
    with vault.site.opened() as opened:
        opened.put(title="after the backup", photo=None, later=NOISE[6])
    assert vault("restore", first, "--yes", "--json").error["kind"] == "target-refused"
    done = vault.done("restore", first, "--replace", "--yes", "--json").document
    assert relstorage_sites.state(vault.site) == wanted
    assert {Path(path).name.partition(".replaced-")[0] for path in done["kept"]} >= {
        "main.sqlite3",
        "oids.sqlite3",
    }
    assert done["safety_backup"] in vault.backups()


def test_a_database_in_use_is_refused(make: Make) -> None:
    vault = make()
    vault.created()
    imports = "from relstorage_sites import RelSite; import sys; from pathlib import Path\n"
    script = imports + textwrap.dedent(f"""
        site = RelSite({vault.site.adapter!r}, True, Path({str(vault.site.blob_dir)!r}), False)
        with site.opened() as opened:
            print("open", flush=True)
            sys.stdin.read()
    """)
    tests = f"import sys; sys.path.insert(0, {str(Path(relstorage_sites.__file__).parent)!r})\n"
    child = subprocess.Popen(
        [sys.executable, "-c", tests + script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    with child:
        assert child.stdout is not None and child.stdout.readline() == b"open\n"
        refused = vault("restore", "--replace", "--no-safety-backup", "--yes", "--json")
        assert child.stdin is not None
        child.stdin.close()
    assert (refused.status, refused.error["kind"]) == (11, "in-use")


def test_damage_is_found(make: Make) -> None:
    vault = make()
    vault.created()
    flip(max(vault.repository.glob("objects/*/*"), key=lambda path: path.stat().st_size))
    assert vault("verify", "--json").status == 4
    before = relstorage_sites.state(vault.site)
    assert vault("restore", "--replace", "--no-safety-backup", "--yes").status == 4
    assert relstorage_sites.state(vault.site) == before
    assert sorted(
        path.name for path in (vault.directory / "data").iterdir() if "sqlite3-" not in path.name
    ) == ["main.sqlite3", "oids.sqlite3"]


def test_a_file_that_was_damaged_at_the_source_is_found(make: Make) -> None:
    vault = make()
    with closing(sqlite3.connect(vault.directory / "data" / "main.sqlite3")) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET rootpage = 3 WHERE name = 'blob_chunk_lookup'")
        connection.commit()
    done = vault("create", "--json")
    assert done.status == 1 or vault("verify", "--json").status == 4


@pytest.mark.parametrize("history", [True, False])
def test_T23_an_empty_database_in_the_place_of_a_full_one_is_said(make: Make, history: bool) -> None:
    vault = make(history)
    with vault.site.opened() as opened:
        for number in range(40):
            opened.put(**{f"page {number}": NOISE[1]})
    full = vault.created()["id"]
    for path in (vault.directory / "data").iterdir():
        path.unlink()
    with vault.site.opened() as opened:
        opened.put(title="a new site")
    for _night in range(2):
        night = vault("create", "-q")
        assert night.status == 3
        assert full in night.err and "--accept-history" in night.err
    assert vault("restore", "--yes").status == 13
