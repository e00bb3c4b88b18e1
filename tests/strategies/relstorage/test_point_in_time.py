"""Point-in-time restores of RelStorage, compared with what the real storage says about the original then."""

from __future__ import annotations

import contextlib
import hashlib
import random
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import relstorage_sites
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from persistent.TimeStamp import TimeStamp
from random_walks import STEPS, Walk
from relstorage_sites import OpenRelSite, RelSite, on
from relstorage_vault import NOISE, RelVault
from services.postgres import Cluster, execute
from ZODB.blob import is_blob_record
from ZODB.POSException import POSKeyError
from ZODB.serialize import referencesf
from ZODB.utils import p64, u64

from zodb_vault.model.tid import to_hex

Make = Callable[..., RelVault]
TABLES = ("object_state", "current_object", "blob_chunk", "object_ref", "object_refs_added", '"transaction"')
SQLITE = "<sqlite3>\n      data-dir {path}\n    </sqlite3>"


def objects_at(opened: OpenRelSite, zoids: list[int], tid: bytes | None) -> dict[int, Any]:
    """Return record, TID and blob of every object, at a transaction or now, as the storage finds them."""
    found: dict[int, Any] = {}
    bound = p64(u64(tid) + 1) if tid else b"\x7f" + b"\xff" * 7
    for zoid in zoids:
        try:
            one = opened.storage.loadBefore(p64(zoid), bound)
        except POSKeyError:
            one = None
        if one is not None and one[0] is not None:
            found[zoid] = (one[1], one[0], blob_of(opened, p64(zoid), one[0], one[1]))
    return found


def blob_of(opened: OpenRelSite, oid: bytes, data: bytes, tid: bytes) -> str | None:
    if not is_blob_record(data):
        return None
    return hashlib.sha256(Path(opened.storage.loadBlob(oid, tid)).read_bytes()).hexdigest()


@pytest.fixture
def make(postgres: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Make:
    """Make a site on PostgreSQL or SQLite."""

    def make(
        history: bool = True, shared: bool = False, adapter: str = "postgresql", *options: str
    ) -> RelVault:
        directory = Path(tempfile.mkdtemp(dir=tmp_path))
        login = postgres.database(postgres.role("zodb", *(options or ("CREATEDB",))))
        on_it = on(login) if adapter == "postgresql" else SQLITE.format(path=directory / "data")
        vault = RelVault(directory, capsys, RelSite(on_it, history, directory / "blobs", shared))
        vault.login = login
        return vault

    return make


def elsewhere(vault: RelVault, postgres: Cluster, *options: str) -> RelSite:
    """Return an empty site of the same kind."""
    number = len(list(vault.directory.glob("other-*")))
    directory = vault.directory / f"other-{number}"
    directory.mkdir()
    if "sqlite3" in vault.site.adapter:
        return vault.site._replace(
            adapter=SQLITE.format(path=directory / "data"), blob_dir=directory / "blobs"
        )
    login = postgres.database(postgres.role("zodb", *(options or ("CREATEDB",))))
    return vault.site._replace(adapter=on(login), blob_dir=directory / "blobs")


def restored(vault: RelVault, postgres: Cluster, *arguments: object) -> RelSite:
    """Restore into an empty database and return it."""
    site = elsewhere(vault, postgres)
    conf = site.write_conf(site.blob_dir.parent / "zope.conf") if site.blob_dir else None
    vault.done("restore", "--target", conf, "--yes", *arguments)
    return site


def tids_in(site: RelSite) -> list[int]:
    """Return the newest TID of each table in SQLite, where no foreign key is enforced."""
    if "sqlite3" not in site.adapter:
        return []
    with contextlib.closing(sqlite3.connect(f"{site.adapter.split()[2]}/main.sqlite3")) as connection:
        return [
            connection.execute(f"SELECT coalesce(max(tid), 0) FROM {table}").fetchone()[0] for table in TABLES
        ]


def require_same(vault: RelVault, other: RelSite, tid: bytes) -> None:
    """Compare every record, blob and transaction with the original after a transaction; then use the copy."""
    history = [one for one in relstorage_sites.history(vault.site) if one[0] <= tid]
    assert relstorage_sites.history(other) == history
    assert all(int(one) <= u64(tid) for one in tids_in(other))
    later = [
        path.name
        for path in (other.blob_dir or Path()).rglob("*.blob")
        if int(path.stem.rpartition(".")[2], 16) > u64(tid)
    ]
    assert not other.shared or not later
    zoids = sorted({u64(record[0]) for one in relstorage_sites.history(vault.site) for record in one[3]})
    with vault.site.opened() as original, other.opened() as copy:
        wanted = objects_at(original, zoids, tid)
        assert objects_at(copy, zoids, None) == wanted
        at = original.db.open(at=tid)
        assert sorted(copy.root) == sorted(at.root())
        at.close()
        copy.put(later="goes on", more=NOISE[1])
        copy.pack()
        assert {"later", "more"} <= set(copy.root)


CASES = [("postgresql", False), ("postgresql", True), ("sqlite3", False), ("sqlite3", True)]


@pytest.mark.parametrize(("adapter", "shared"), CASES)
@settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=8, max_size=14), seed=st.integers(0, 2**20))
def test_every_target_is_what_the_storage_had_then(
    make: Make, postgres: Cluster, adapter: str, shared: bool, steps: list[str], seed: int
) -> None:
    vault = make(True, shared, adapter)
    with vault.site.opened() as opened:
        walk = Walk(opened, seed)
        walk.put(root="first", blob=NOISE[0])
        for number, what in enumerate(steps):
            walk.step(what)
            if number == len(steps) // 2:
                vault.created()
    vault.created()
    log = {row["tid"]: row for row in vault.done("log", "latest", "--json").document["transactions"]}
    assert {to_hex(one[0]) for one in relstorage_sites.history(vault.site)} <= set(log)
    targets = [tid for tid in log if log[tid]["restorable"]]
    assert targets and {tid for tid in log if tid > to_hex(walk.packed)} <= set(targets)
    chosen = {targets[0], targets[-1], random.Random(seed).choice(targets)}
    for tid in sorted(chosen):
        require_same(vault, restored(vault, postgres, "--tid", tid), bytes.fromhex(tid[2:]))


