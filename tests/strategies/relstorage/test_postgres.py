"""Backups of RelStorage in a real PostgreSQL, restored by hand, independently of our own restore."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import relstorage_sites
from command_line import flip
from relstorage_sites import RelSite, on
from relstorage_vault import NOISE, RelVault, by_hand, in_postgres, pg_restore
from services.postgres import PASSWORD, Cluster, execute

from zodb_vault.repository.objects import Objects
from zodb_vault.stores.local import LocalStore
from zodb_vault.strategies.postgres import scratch
from zodb_vault.strategies.postgres import snapshot as postgres_strategy
from zodb_vault.strategies.relstorage.blobs import RelStorageBlobs
from zodb_vault.strategies.sql.blobs import SqlBlobs

EACH = pytest.mark.parametrize(
    ("history", "shared"), [(False, False), (False, True), (True, False), (True, True)]
)
Make = Callable[..., RelVault]


@pytest.fixture
def make(postgres: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Make:
    """Make a site with some content."""

    def make(history: bool = True, shared: bool = True) -> RelVault:
        return in_postgres(postgres, tmp_path, capsys, history=history, shared=shared)

    return make


def elsewhere(vault: RelVault, postgres: Cluster, backup: str, directory: Path) -> RelSite:
    """Get a backup back by hand, into a database of another name that belongs to another role."""
    by_hand(vault.repository, backup, directory)
    login = postgres.database()
    pg_restore(directory / "database.dump", login)
    return vault.site._replace(
        adapter=on(login), blob_dir=directory / "blobs" if vault.site.shared else directory / "cache"
    )


@EACH
def test_a_backup_is_all_there_is(
    make: Make, postgres: Cluster, tmp_path: Path, history: bool, shared: bool
) -> None:
    vault = make(history, shared)
    made = vault.created()
    assert (made["status"], made["reason"]["code"], made["how"]) == ("complete", "first", "full")
    assert (made["databases"][0]["blobs"] is not None) == shared
    report = vault.done("verify", "--json").document
    assert (report["damage"], report["source"]) == ([], [])
    assert report["checked"]["rows"] > 5 and report["checked"].get("large objects", 0) == (
        0 if shared else 4 if history else 3
    )
    found = elsewhere(vault, postgres, made["id"], tmp_path / "by hand")
    assert relstorage_sites.state(found) == relstorage_sites.state(vault.site)
    assert relstorage_sites.history(found) == relstorage_sites.history(vault.site)
    with found.opened() as opened:
        opened.put(more="and goes on", another=NOISE[4])


@EACH
def test_what_is_committed_while_it_runs_is_there_or_not(
    make: Make, postgres: Cluster, tmp_path: Path, history: bool, shared: bool
) -> None:
    vault, stop = make(history, shared), threading.Event()
    log: dict[str, dict[str, str]] = {}

    def write() -> None:
        with vault.site.opened() as opened:
            number, known = 0, dict(before)
            while not stop.is_set():
                number += 1
                blob = b"%d " % number + NOISE[number % 8]
                tid = opened.put(number=str(number), **{f"blob-{number % 5}": blob})
                known |= {"number": str(number), f"blob-{number % 5}": hashlib.sha256(blob).hexdigest()}
                log["0x" + tid.hex()] = dict(known)

    before = relstorage_sites.state(vault.site)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        backups = [vault.created() for _ in range(3)]
    finally:
        stop.set()
        writer.join()
    assert [one["reason"]["code"] for one in backups] == ["first", "continued", "continued"]
    for made in backups[1:]:
        found = relstorage_sites.state(elsewhere(vault, postgres, made["id"], tmp_path / made["id"]))
        assert found == log[made["databases"][0]["last_tid"]]


def test_files_that_a_backup_has_are_not_stored_again(make: Make) -> None:
    vault = make(history=False)
    first = vault.created()["databases"][0]["blobs"]
    assert vault.created()["databases"][0]["blobs"] == {"added": 0, "count": first["count"]}
    with vault.site.opened() as opened:
        opened.put(logo=NOISE[5])
    after = vault.created()["databases"][0]["blobs"]
    assert after == {
        "added": 1,
        "count": first["count"],
    }  # without history the new revision takes the place of the old one


def test_a_referenced_blob_that_is_not_in_the_directory_is_missing(make: Make) -> None:
    vault = make()
    gone = next(path for path in sorted((vault.directory / "blobs").rglob("*.blob")))
    gone.unlink()
    done = vault("create", "--json")
    assert (done.status, done.document["status"]) == (3, "incomplete")
    assert [row["path"] for row in done.document["databases"][0]["missing"]] == [str(gone)]


def test_orphans_in_the_directory_are_not_copied(make: Make) -> None:
    vault = make()
    stray = next(path for path in sorted((vault.directory / "blobs").rglob("*.blob"))).with_name(
        "0x03ffffffffffffff.blob"
    )
    stray.write_bytes(os.urandom(100))
    before = len(list((vault.directory / "blobs").rglob("*.blob")))
    assert vault.created()["databases"][0]["blobs"]["count"] == before - 1


def test_lost_and_extra_large_objects_are_reported(make: Make) -> None:
    vault = make(shared=False)
    login = vault.login
    execute(login, "SELECT lo_from_bytea(0, 'nobody knows me')")
    made = vault.created()
    assert "1 large objects belong to no blob" in made["databases"][0]["warnings"][-1]
    ((chunk,),) = execute(login, "SELECT chunk FROM blob_chunk ORDER BY tid LIMIT 1")
    execute(login, "SELECT lo_unlink(%s)", (chunk,))
    done = vault("create", "--json")
    assert (done.status, done.document["status"]) == (3, "incomplete")
    assert [row["path"] for row in done.document["databases"][0]["missing"]] == [f"large object {chunk}"]
    shown = vault.done("show", done.document["id"], "--json").document["manifest"]["databases"][0]
    listed = Objects(LocalStore(vault.repository), "x").document(shown["blobs"]["missing"]["list"])
    assert [row[3] for row in json.loads(listed)["rows"]] == [chunk]
    report = vault.done("verify", done.document["id"], "--json").document
    assert (report["damage"], len(report["source"])) == ([], 1)


@pytest.mark.parametrize("level", ["bytes", "records"])
def test_a_part_that_is_damaged_is_found(make: Make, level: str) -> None:
    vault = make(shared=False)
    vault.created()
    flip(max(vault.repository.glob("objects/*/*"), key=lambda path: path.stat().st_size))
    done = vault("verify", "--level", level, "--json")
    assert (done.status, done.document["ok"]) == (4, False)


def test_an_intact_dump_of_another_time_is_found(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = make(shared=False)
    counted = postgres_strategy.Postgres.tables

    def one_more(server: postgres_strategy.Postgres) -> dict[str, int]:
        return {table: rows + (table == "public.object_state") for table, rows in counted(server).items()}

    monkeypatch.setattr(postgres_strategy.Postgres, "tables", one_more)
    vault.created()
    report = vault("verify", "--json").document
    assert [one["why"].split(" ")[0] for one in report["damage"]] == ["public.object_state"]


@EACH
def test_level_restore_loads_all_objects_and_blobs(make: Make, history: bool, shared: bool) -> None:
    vault = make(history, shared)
    vault.created()
    done = vault("verify", "--level", "restore", "--json")
    assert done.out, done
    assert (done.status, done.document["damage"]) == (0, []), done
    with vault.site.opened() as opened:
        objects = sum(1 for _oid in iterate(opened.storage))
    checked = done.document["checked"]
    assert (checked["objects loaded"], checked["blobs opened"]) == (objects, 3)


def test_the_level_restore_in_a_server_that_is_given_leaves_nothing_there(
    make: Make, postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = make(shared=False)
    vault.created()
    role = postgres.role("prover", "CREATEDB")
    monkeypatch.setenv("ZODB_VAULT_SCRATCH_DSN", postgres.login("postgres", role, PASSWORD).dsn)
    monkeypatch.setattr(scratch, "program_of", None)  # no server of our own is started
    done = vault("verify", "--level", "restore", "--json")
    assert (done.status, done.document["damage"], done.document["checked"]["blobs opened"]) == (0, [], 3), (
        done
    )
    assert not [name for name in postgres.names() if name.startswith(scratch.DATABASE_PREFIX)]
    refused = vault("verify", "--level", "restore", "--scratch-dsn", vault.login.dsn)
    assert refused.status == 2
    assert "permission denied to create database" in refused.err
    assert "its role needs CREATEDB" in refused.err
    assert PASSWORD not in refused.err


def iterate(storage: Any) -> Iterator[bytes]:
    after = None
    while True:
        oid, _tid, _data, after = storage.record_iternext(after)
        yield oid
        if after is None:
            return


def test_a_blob_that_no_pack_has_is_damage(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vault, records = make(), RelStorageBlobs.outside
    with monkeypatch.context() as patch:
        patch.setattr(RelStorageBlobs, "outside", lambda blobs, after: list(records(blobs, after))[1:])
        vault.created()
    done = vault("verify", "--json")
    assert (done.status, [one["what"] for one in done.document["damage"]]) == (4, ["blob"])


@pytest.mark.parametrize("history", [False, True])
def test_a_pack_meanwhile_starts_over(
    make: Make, postgres: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, history: bool
) -> None:
    vault, copy, packed = make(history), SqlBlobs.copy, list[int]()

    def packing(files: SqlBlobs, still: Callable[..., bool]) -> None:
        if not packed:
            with vault.site.opened() as opened:
                opened.pack()
            packed.append(len(list((vault.directory / "blobs").rglob("*.blob"))))
        copy(files, still)

    monkeypatch.setattr(SqlBlobs, "copy", packing)
    done = vault("create", "--json")
    assert done.status == 0 and "starting over" in done.err, done
    assert (done.document["status"], done.document["databases"][0]["blobs"]["count"]) == (
        "complete",
        packed[0] if history else 2,
    )
    found = elsewhere(vault, postgres, done.document["id"], tmp_path / "by hand")
    assert relstorage_sites.state(found) == relstorage_sites.state(vault.site)


def test_what_an_interrupted_run_stored_of_the_blobs_is_used(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = make()

    def stopping(*_arguments: object) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("zodb_vault.strategies.blobs.capture.rewrite_packs", stopping)
        assert vault("create").status == 130
    before = {path.name for path in vault.repository.glob("objects/*/*")}
    made = vault.created()
    assert made["databases"][0]["blobs"] == {"added": 0, "count": 4}
    assert vault.done("verify", "--json").document["damage"] == [] and before


def test_another_database_is_refused(make: Make, postgres: Cluster) -> None:
    vault = make()
    vault.created()
    other = vault.site._replace(adapter=on(postgres.database()), blob_dir=vault.directory / "other")
    with other.opened() as opened:
        opened.put(title="another site")
    vault.conf.write_text(other.conf)
    refused = vault("create", "--json")
    assert refused.status == 2, refused
    assert refused.error["kind"] == "wrong-source"
    taken = vault("create", "--json", "--take-over")
    assert taken.document["reason"]["code"] in ("new-history", "diverged")
    assert taken.status == (3 if taken.document["reason"]["code"] == "new-history" else 0)
