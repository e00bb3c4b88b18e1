"""Restores of RelStorage into a real PostgreSQL."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import key_pairs
import psycopg2
import pytest
import relstorage_sites
from command_line import environment
from relstorage_sites import RelSite, on
from relstorage_vault import NOISE, RelVault, pg_restore
from services.postgres import PASSWORD, Cluster, Login, execute

EACH = pytest.mark.parametrize(
    ("history", "shared"), [(False, False), (False, True), (True, False), (True, True)]
)
Make = Callable[..., RelVault]


@pytest.fixture
def make(postgres: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Make:
    """Make a site with some content and a backup of it."""

    def make(history: bool = True, shared: bool = False, *options: str) -> RelVault:
        login = postgres.database(postgres.role("zodb", *options))
        vault = RelVault(tmp_path, capsys, RelSite(on(login), history, tmp_path / "blobs", shared))
        vault.login = login
        vault.fill()
        vault.created()
        return vault

    return make


def other(vault: RelVault, login: Login) -> RelSite:
    """Return the site as it is configured elsewhere: another database, another directory."""
    return vault.site._replace(adapter=on(login), blob_dir=vault.directory / "other" / "blobs")


def go_on(vault: RelVault) -> None:
    """Commit what a restore is to take away."""
    with vault.site.opened() as opened:
        opened.put(title="after the backup", logo=NOISE[6], later=NOISE[7], photo=None)


@EACH
def test_into_an_empty_database_of_another_name_and_owner(
    make: Make, postgres: Cluster, history: bool, shared: bool
) -> None:
    vault = make(history, shared)
    elsewhere = other(vault, postgres.database())
    conf = elsewhere.write_conf(vault.directory / "other.conf")
    printed = vault.done("restore", "--target", conf, "--yes")
    assert "restart every process" in printed.err
    assert relstorage_sites.state(elsewhere) == relstorage_sites.state(vault.site)
    assert relstorage_sites.history(elsewhere) == relstorage_sites.history(vault.site)
    with elsewhere.opened() as opened:
        before = len(opened.root)
        opened.put(**{f"key-{number}": "new" for number in range(40)}, blob=NOISE[4])
        assert len(opened.root) == before + 41
        opened.pack()
    assert relstorage_sites.state(elsewhere)["key-39"] == "new"


@EACH
def test_in_place_the_old_database_is_kept(
    make: Make, postgres: Cluster, history: bool, shared: bool
) -> None:
    vault = make(history, shared, "CREATEDB")
    wanted = relstorage_sites.state(vault.site)
    (first,) = vault.backups()
    go_on(vault)
    vault.created()
    lost = relstorage_sites.state(vault.site)
    refused = vault("restore", first, "--yes", "--json")
    assert (refused.status, refused.error["kind"]) == (1, "target-refused") and "--replace" in refused.error[
        "hint"
    ]
    done = vault.done("restore", first, "--replace", "--yes", "--json").document
    assert relstorage_sites.state(vault.site) == wanted
    (kept,) = [one.removeprefix("the database ") for one in done["kept"] if one.startswith("the database ")]
    old = vault.site._replace(adapter=on(vault.login._replace(name=kept)))
    assert relstorage_sites.state(old) == lost
    safety = next(
        row for row in vault.done("list", "--json").document["backups"] if row["id"] == done["safety_backup"]
    )
    assert (safety["trigger"], safety["status"]) == ("safety", "complete")
    go_on(vault)
    assert vault.created()["reason"]["code"] == "diverged"


def test_over_what_is_there_where_no_database_may_be_created(make: Make, postgres: Cluster) -> None:
    vault = make()
    wanted = relstorage_sites.state(vault.site), relstorage_sites.history(vault.site)
    go_on(vault)
    before = postgres.names()
    printed = vault.done("restore", "--replace", "--yes")
    assert "over it, in one transaction" in printed.err
    assert (relstorage_sites.state(vault.site), relstorage_sites.history(vault.site)) == wanted
    assert postgres.names() == before


def test_as_a_superuser_everything_belongs_to_the_owner_of_the_database(
    make: Make, postgres: Cluster
) -> None:
    vault = make(shared=False)
    login = postgres.database()
    admin = other(vault, postgres.login(login.name))
    vault.done("restore", "--target", admin.write_conf(vault.directory / "other.conf"), "--yes")
    assert relstorage_sites.state(other(vault, login)) == relstorage_sites.state(vault.site)


def test_another_role_can_be_the_owner(make: Make, postgres: Cluster) -> None:
    vault = make(shared=False)
    login = postgres.database()
    role, admin = postgres.role(), other(vault, postgres.login(login.name))
    execute(postgres.login(login.name), f"GRANT ALL ON SCHEMA public TO {role}")
    vault.done(
        "restore", "--target", admin.write_conf(vault.directory / "other.conf"), "--role", role, "--yes"
    )
    assert relstorage_sites.state(
        other(vault, Login(login.host, login.name, role, PASSWORD))
    ) == relstorage_sites.state(vault.site)


def test_a_database_in_use_is_refused_and_its_sessions_are_named(make: Make) -> None:
    vault = make(True, False, "CREATEDB")
    with contextlib.closing(psycopg2.connect(f"{vault.login.dsn} application_name=instance1")):
        refused = vault("restore", "--replace", "--yes", "--json")
    assert (refused.status, refused.error["kind"]) == (11, "in-use")
    assert "instance1 from a local socket, since 2" in refused.error["message"]


def test_damage_is_found_before_anything_is_valid(make: Make, postgres: Cluster) -> None:
    from command_line import flip

    vault = make(True, False, "CREATEDB")
    go_on(vault)
    before, names = relstorage_sites.state(vault.site), postgres.names()
    flip(max(vault.repository.glob("objects/*/*"), key=lambda path: path.stat().st_size))
    done = vault("restore", "--replace", "--no-safety-backup", "--yes", "--json")
    assert (done.status, done.error["kind"]) == (4, "damage")
    assert (relstorage_sites.state(vault.site), postgres.names()) == (before, names)
    empty = postgres.database()
    assert (
        vault(
            "restore", "--target", other(vault, empty).write_conf(vault.directory / "o.conf"), "--yes"
        ).status
        == 4
    )
    assert execute(empty, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


@pytest.mark.parametrize("shared", [False, True])
def test_into_a_directory_as_files_that_other_programs_take(
    make: Make, postgres: Cluster, tmp_path: Path, shared: bool
) -> None:
    vault = make(True, shared)
    vault.done("restore", "--output", tmp_path / "out", "--yes")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == (
        ["blobs", "database.dump"] if shared else ["database.dump"]
    )
    login = postgres.database()
    pg_restore(tmp_path / "out" / "database.dump", login)
    assert relstorage_sites.state(
        vault.site._replace(adapter=on(login), blob_dir=tmp_path / "out" / "blobs")
    ) == relstorage_sites.state(vault.site)


def test_blobs_in_place_are_compared_and_what_differs_is_kept(make: Make) -> None:
    vault = make(True, True)
    files = sorted((vault.directory / "blobs").rglob("*.blob"))
    content = {path: path.read_bytes() for path in files}
    files[0].unlink()
    files[1].chmod(0o600)
    files[1].write_bytes(b"something else")
    done = vault.done("restore", "--only", "blobs", "--yes", "--json").document
    assert {path: path.read_bytes() for path in files} == content
    (kept,) = done["kept"]
    assert [path.read_bytes() for path in Path(kept).rglob("*.blob")] == [b"something else"]


def test_local_caches_of_the_old_state_are_removed(make: Make) -> None:
    vault = make(True, False, "CREATEDB")
    cache = vault.directory / "cache"
    cache.mkdir()
    (cache / "relstorage-cache2-plone.sqlite3").write_text("old")
    vault.conf.write_text(
        vault.site.conf.replace("keep-history", f"cache-local-dir {cache}\n    keep-history")
    )
    done = vault.done("restore", "--replace", "--yes", "--json").document
    assert done["caches"] == [str(cache / "relstorage-cache2-plone.sqlite3")] and not any(cache.iterdir())


def test_a_restore_that_was_killed_changed_nothing_and_the_next_one_cleans_up(
    make: Make, postgres: Cluster
) -> None:
    vault = make(True, False, "CREATEDB")
    wanted, names = relstorage_sites.state(vault.site), postgres.names()
    script = (
        "import os, signal, sys; from zodb_vault.strategies.postgres import restore; from "
        "zodb_vault.cli.main import run\n"
    )
    script += "restore.LoadBeside.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nrun(sys.argv[1:])"
    command = [
        sys.executable,
        "-c",
        script,
        *vault.options,
        "restore",
        "--replace",
        "--no-safety-backup",
        "--yes",
    ]
    assert subprocess.run(command, check=False, capture_output=True, env=environment()).returncode == -9
    (left,) = postgres.names() - names
    assert "_restoring_" in left and relstorage_sites.state(vault.site) == wanted
    vault.done("restore", "--replace", "--no-safety-backup", "--yes")
    (kept,) = postgres.names() - names
    assert "_replaced_" in kept and relstorage_sites.state(vault.site) == wanted


def test_an_encrypted_dump_comes_back_with_the_key_only(
    postgres: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipient, identity = key_pairs.x25519(tmp_path / "identity")
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY_ENCRYPTION_RECIPIENTS", recipient)
    vault = RelVault(tmp_path, capsys, RelSite(on(postgres.database()), True, tmp_path / "blobs", False))
    vault.fill()
    vault.created()
    elsewhere = other(vault, postgres.database())
    conf = elsewhere.write_conf(vault.directory / "other.conf")
    assert vault("restore", "--target", conf, "--yes").status == 12
    monkeypatch.setenv("ZODB_VAULT_IDENTITY_FILE", str(identity))
    assert vault.done("verify", "--json").document["damage"] == []
    vault.done("restore", "--target", conf, "--yes")
    assert relstorage_sites.state(elsewhere) == relstorage_sites.state(vault.site)
