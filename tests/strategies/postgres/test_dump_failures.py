"""Failures while a dump is made: no backup exists then, the error names the cause, the next run succeeds."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from relstorage_sites import RelSite, on
from relstorage_vault import RelVault
from services.postgres import PASSWORD, Cluster, execute

from zodb_vault.runtime import durable
from zodb_vault.strategies.postgres import dump as postgres_dump
from zodb_vault.strategies.postgres import snapshot as postgres_snapshot
from zodb_vault.strategies.relstorage import postgres as relstorage_postgres
from zodb_vault.strategies.sql.program import Program

Make = Callable[..., RelVault]


@pytest.fixture
def make(
    postgres: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Make:
    """Make a site whose dump is longer than what a pipe holds, and goes into several parts."""
    monkeypatch.setattr(postgres_dump, "PART_RAW", 1 << 20)

    def make(shared: bool = False) -> RelVault:
        login = postgres.database()
        vault = RelVault(tmp_path, capsys, RelSite(on(login), True, tmp_path / "blobs", shared))
        vault.login = login
        with vault.site.opened() as opened:
            opened.put(
                title="one",
                **({} if shared else {f"video-{number}": os.urandom(3_000_000) for number in range(3)}),
            )
        return vault

    return make


def at_block(monkeypatch: pytest.MonkeyPatch, act: Callable[[Program], object]) -> None:
    """Do something when a part of a dump has been read."""
    blocks = Program.blocks

    def acting(program: Program, size: int) -> Iterator[memoryview]:
        for number, block in enumerate(blocks(program, size)):
            yield block
            if number == 1:
                act(program)

    monkeypatch.setattr(Program, "blocks", acting)


def failed(vault: RelVault, kind: str = "source") -> str:
    """Require that a create fails, and that nothing of it can be seen afterwards; return what was said."""
    outcome = vault("create", "--json")
    assert (outcome.status, outcome.error["kind"]) == (1, kind), outcome
    assert vault.backups() == []
    assert PASSWORD not in outcome.err
    said: str = outcome.error["message"] + " | " + outcome.error["hint"]
    return said


def test_pg_dump_is_killed_half_way(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = make()
    with monkeypatch.context() as patch:
        at_block(patch, lambda program: os.kill(program.pid, signal.SIGKILL))
        assert "pg_dump was ended by signal 9" in failed(vault)
    assert vault.created()["status"] == "complete"


def test_the_disk_of_the_repository_is_full(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vault, write, written = make(), durable.UnnamedFile.write, list[int]()

    def full(file: durable.UnnamedFile, data: bytes) -> None:
        written.append(len(data))
        if sum(written) > 3_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(durable.UnnamedFile, "write", full)
        assert "No space left on device" in failed(vault, "store")
    assert vault.created()["status"] == "complete"
    vault.done("verify")


@pytest.mark.parametrize("whose", ["pg_dump", "zodb-vault"])
def test_the_connection_breaks(
    make: Make, postgres: Cluster, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    vault = make()
    query = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND datname = %s"
    )
    with monkeypatch.context() as patch:
        at_block(patch, lambda _program: execute(postgres.login(), query, (whose, vault.login.name)))
        said = failed(vault)
    assert any(word in said for word in ("terminat", "closed", "cut"))
    assert vault.created()["status"] == "complete"


def test_a_role_without_the_rights_of_the_owner_may_not_read_large_objects(
    make: Make, postgres: Cluster
) -> None:
    vault = make()
    role = postgres.role("backup")
    execute(postgres.login(), f"GRANT pg_read_all_data TO {role}")
    vault.conf.write_text(vault.site._replace(adapter=on(vault.login._replace(user=role))).conf)
    said = failed(vault)
    assert "permission denied for large object" in said and "GRANT" in said
    execute(postgres.login(), f"GRANT {vault.login.user} TO {role}")
    assert vault.created()["status"] == "complete"


def test_with_blobs_in_a_shared_directory_reading_all_data_is_enough(make: Make, postgres: Cluster) -> None:
    vault = make(shared=True)
    role = postgres.role("backup")
    execute(postgres.login(), f"GRANT pg_read_all_data TO {role}")
    vault.conf.write_text(vault.site._replace(adapter=on(vault.login._replace(user=role))).conf)
    assert vault.created()["status"] == "complete"


def test_a_locked_table_is_not_waited_for_for_ever(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = make()
    for module in (postgres_snapshot, postgres_dump):
        monkeypatch.setattr(module, "LOCK_TIMEOUT_MS", 400)
    with contextlib.closing(psycopg2.connect(vault.login.dsn)) as other:
        other.cursor().execute("LOCK TABLE blob_chunk IN ACCESS EXCLUSIVE MODE")
        assert "lock" in failed(vault)
    assert vault.created()["status"] == "complete"


def test_a_table_that_is_dropped_between_snapshot_and_dump_fails_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = make()

    def dropping(*arguments: Any) -> Any:
        execute(vault.login, "DROP TABLE pack_object")
        return postgres_dump.dump_snapshot(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(relstorage_postgres, "dump_snapshot", dropping)
        assert "pg_dump failed" in failed(vault) or "does not exist" in failed(vault)


def test_a_change_of_the_schema_waits_for_the_dump(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = make()
    alter = threading.Thread(
        target=lambda: execute(vault.login, "ALTER TABLE object_state ADD COLUMN later integer")
    )
    with monkeypatch.context() as patch:
        at_block(patch, lambda _program: alter.start())
        assert vault.created()["status"] == "complete"
    alter.join(20)
    assert not alter.is_alive()
    assert vault.done("verify", "--json").document["damage"] == []


def test_a_pg_dump_that_is_older_than_the_server_is_refused_before_anything_starts(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zodb_vault.strategies.sql import program as programs

    vault = make()
    monkeypatch.setattr(programs, "version_of", lambda path: (14, 5))
    outcome = vault("create", "--json")
    assert (outcome.status, outcome.error["kind"]) == (2, "configuration")
    assert "pg_dump 14 is older than the server, which has version 15" in outcome.error["message"]
    assert not vault.objects()


def test_nothing_secret_is_in_an_argument_list(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vault, seen = make(), list[bytes]()
    at_block(monkeypatch, lambda program: seen.append(Path(f"/proc/{program.pid}/cmdline").read_bytes()))
    vault.created()
    assert seen and b"--snapshot=" in seen[0] and PASSWORD.encode() not in seen[0]
    assert not any(
        PASSWORD.encode() in path.read_bytes() for path in vault.repository.rglob("*") if path.is_file()
    )
