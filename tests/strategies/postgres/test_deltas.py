"""``--method transactions``: a dump, then deltas; a restore equals a dump of the snapshot, row by row."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import key_pairs
import pytest
import relstorage_sites
from database_contents import DERIVED, Dumping, Held, held_by, require_same
from pgjsonb_sites import PgjsonbSite, Place
from relstorage_sites import RelSite, on
from relstorage_vault import NOISE, RelVault, by_hand, committing, in_postgres
from services.postgres import Cluster, Login, execute
from services.s3 import Service
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError, UndoError

from zodb_vault.model import chain
from zodb_vault.model.manifest import MissingBlobs
from zodb_vault.repository.objects import ContentWriter
from zodb_vault.strategies.blobs import capture as blob_capture
from zodb_vault.strategies.postgres.delta import DeltaWriter
from zodb_vault.strategies.postgres.delta_state import SnapshotTables
from zodb_vault.strategies.postgres.names import TableName

SEEDS = int(os.environ.get("ZODB_VAULT_DELTAS", "1"))
EACH = pytest.mark.parametrize(
    ("history", "shared"), [(False, False), (False, True), (True, False), (True, True)]
)
Make = Callable[..., RelVault]
needs_pgjsonb = pytest.mark.skipif(sys.version_info < (3, 12), reason="zodb-pgjsonb needs Python 3.12")


@pytest.fixture
def make(postgres: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Make:
    """Make a site with some content."""

    def make(history: bool = True, shared: bool = False) -> RelVault:
        return in_postgres(postgres, tmp_path, capsys, history=history, shared=shared)

    return make


@pytest.fixture
def dumping(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Dumping:
    """Dump every snapshot beside."""
    return Dumping(monkeypatch, tmp_path)


def backed_up(vault: RelVault, *arguments: object) -> Any:
    return vault.created("--method", "transactions", *arguments)


def restored(vault: RelVault, postgres: Cluster, backup: str = "latest") -> tuple[RelSite, Login]:
    """Restore a backup into an empty database; return the site and the database there."""
    login = postgres.database()
    site = vault.site._replace(adapter=on(login), blob_dir=vault.directory / f"other-{login.name}")
    conf = site.write_conf(vault.directory / f"{login.name}.conf")
    vault.done("restore", backup, "--target", conf, "--yes")
    return site, login


@EACH
def test_a_delta_brings_what_is_new(
    make: Make, postgres: Cluster, dumping: Dumping, history: bool, shared: bool
) -> None:
    vault = make(history, shared)
    with vault.site.opened() as opened:
        opened.pack()
    assert execute(vault.login, "SELECT count(*) FROM object_ref") != [
        (0,)
    ]  # what the pack found out is in the base, and not to be restored
    first = backed_up(vault)
    assert (first["how"], first["reason"]["code"]) == ("full", "first")
    with vault.site.opened() as opened:
        opened.put(title="changed", logo=NOISE[4], news="new")
        opened.put(photo=None)
    second = backed_up(vault)
    assert (second["how"], second["reason"]["code"]) == ("incremental", "continued"), second["reason"]
    site, login = restored(vault, postgres)
    require_same(held_by(login, login.user), dumping.held(postgres))
    assert relstorage_sites.state(site) == relstorage_sites.state(vault.site)


class Working:
    """Random work on a site: texts, blobs, removals, undo, packs with garbage collection, deleted objects."""

    def __init__(self, opened: relstorage_sites.OpenRelSite, seed: int, *, history: bool) -> None:
        self.opened, self.random, self.history = opened, random.Random(seed), history
        self.did: Counter[str] = Counter()

    def work(self) -> None:
        """Do something."""
        steps = (
            [self.text] * 4
            + [self.blob] * 3
            + [self.remove] * 2
            + [self.pack]
            + ([self.undo] * 2 if self.history else [self.delete])
        )
        step = self.random.choice(steps)
        self.did[step.__name__] += 1
        step()

    def text(self) -> None:
        self.opened.put(
            **{
                f"text-{self.random.randrange(8)}": str(self.random.random())
                for _ in range(self.random.randint(1, 4))
            }
        )

    def blob(self) -> None:
        content = self.random.choice([b"", b"x", self.random.choice(NOISE), NOISE[0] * 300])
        self.opened.put(**{f"blob-{self.random.randrange(4)}": content})

    def remove(self) -> None:
        if keys := sorted(key for key in self.opened.root if "-" in key):
            self.opened.put(**{self.random.choice(keys): None})

    def pack(self) -> None:
        self.opened.pack()

    def undo(self) -> None:
        """Undo one of the last transactions, if that can be done."""
        if not (undoable := self.opened.db.undoLog(0, 4)):
            return
        self.opened.manager.begin()
        try:
            self.opened.db.undo(self.random.choice(undoable)["id"], self.opened.manager.get())
            self.opened.manager.commit()
        except (UndoError, POSKeyError):
            self.opened.manager.abort()
            self.did["not undone"] += 1

    def delete(self) -> None:
        """Take an object away, and then delete it as a garbage collector for several databases does."""
        self.opened.put(**{"text-9": "soon gone"})
        gone = self.opened.root["text-9"]
        self.opened.put(**{"text-9": None})
        storage, meta = self.opened.storage.new_instance(), TransactionMetaData()
        try:
            storage.tpc_begin(meta)
            storage.deleteObject(gone._p_oid, gone._p_serial, meta)
            storage.tpc_vote(meta)
            storage.tpc_finish(meta)
        finally:
            storage.release()


@pytest.mark.parametrize("seed", range(SEEDS))
@EACH
def test_random_histories(
    make: Make, postgres: Cluster, dumping: Dumping, history: bool, shared: bool, seed: int
) -> None:
    vault, choose = make(history, shared), random.Random(seed)
    backups: list[tuple[str, Held]] = []
    for number, next_number in enumerate((60, 100, 300_000, 300_001, 300_002)):
        made = backed_up(vault)
        assert made["how"] == ("incremental" if number else "full"), made["reason"]
        backups.append((made["id"], dumping.held(postgres)))
        # new objects are in another row, and in another file of the set
        execute(vault.login, "SELECT setval('zoid_seq', %s)", (next_number,))
        with vault.site.opened() as opened:
            working = Working(opened, seed + number, history=history)
            if number == 2:
                working.pack()
            for _ in range(choose.randint(1, 12)):
                working.work()
    for backup, wanted in (choose.choice(backups[1:-1]), backups[-1]):
        site, login = restored(vault, postgres, backup)
        require_same(held_by(login, login.user), wanted)
        assert set(relstorage_sites.state(site)) >= {"title"}
    report = vault.done("verify", "--json").document
    assert (report["damage"], report["source"]) == ([], [])
    assert report["checked"]["rows"] == sum(
        len(rows) for name, rows in wanted.rows.items() if name not in DERIVED
    )


@pytest.mark.parametrize("history", [False, True])
def test_a_writer_does_not_disturb(make: Make, postgres: Cluster, dumping: Dumping, history: bool) -> None:
    vault = make(history)
    backed_up(vault)
    with committing(vault.site):
        made = [backed_up(vault) for _ in range(3)]
    assert [one["how"] for one in made] == 3 * ["incremental"]
    assert made[-1]["databases"][0]["last_tid"] < "0x" + relstorage_sites.last_tid(vault.site).hex()
    _site, login = restored(vault, postgres)
    require_same(held_by(login, login.user), dumping.held(postgres))


def test_nothing_new_costs_nearly_nothing(make: Make) -> None:
    vault = make(history=False)
    backed_up(vault)
    backed_up(vault)
    made = backed_up(vault)
    assert (made["how"], made["reason"]["code"], made["databases"][0]["transactions_added"]) == (
        "incremental",
        "unchanged",
        0,
    )
    assert made["added"] < 5_000, made["added"]
    assert vault.created("--method", "transactions", "--skip-unchanged")["status"] == "skipped"


@pytest.mark.parametrize("history", [False, True])
def test_over_what_is_there_and_beside_it(
    make: Make, postgres: Cluster, dumping: Dumping, history: bool
) -> None:
    vault = make(history)
    backed_up(vault)
    with vault.site.opened() as opened:
        opened.put(title="changed", logo=NOISE[4], photo=None)
        opened.pack()
    made = backed_up(vault)
    wanted = dumping.held(postgres)
    for creates, way in ((False, "over it, in one transaction"), (True, "beside it")):
        with vault.site.opened() as opened:
            opened.put(title="to be lost", logo=NOISE[5], more=NOISE[6])
        execute(postgres.login(), f"ALTER ROLE {vault.login.user} {'' if creates else 'NO'}CREATEDB")
        printed = vault.done("restore", made["id"], "--replace", "--no-safety-backup", "--yes")
        assert way in printed.err
        found = held_by(vault.login, vault.login.user)
        if not creates:  # those of the replaced state stay
            assert set(found.large_objects) > set(wanted_of(found, wanted))
            found = found._replace(large_objects=wanted_of(found, wanted))
        require_same(found, wanted)
    made = backed_up(vault)
    assert made["how"] == "full" and "it is another database now" in made["reason"]["text"]


def wanted_of(found: Held, wanted: Held) -> list[tuple[Any, ...]]:
    return [one for one in found.large_objects if one[:2] in {other[:2] for other in wanted.large_objects}]


def test_as_a_superuser_everything_belongs_to_the_owner(
    make: Make, postgres: Cluster, dumping: Dumping
) -> None:
    vault = make()
    backed_up(vault)
    with vault.site.opened() as opened:
        opened.put(title="changed", logo=NOISE[4])
    backed_up(vault)
    login = postgres.database()
    admin = vault.site._replace(adapter=on(postgres.login(login.name)), blob_dir=vault.directory / "other")
    vault.done("restore", "--target", admin.write_conf(vault.directory / "other.conf"), "--yes")
    found = held_by(login, login.user)
    require_same(found, dumping.held(postgres))
    assert {owner for _number, _digest, owner in found.large_objects} == {login.user}


@pytest.mark.parametrize("history", [False, True])
def test_a_number_of_a_large_object_that_is_used_again(
    make: Make, postgres: Cluster, dumping: Dumping, history: bool
) -> None:
    vault = make(history)
    with vault.site.opened() as opened:
        opened.pack()
    backed_up(vault)
    ((old,),) = execute(vault.login, "SELECT max(chunk) FROM blob_chunk")
    with vault.site.opened() as opened:
        opened.put(**{key: None for key in list(opened.root) if key in ("logo", "photo", "scan")})
        opened.pack()
        opened.put(another=NOISE[5])
    assert execute(vault.login, "SELECT 1 FROM pg_largeobject_metadata WHERE oid = %s", (old,)) == []
    ((new,),) = execute(vault.login, "SELECT max(chunk) FROM blob_chunk")
    execute(vault.login, "SELECT lo_from_bytea(%s, lo_get(%s))", (old, new))
    execute(vault.login, "UPDATE blob_chunk SET chunk = %s WHERE chunk = %s", (old, new))
    execute(vault.login, "SELECT lo_unlink(%s)", (new,))
    assert backed_up(vault)["how"] == "incremental"
    _site, login = restored(vault, postgres)
    require_same(held_by(login, login.user), dumping.held(postgres))


def test_to_any_transaction(make: Make, postgres: Cluster) -> None:
    vault = make()
    backed_up(vault)
    known = []
    with vault.site.opened() as opened:
        for number in range(4):
            known.append((opened.put(title=str(number), logo=NOISE[number]), {"title": str(number)}))
    backed_up(vault)
    login = postgres.database(postgres.role("zodb", "CREATEDB"))
    site = vault.site._replace(adapter=on(login), blob_dir=vault.directory / "other")
    tid, wanted = known[1]
    vault.done(
        "restore",
        "--target",
        site.write_conf(vault.directory / "other.conf"),
        "--tid",
        "0x" + tid.hex(),
        "--yes",
    )
    assert relstorage_sites.state(site).items() >= wanted.items()
    assert relstorage_sites.last_tid(site) == tid


@pytest.mark.parametrize("history", [False, True])
def test_by_hand(make: Make, postgres: Cluster, dumping: Dumping, tmp_path: Path, history: bool) -> None:
    vault = make(history)
    execute(vault.login, 'CREATE TABLE "odd \'name" (id serial PRIMARY KEY, note text)')
    backed_up(vault)
    execute(vault.login, "INSERT INTO \"odd 'name\" (note) VALUES ('a\tb'), (NULL)")
    with vault.site.opened() as opened:
        opened.put(title="changed", logo=NOISE[4], photo=None)
        opened.pack()
    made = backed_up(vault)
    by_hand(vault.repository, made["id"], tmp_path / "hand")
    vault.done("restore", made["id"], "--output", tmp_path / "out", "--yes")
    for directory in (tmp_path / "hand", tmp_path / "out"):
        login = postgres.database()
        laid_over_by_hand(directory, login)
        require_same(held_by(login, login.user), dumping.held(postgres))


def laid_over_by_hand(directory: Path, login: Login) -> None:
    """Do what RECOVERY.md says."""
    who = [f"--host={login.host}", f"--username={login.user}", f"--dbname={login.name}"]
    restore = ["pg_restore", *who, "--no-owner", "--no-acl", "--exit-on-error", "database.dump"]
    script = ["psql", *who, "--no-psqlrc", "--single-transaction", "--file=deltas.sql"]
    for command in (
        [*restore, "--section=pre-data"],
        [*restore, "--section=data"],
        script,
        [*restore, "--section=post-data"],
    ):
        environment = os.environ | {"PGPASSWORD": login.password or ""}
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_unknown_tables_are_stored_completely(make: Make, postgres: Cluster, dumping: Dumping) -> None:
    vault = make()
    for statement in (
        "CREATE TABLE author (name text PRIMARY KEY)",
        (
            "CREATE TABLE note (id serial PRIMARY KEY, by text REFERENCES author, what text, length int "
            "GENERATED ALWAYS AS (length(what)) STORED)"
        ),
        "INSERT INTO author VALUES ('eve'), ('bob')",
        "INSERT INTO note (by, what) VALUES ('eve', E'one\\ntwo'), ('bob', NULL)",
    ):
        execute(vault.login, statement)
    backed_up(vault)
    backed_up(vault)
    first = stored_whole(vault)
    execute(vault.login, "DELETE FROM note WHERE by = 'bob'")
    backed_up(vault)
    second = stored_whole(vault)
    assert {name for name in first if first[name] != second[name]} == {"public.note"}
    _site, login = restored(vault, postgres)
    require_same(held_by(login, login.user), dumping.held(postgres))
    assert vault.done("verify", "--json").document["damage"] == []


def stored_whole(vault: RelVault) -> dict[str, Any]:
    """Return the tables that are stored completely, each with its objects."""
    storage = vault.done("show", "--json").document["manifest"]["databases"][0]["storage"]
    return {file["table"]: file["parts"] for file in storage["whole"]}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("ALTER TABLE object_state ADD COLUMN more text", "definitions of its tables have changed"),
        (
            "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "definitions of its tables have changed",
        ),
        (
            "INSERT INTO blob_chunk SELECT zoid, tid, 1, lo_from_bytea(0, 'more') FROM blob_chunk LIMIT 1",
            "blobs are in several large objects",
        ),
        (
            "INSERT INTO object_state SELECT 99999, tid, 0, md5, state_size, state FROM object_state LIMIT 1",
            "were added to public.object_state",
        ),
        ("SELECT lo_unlink(chunk) FROM blob_chunk LIMIT 1", None),
    ],
)
def test_what_a_delta_could_not_bring_makes_a_new_base(make: Make, change: str, why: str | None) -> None:
    vault = make()
    backed_up(vault)
    execute(vault.login, change)
    planned = vault.done("plan", "--method", "transactions", "--json").document["databases"][0]
    made = vault("create", "--method", "transactions", "--json").document
    assert (planned["how"], planned["reason"]) == (made["how"], made["reason"])
    assert planned["method"] == "transactions"
    if why is None:  # a large object that is lost: reported at once, and the next backup is a new base
        assert (made["how"], made["status"]) == ("incremental", "incomplete")
        made, why = (
            vault("create", "--method", "transactions", "--json").document,
            "none that deltas go on from",
        )
    assert made["how"] == "full" and why in made["reason"]["text"], made["reason"]


def test_other_methods_and_other_pasts_make_a_new_base(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = make(history=False)
    backed_up(vault)
    assert backed_up(vault)["how"] == "incremental"
    assert vault.created()["how"] == "full"
    made = backed_up(vault)
    assert made["how"] == "full" and "none that deltas go on from" in made["reason"]["text"]
    assert backed_up(vault, "--full")["reason"]["code"] == "forced"
    assert backed_up(vault)["how"] == "incremental"
    with monkeypatch.context() as patch:
        patch.setenv("PGCLIENTENCODING", "LATIN1")
        assert "copied as LATIN1" in backed_up(vault)["reason"]["text"]
    assert backed_up(vault)["how"] == "incremental"
    monkeypatch.setattr(SnapshotTables, "server_identity", lambda _tables: "another/2")
    made = backed_up(vault)
    assert made["how"] == "full" and "its server was restored or replaced" in made["reason"]["text"]


def test_a_delta_needs_no_more_than_select(make: Make, postgres: Cluster, dumping: Dumping) -> None:
    vault = make(history=True, shared=True)
    backed_up(vault)
    with vault.site.opened() as opened:
        opened.put(title="changed", logo=NOISE[4])
    reader = postgres.role("reader")
    execute(
        vault.login,
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA "
        f"public TO {reader}",
    )
    vault.conf.write_text(vault.site._replace(adapter=on(vault.login._replace(user=reader))).conf)
    assert backed_up(vault)["how"] == "incremental"
    _site, login = restored(vault, postgres)
    require_same(held_by(login, login.user), dumping.held(postgres))


@pytest.mark.parametrize("history", [False, True])
def test_a_delta_with_a_missing_row_is_found_and_not_restored(
    make: Make, postgres: Cluster, monkeypatch: pytest.MonkeyPatch, history: bool
) -> None:
    vault = make(history)
    backed_up(vault)
    with vault.site.opened() as opened:
        opened.put(title="changed", one="new")
        opened.put(title="changed again")
    rows = DeltaWriter.store_rows

    def fewer(writer: DeltaWriter, table: TableName, query: str, *arguments: Any, **options: Any) -> Any:
        # only the number of rows would show a revision, and only its TID a changed object
        which = "max(zoid)" if history else "min(zoid)"
        missing = (
            f" AND zoid <> (SELECT {which} FROM object_state)"
            if table.name == "object_state" and "WHERE tid" in query
            else ""
        )
        return rows(writer, table, query + missing, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DeltaWriter, "store_rows", fewer)
        backed_up(vault)
    done = vault("verify", "--json")
    assert (done.status, {one["what"] for one in done.document["damage"]}) == (4, {"table"}), done
    login = postgres.database()
    conf = vault.site._replace(adapter=on(login), blob_dir=vault.directory / "other").write_conf(
        vault.directory / "other.conf"
    )
    refused = vault("restore", "--target", conf, "--yes", "--json")
    assert refused.status in (1, 4), refused
    assert execute(login, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    assert execute(login, "SELECT count(*) FROM pg_largeobject_metadata") == [(0,)]


@pytest.mark.parametrize("level", ["objects", "bytes", "records"])
def test_every_file_of_a_delta_is_checked(make: Make, level: str) -> None:
    vault = make(history=True)
    backed_up(vault)
    known = vault.objects()
    with vault.site.opened() as opened:
        opened.put(title="changed", logo=NOISE[4])
        opened.pack()
    backed_up(vault)
    storage = vault.done("show", "--json").document["manifest"]["databases"][0]["storage"]
    new = vault.objects() - known - {part["object"] for block in storage["log"] for part in block["log"]}
    assert len(new) >= 8  # rows of four tables, large objects, keys of four tables, the script
    for name in sorted(new):
        path = vault.repository / "objects" / name[:2] / name
        content = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(
            content[:-1] if level == "objects" else content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
        )
        done = vault("verify", "--level", level, "--json")
        assert done.status == 4, (name, done)
        path.write_bytes(content)
    assert vault("verify", "--level", level).status == 0


def test_a_full_repository_while_rows_are_copied(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = make()
    backed_up(vault)
    with vault.site.opened() as opened:
        opened.put(title="changed", logo=NOISE[4])
    before, write = vault.backups(), ContentWriter.write

    def full(writer: ContentWriter, data: bytes) -> None:
        if "rows." in writer.to:
            raise OSError(errno.ENOSPC, "No space left on device", "objects")
        write(writer, data)

    with monkeypatch.context() as patch:
        patch.setattr(ContentWriter, "write", full)
        done = vault("create", "--method", "transactions", "--json")
    assert done.status == 1 and "No space left" in done.error["message"], done
    assert vault.backups() == before
    assert backed_up(vault)["how"] == "incremental"


def test_the_level_restore(make: Make) -> None:
    vault = make(history=True)
    backed_up(vault)
    with vault.site.opened() as opened:
        opened.put(title="changed", logo=NOISE[4], photo=None)
        opened.pack()
    backed_up(vault)
    done = vault("verify", "--level", "restore", "--json")
    assert (done.status, done.document["damage"]) == (0, []), done
    assert done.document["checked"]["blobs opened"] == 1, done.document


def test_the_manifest_says_what_a_reader_has_to_know(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    vault = make()
    backed_up(vault)
    first = vault.done("show", "--json").document["manifest"]
    backed_up(vault)
    second = vault.done("show", "--json").document["manifest"]
    assert (first["requires"], second["requires"]) == (["dump"], ["dump", "deltas"])
    assert "0 deltas after the base of 20" in vault.done("show").out
    for manifest in (first, second):
        (entry,) = manifest["databases"]
        assert (entry["method"], entry["experimental"]) == ("transactions", True)
    assert [entry["storage"]["kind"] for entry in (*first["databases"], *second["databases"])] == [
        "pg_dump",
        "pg_transactions",
    ]


def test_other_storages_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vault = RelVault(
        tmp_path,
        capsys,
        RelSite(f"<sqlite3>\n data-dir {tmp_path / 'data'}\n</sqlite3>", False, tmp_path / "blobs", False),
    )
    refused = vault("create", "--method", "transactions", "--json")
    assert (refused.status, refused.error["kind"]) == (2, "nothing-to-back-up")
    assert "in PostgreSQL" in refused.error["message"]


def test_many_deltas_are_lists_and_are_copied_for_other_recipients(
    make: Make, postgres: Cluster, dumping: Dumping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "TAIL_LIMIT", 2)
    monkeypatch.setattr(chain, "TAIL_KEPT", 1)
    vault = make()
    backed_up(vault)
    for number in range(4):
        with vault.site.opened() as opened:
            opened.put(title=str(number), logo=NOISE[number])
            opened.pack()
        backed_up(vault)
    assert (
        len(vault.done("show", "--json").document["manifest"]["databases"][0]["storage"]["delta_lists"]) == 1
    )
    recipient, identity = key_pairs.x25519(tmp_path / "identity")
    source, vault.repository = vault.repository, tmp_path / "copy"
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY_ENCRYPTION_RECIPIENTS", recipient)
    vault.done("repository", "init")
    vault.repository, copy = source, vault.repository
    vault.done("repository", "copy", copy)
    monkeypatch.setenv("ZODB_VAULT_IDENTITY_FILE", str(identity))
    vault.repository = copy
    for level in ("objects", "records"):
        assert vault.done("verify", "--level", level, "--json").document["damage"] == []
    _site, login = restored(vault, postgres)
    require_same(held_by(login, login.user), dumping.held(postgres))


# zodb-pgjsonb


@pytest.fixture
def make_pgjsonb(
    postgres: Cluster, moto: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Make:
    """Make a site on zodb-pgjsonb with some content."""

    def make(history: bool, tiered: bool) -> RelVault:
        login = postgres.database()
        vault = RelVault(
            tmp_path,
            capsys,
            PgjsonbSite(
                login, history, tmp_path / "cache", Place(moto, moto.bucket(), "plone") if tiered else None
            ),
        )
        vault.login = login
        vault.fill()
        return vault

    return make


@needs_pgjsonb
@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize(("history", "tiered"), [(False, True), (True, False)])
def test_random_histories_of_pgjsonb(
    make_pgjsonb: Make, postgres: Cluster, dumping: Dumping, history: bool, tiered: bool, seed: int
) -> None:
    vault, choose = make_pgjsonb(history, tiered), random.Random(seed)
    backups: list[tuple[str, Held]] = []
    hows: list[str] = []
    for number in range(5):
        done = vault("create", "--method", "transactions", "--json")
        assert done.status in (0, 3), done  # an undo gives a blob back without its content
        made = done.document
        backups.append((made["id"], dumping.held(postgres)))
        hows.append(made["how"])
        with vault.site.opened() as opened:
            if number == 2:
                opened.pack()
            working = Working(opened, seed + number, history=history)
            for _ in range(choose.randint(1, 10)):
                choose.choice(
                    [working.text, working.blob, working.remove, *([working.undo] if history else [])]
                )()
    # where history is kept, a pack makes a new base
    assert hows == ["full", "incremental", "incremental", "full" if history else "incremental", "incremental"]
    for backup, wanted in (backups[2], backups[-1]):
        report = vault.done("verify", backup, "--json").document
        assert report["damage"] == []
        login = postgres.database()
        vault.done("restore", backup, "--output", vault.directory / login.name, "--yes", "--allow-incomplete")
        laid_over_by_hand(vault.directory / login.name, login)
        require_same(held_by(login, login.user), wanted)


@needs_pgjsonb
@pytest.mark.parametrize("history", [False, True])
def test_an_object_in_s3_that_no_pack_has_is_damage(
    make_pgjsonb: Make, monkeypatch: pytest.MonkeyPatch, history: bool
) -> None:
    vault = make_pgjsonb(history, True)
    backed_up(vault)
    with vault.site.opened() as opened:
        opened.put(later=NOISE[7])
    with monkeypatch.context() as patch:
        patch.setattr(blob_capture, "pack_missing", lambda *_arguments: iter(()))
        patch.setattr(blob_capture, "note_missing", lambda *_arguments: MissingBlobs(count=0, list=None))
        made = backed_up(vault)
    assert made["how"] == "incremental"
    done = vault("verify", made["id"], "--json")
    assert (done.status, [one["what"] for one in done.document["damage"]]) == (4, ["blob"])
    assert (done.document["checked"].get("transactions", 0) > 0) == history


@needs_pgjsonb
def test_what_was_undone_comes_back(make_pgjsonb: Make, postgres: Cluster, dumping: Dumping) -> None:
    """An object whose creation was undone has only former revisions.

    When the undo is undone, a revision is named that the previous backup has already.
    """
    vault = make_pgjsonb(True, False)
    with vault.site.opened() as opened:
        opened.put(created="once")
        backed_up(vault)
        for _ in range(2):
            opened.manager.begin()
            opened.db.undo(opened.db.undoLog(0, 1)[0]["id"], opened.manager.get())
            opened.manager.commit()
            assert backed_up(vault)["how"] == "incremental"
    assert vault.done("verify", "--json").document["damage"] == []
    login = postgres.database()
    vault.done("restore", "--output", vault.directory / "out", "--yes")
    laid_over_by_hand(vault.directory / "out", login)
    require_same(held_by(login, login.user), dumping.held(postgres))


@needs_pgjsonb
def test_a_sequence_that_was_set_gives_no_number_twice(
    make_pgjsonb: Make, postgres: Cluster, dumping: Dumping
) -> None:
    vault = make_pgjsonb(False, False)
    backed_up(vault)
    execute(vault.login, "SELECT setval('zoid_seq', 5000, false)")
    assert backed_up(vault)["how"] == "incremental"
    login = postgres.database()
    vault.done("restore", "--output", vault.directory / "out", "--yes")
    laid_over_by_hand(vault.directory / "out", login)
    assert execute(login, "SELECT nextval('zoid_seq')") == [(5000,)]


@needs_pgjsonb
def test_tids_of_the_past_and_columns_of_others(make_pgjsonb: Make) -> None:
    """Every process of zodb-pgjsonb takes TIDs from its own clock: a slow clock commits into the past."""
    vault = make_pgjsonb(False, False)
    backed_up(vault)
    execute(vault.login, "INSERT INTO transaction_log (tid) SELECT max(tid) - 1000 FROM transaction_log")
    made = backed_up(vault)
    assert (
        made["how"] == "full"
        and "rows with TIDs in the past were added to public.transaction_log" in made["reason"]["text"]
    )
    execute(vault.login, "ALTER TABLE object_state ADD COLUMN idx jsonb")
    assert "definitions" in backed_up(vault)["reason"]["text"]
    made = backed_up(vault)
    assert (
        made["how"] == "full"
        and "columns that may change without a transaction: idx" in made["reason"]["text"]
    )