def refused(vault: RelVault, site: RelSite | None, *arguments: object) -> dict[str, Any]:
    target = ["--target", site.write_conf(vault.directory / "refusing.conf")] if site else []
    outcome = vault("restore", *target, "--yes", "--json", *arguments)
    return {"status": outcome.status} | outcome.error


def texts(vault: RelVault, *versions: str) -> list[bytes]:
    """Commit a text and a blob several times, return the TIDs."""
    with vault.site.opened() as opened:
        return [opened.put(title=version, photo=version.encode() * 1000) for version in versions]


def test_deltas_are_truncated_like_a_dump(make: Make, postgres: Cluster) -> None:
    vault = make()
    base = texts(vault, "one", "two", "three")
    vault.created("--method", "transactions")
    later = texts(vault, "four", "five", "six")
    assert vault.created("--method", "transactions")["how"] == "incremental"
    for tid, title in ((base[1], "two"), (later[0], "four")):
        site = restored(vault, postgres, "latest", "--tid", to_hex(tid))
        assert relstorage_sites.state(site)["title"] == title
        require_same(vault, site, tid)


@pytest.mark.parametrize("history", [False, True])
def test_in_place_what_is_later_is_gone_and_the_site_goes_on(
    make: Make, postgres: Cluster, history: bool
) -> None:
    vault = make(history, shared=True)
    first = texts(vault, "one", "two")
    vault.created()
    second = texts(vault, "three", "four")
    vault.created()
    wanted, title = (second[0], "three") if history else (first[1], "two")
    before = int(wanted.hex(), 16) + 1
    asked = ["--before-tid", f"0x{before:016x}"] if history else ["--tid", to_hex(wanted)]
    planned = vault.done("restore", *asked, "--replace", "--dry-run")
    assert ("leaves out 1 later transaction" in planned.out) is history
    done = vault.done("restore", *asked, "--replace", "--yes", "--json").document
    assert done["databases"] == [
        {"name": "main", "last_tid": to_hex(wanted), "dropped_transactions": 1 if history else None}
    ]
    assert any("the database " in kept for kept in done["kept"]) and done["safety_backup"]
    assert relstorage_sites.state(vault.site)["title"] == title
    texts(vault, "another future")
    assert vault.created()["reason"]["code"] == "diverged"
    assert vault("verify", "--level", "restore", "--scratch-dsn", postgres.login().dsn).status == 0
    if history:
        assert to_hex(second[1]) not in {
            row["tid"] for row in vault.done("log", "--json").document["transactions"]
        }


def test_without_history_the_states_of_backups_are_what_is_possible(make: Make, postgres: Cluster) -> None:
    vault = make(history=False)
    first = texts(vault, "one", "two")
    vault.created()
    second = texts(vault, "three", "four")
    vault.created()
    for tid in (first[0], second[0]):
        error = refused(vault, elsewhere(vault, postgres), "--tid", to_hex(tid))
        assert (
            error["status"] == 13
            and "main keeps no history" in error["message"]
            and to_hex(first[1]) in error["message"]
        )
        assert "as a whole" in error["hint"]
    assert relstorage_sites.state(restored(vault, postgres, "--tid", to_hex(first[1])))["title"] == "two"
    assert vault.done("log", "--json").document == {"transactions": []}


def test_where_nothing_can_be_truncated_it_is_said(make: Make, postgres: Cluster) -> None:
    vault = make(True, False, "postgresql", "NOCREATEDB")
    tid = to_hex(texts(vault, "one", "two", "three")[1])
    vault.created()
    error = refused(vault, None, "--tid", tid, "--output", vault.directory / "out")
    assert error["status"] == 1 and "--target" in error["hint"] and not (vault.directory / "out").exists()
    error = refused(vault, None, "--tid", tid, "--replace")
    assert error["status"] == 1 and "CREATEDB" in error["hint"]
    assert relstorage_sites.state(vault.site)["title"] == "three"
    error = refused(vault, elsewhere(vault, postgres), "--tid", "0x0000000000000001")
    assert error["status"] == 13
    empty = elsewhere(vault, postgres, "NOCREATEDB")
    printed = vault.done(
        "restore", "--target", empty.write_conf(vault.directory / "empty.conf"), "--tid", tid, "--yes"
    )
    assert "before the restore has succeeded" in printed.err
    assert relstorage_sites.state(empty)["title"] == "two"


def test_large_objects_of_what_is_later_go_with_or_without_the_trigger(make: Make, postgres: Cluster) -> None:
    vault = make()
    tids = texts(vault, *(f"version {number}" for number in range(6)))
    execute(vault.login, "DROP TRIGGER blob_chunk_delete ON blob_chunk")
    vault.created()
    login = postgres.database(postgres.role("zodb", "CREATEDB"))
    site = vault.site._replace(adapter=on(login), blob_dir=vault.directory / "cache")
    asked = ["restore", "--target", site.write_conf(vault.directory / "other.conf"), "--tid", to_hex(tids[2])]
    assert "beside it, exchanged by a rename" in vault.done(*asked, "--dry-run").out
    vault.done(*asked, "--yes")
    assert (
        execute(login, "SELECT count(*) FROM pg_largeobject_metadata")
        == execute(login, "SELECT count(*) FROM blob_chunk")
        == [(3,)]
    )
    assert not execute(login, "SELECT 1 FROM pg_indexes WHERE indexname LIKE 'zodb_vault%%'")
    assert not [name for name in postgres.names() if name.startswith(login.name) and name != login.name]


@pytest.mark.parametrize("begun", [False, True])
def test_a_pack_that_was_interrupted(make: Make, postgres: Cluster, begun: bool) -> None:
    vault = make()
    tids = texts(vault, "one", "two", "three", "four", "five")
    with vault.site.opened() as opened:
        opened.storage.pack(TimeStamp(tids[3]).timeTime() + 0.0001, referencesf, prepack_only=True)
    prepared = execute(vault.login, "SELECT max(keep_tid) FROM pack_object")[0][0]
    if begun:
        first = (
            "(zoid, tid) IN (SELECT zoid, tid FROM pack_state WHERE tid = (SELECT min(tid) FROM pack_state))"
        )
        for table in ("blob_chunk", "object_state"):
            execute(vault.login, f"DELETE FROM {table} WHERE {first}")
    vault.created()
    restorable = {
        row["tid"] for row in vault.done("log", "--json").document["transactions"] if row["restorable"]
    }
    if begun:
        assert min(restorable) == to_hex(p64(prepared))
        error = refused(vault, elsewhere(vault, postgres), "--tid", to_hex(tids[1]))
        assert error["status"] == 13 and "not a valid target" in error["message"]
        return
    assert to_hex(tids[0]) in restorable
    site = restored(vault, postgres, "--tid", to_hex(tids[1]))
    with site.opened() as opened:
        opened.storage.pack(TimeStamp(tids[4]).timeTime() + 1, referencesf, skip_prepack=True)
    assert relstorage_sites.state(site)["title"] == "two"


def test_the_list_of_transactions_is_carried_on_until_a_pack(make: Make) -> None:
    vault = make()
    texts(vault, "one", "two")
    blocks = []
    for what in ("more", "still more", None):
        vault.created()
        shown = vault.done("show", "latest", "--json").document["manifest"]["databases"][0]
        blocks.append([block["tids"]["meta"] for block in shown["storage"]["log"]])
        log = vault.done("log", "--json").document["transactions"]
        assert len(log) == len(relstorage_sites.history(vault.site)) and all(
            row["size"] and row["objects"] for row in log
        )
        assert [row["blobs"] for row in log[:2]] == [1, 1] and "put title, photo" in log[0]["description"]
        if what:
            texts(vault, what)
        else:
            with vault.site.opened() as opened:
                opened.pack()
    assert (
        [len(one) for one in blocks] == [1, 2, 3]
        and blocks[2][:2] == blocks[1]
        and blocks[1][:1] == blocks[0]
    )
    vault.created()
    entry = vault.done("show", "latest", "--json").document["manifest"]["databases"][0]
    assert [block["count"] for block in entry["storage"]["log"]] == [
        len(relstorage_sites.history(vault.site))
    ]
    listed = vault.done("list", "--json").document["backups"]
    assert [one["databases"][0]["restorable_from"] for one in listed] == [
        entry["pack_tid"],
        *[entry_first(vault, one["id"]) for one in listed[1:]],
    ]
    assert entry["pack_tid"] == entry["last_tid"]
    for level in ("objects", "bytes", "records"):
        assert vault("verify", "--all", "--level", level).status == 0


def entry_first(vault: RelVault, backup: str) -> str:
    entry = vault.done("show", backup, "--json").document["manifest"]["databases"][0]
    assert entry["pack_tid"] is None
    return str(entry["first_tid"])
