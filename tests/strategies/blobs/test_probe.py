"""Where blobs really are, in real databases: SQLite and PostgreSQL, with RelStorage and zodb-pgjsonb."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import transaction
import ZODB.config
from command_line import Outcome, Vault, stored, tree
from command_line import process as vault_process
from persistent.mapping import PersistentMapping
from services.postgres import Cluster
from ZODB import DB
from ZODB.blob import Blob

from zodb_vault.config.zopeconf import read_site
from zodb_vault.errors import ConfigurationError
from zodb_vault.model.source import Database
from zodb_vault.strategies.backend import Opinion
from zodb_vault.strategies.backend_lookup import backend_of
from zodb_vault.strategies.postgres import probe as postgres_probe
from zodb_vault.strategies.relstorage import probe
from zodb_vault.strategies.sql.probe import CONNECT_SECONDS

pytestmark = pytest.mark.usefixtures("clean_environment")

AGREED = Opinion(True, [])


def second_opinion_of(database: Database) -> Opinion | None:
    """Return what the backend of a database finds out."""
    return backend_of(database).second_opinion(database)


class Site:
    """A RelStorage that can be written to one way and configured another."""

    def __init__(self, directory: Path, adapter: str, history: bool) -> None:
        self.directory, self.adapter, self.history = directory, adapter, history

    def section(self, shared: str = "off", blob_dir: str | None = "blobs") -> str:
        where = (
            "" if blob_dir is None else f"blob-dir {self.directory / blob_dir}\nshared-blob-dir {shared}\n"
        )
        return f"<relstorage>\nkeep-history {self.history}\n{where}{self.adapter}\n</relstorage>"

    @contextlib.contextmanager
    def open(self, shared: str, blob_dir: str = "blobs", blob: bool = True) -> Iterator[DB]:
        """Write a few objects, and have the storage open."""
        storage = ZODB.config.storageFromString(f"%import relstorage\n{self.section(shared, blob_dir)}")
        database = DB(storage)
        with database.transaction() as connection:
            connection.root()["news"] = PersistentMapping(text="ZODB.blob is not a blob")
            if blob:
                connection.root()["photo"] = Blob(b"a picture")
        yield database
        transaction.abort()
        database.close()

    def write(self, shared: str = "off", blob_dir: str = "blobs", blob: bool = True) -> None:
        with self.open(shared, blob_dir, blob):
            pass

    def conf(self, section: str) -> Path:
        file = self.directory / "zope.conf"
        file.write_text(f"<zodb_db main>\nmount-point /\n{section}\n</zodb_db>\n")
        return file

    def database(self, section: str) -> Database:
        return read_site(self.conf(section), "plone", {}, self.directory).databases[0]

    def opinion(self, shared: str = "off", blob_dir: str | None = "blobs") -> Opinion | None:
        return second_opinion_of(self.database(self.section(shared, blob_dir)))

    def refused(self, shared: str = "off", blob_dir: str | None = "blobs") -> str:
        with pytest.raises(ConfigurationError) as caught:
            self.opinion(shared, blob_dir)
        assert caught.value.hint
        return str(caught.value)


@pytest.fixture
def dsn(postgres: Cluster) -> str:
    """The DSN of an empty database, password included."""
    return postgres.database().dsn


@pytest.fixture(
    params=["sqlite3 with history", "sqlite3 without", "postgresql with history", "postgresql without"]
)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    kind, _, history = request.param.partition(" ")
    if kind == "sqlite3":
        (tmp_path / "data").mkdir()
        adapter = f"<sqlite3>\ndata-dir {tmp_path}/data\n</sqlite3>"
    else:
        adapter = f"<postgresql>\ndsn {request.getfixturevalue('dsn')}\n</postgresql>"
    return Site(tmp_path, adapter, history == "with history")


@pytest.fixture
def sqlite(tmp_path: Path) -> Site:
    (tmp_path / "data").mkdir()
    return Site(tmp_path, f"<sqlite3>\ndata-dir {tmp_path}/data\n</sqlite3>", True)


def marked(directory: Path, name: str, layout: str = "bushy") -> str:
    (directory / name).mkdir()
    (directory / name / ".layout").write_text(layout)
    return name


def test_blobs_in_the_database(site: Site) -> None:
    """F25."""
    site.write("off")
    assert site.opinion("off") == AGREED
    message = site.refused("on", "new")
    assert (
        f"configured to be in {site.directory / 'new'}, but blob_chunk of the database holds blobs" in message
    )
    assert "a cache would be taken for all of them" in message
    shared = site.opinion("on", marked(site.directory, "all"))
    assert shared is not None
    assert shared.answered
    assert "they are from before that, and in the dump" in shared.warnings[0]
    nowhere = site.opinion(blob_dir=None)
    assert nowhere is not None
    assert "they are in its dump" in nowhere.warnings[0]
    wrapped = second_opinion_of(
        site.database(
            f"<s3blobstorage>\nbucket-name b\ncache-dir c\n{site.section(blob_dir=None)}\n</s3blobstorage>"
        )
    )
    assert wrapped is not None
    assert "configured to be in S3, but blob_chunk" in wrapped.warnings[0]


def test_blobs_in_a_directory(site: Site) -> None:
    site.write("on")
    assert site.opinion("on") == AGREED
    assert "blob_chunk there is empty and the object 0x00000000000000" in site.refused("off", "cache")
    assert "a directory that is not named" in site.refused(blob_dir=None)


def test_no_blobs_at_all(site: Site) -> None:
    site.write("off", blob=False)
    for shared, blob_dir in (
        ("off", "blobs"),
        ("on", marked(site.directory, "all")),
        ("on", "new"),
        ("off", None),
    ):
        assert site.opinion(shared, blob_dir) == AGREED


def test_a_database_that_was_never_used(site: Site) -> None:
    opinion = site.opinion("off", "new")
    assert opinion is not None
    assert ("no tables of RelStorage yet" in opinion.warnings[0]) == opinion.answered
    assert opinion.answered or "main.sqlite3 does not exist" in opinion.warnings[0]


def test_nothing_is_changed_whether_the_site_runs_or_not(sqlite: Site) -> None:
    with sqlite.open("off"):
        before = tree(sqlite.directory / "data")
        assert "main.sqlite3-wal" in before
        assert sqlite.opinion() == AGREED
        assert tree(sqlite.directory / "data") == before
    before = tree(sqlite.directory / "data")
    assert "main.sqlite3-wal" not in before
    assert sqlite.opinion() == AGREED
    assert tree(sqlite.directory / "data") == before
    (sqlite.directory / "data" / "main.sqlite3-wal").write_bytes(b"")
    opinion = sqlite.opinion()
    assert opinion is not None
    assert "not closed properly" in opinion.warnings[0]
    assert set(tree(sqlite.directory / "data")) == {*before, "main.sqlite3-wal"}


def test_what_a_running_site_has_just_written_is_seen(sqlite: Site) -> None:
    with sqlite.open("off", blob=False) as database:
        assert sqlite.opinion("on", "new") == AGREED
        with database.transaction() as connection:
            connection.root()["photo"] = Blob(b"a picture")
        assert "blob_chunk of the database holds blobs" in sqlite.refused("on", "new")


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to be looked at" * 50])
def test_what_is_no_database_is_a_warning(sqlite: Site, content: bytes) -> None:
    (sqlite.directory / "data" / "main.sqlite3").write_bytes(content)
    opinion = sqlite.opinion()
    assert opinion is not None
    assert len(opinion.warnings) == 1
    assert opinion.answered == (content == b"")


def test_many_objects_without_a_blob_are_not_looked_through_to_the_end(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write("on")
    if "sqlite3" in site.adapter:
        monkeypatch.setattr(probe, "ANSWER_SECONDS", -1.0)
        # the handler is asked after so many steps only
        original = probe.sqlite3.connect
        monkeypatch.setattr(probe.sqlite3, "connect", lambda *a, **k: _Impatient(original(*a, **k)))
    else:
        monkeypatch.setattr(probe, "BLOB_RECORD", "512 and pg_sleep(9)::text is not null")
        monkeypatch.setattr(postgres_probe, "ANSWER_SECONDS", 0.3)
    begun = time.monotonic()
    assert site.opinion("off", "cache") == AGREED
    assert time.monotonic() - begun < 5


class _Impatient:
    """A connection that is interrupted in the statement about objects, as one over millions of them is."""

    def __init__(self, connection: object) -> None:
        self._connection = connection

    def set_progress_handler(self, handler: object, _steps: int) -> None:
        self._handler = handler

    def execute(self, statement: str) -> object:
        steps = 1 if "instr" in statement else 10**9
        self._connection.set_progress_handler(self._handler, steps)  # type: ignore[attr-defined]
        return self._connection.execute(statement)  # type: ignore[attr-defined]

    def close(self) -> None:
        self._connection.close()  # type: ignore[attr-defined]


# PostgreSQL


@pytest.fixture
def pg(dsn: str, tmp_path: Path) -> Site:
    return Site(tmp_path, f"<postgresql>\ndsn {dsn}\n</postgresql>", True)


def test_a_locked_table_causes_no_delay(pg: Site, dsn: str) -> None:
    pg.write("off")
    with contextlib.closing(psycopg2.connect(dsn)) as other:
        other.cursor().execute("lock table object_state, blob_chunk in access exclusive mode")
        begun = time.monotonic()
        opinion = pg.opinion()
        assert time.monotonic() - begun < CONNECT_SECONDS
    assert opinion is not None
    assert opinion == Opinion(
        False, ["the database was not asked where its blobs are: it refused to answer (55P03)"]
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("host=127.0.0.1 port={closed} dbname=zodb password=hunter2", "Connection refused"),
        ("host=127.0.0.1 port={silent} dbname=zodb password=hunter2", "timeout expired"),
        ("postgresql://zope:hunter2@127.0.0.1:{closed}/zodb", "Connection refused"),
        ("host=/nowhere dbname=zodb", "No such file or directory"),
        ("{absent} password=hunter2", "does not exist"),
        ("host=hunter2@nowhere.invalid", "could not translate host name"),
        ("password=hunter2 hunter2", "the connection failed"),
        ("password='hunter2", "the connection failed"),
        ("postgresql://zope:hunter2@[/", "the connection failed"),
        ("hunter2", "the connection failed"),
    ],
)
def test_a_database_that_cannot_be_reached_is_a_warning_soon_and_without_a_secret(
    tmp_path: Path, postgres: Cluster, given: str, reason: str
) -> None:
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        closed.bind(("127.0.0.1", 0))
        site = Site(tmp_path, "", True)
        text = given.format(
            closed=closed.getsockname()[1],
            silent=silent.getsockname()[1],
            absent=postgres.login("absent").dsn,
        )
        begun = time.monotonic()
        opinion = second_opinion_of(
            site.database(f"<relstorage>\n<postgresql>\ndsn {text}\n</postgresql>\n</relstorage>")
        )
        assert time.monotonic() - begun < 2 * CONNECT_SECONDS
    assert opinion == Opinion(
        False, [f"the database was not asked where its blobs are: it cannot be reached ({reason})"]
    )


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://zope:hunter2/x@h/db",
        "host=/nowhere;password=hunter2",
        "host=/nowhere port=hunter2",
        "password='hunter2",
        "password=hunter2 hunter2",
        "host=/nowhere password=hunter2",
    ],
)
def test_what_a_driver_says_of_a_dsn_shows_no_secret_of_it(tmp_path: Path, vault: Vault, given: str) -> None:
    conf = Site(tmp_path, "", True).conf(
        f"<relstorage>\n<postgresql>\ndsn {given}\n</postgresql>\n</relstorage>"
    )
    for arguments in (
        ["plan"],
        ["plan", "-v"],
        ["create", "-v"],
        ["doctor"],
        ["plan", "--method", "portable", "--json"],
    ):
        outcome = vault.bare("--repository", vault.repository, "--zope-conf", conf, *arguments)
        assert outcome.status == (0 if arguments[0] == "plan" else outcome.status)
        assert "hunter2" not in outcome.out + outcome.err
    # in a separate process: Python prints what packages log when no handler does
    printed = vault_process(
        "--repository", vault.repository, "--zope-conf", conf, "create", "--method", "portable", cwd=tmp_path
    )
    assert printed.status != 0
    assert "hunter2" not in printed.out + printed.err


def test_without_psycopg2_no_server_is_asked(pg: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "psycopg2", None)
        opinion = pg.opinion()
    assert opinion == Opinion(
        False,
        ["the database was not asked where its blobs are: psycopg2-binary or psycopg2 is not installed"],
    )


def test_only_databases_in_a_server_are_asked(tmp_path: Path) -> None:
    site = Site(tmp_path, "<mysql/>", True)
    assert site.opinion() is None
    assert second_opinion_of(site.database("<filestorage>\npath /Data.fs\n</filestorage>")) is None
    assert second_opinion_of(site.database("<zeoclient>\nserver 8100\n</zeoclient>")) is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="zodb-pgjsonb needs Python 3.12")
def test_objects_in_a_bucket_that_was_not_named(tmp_path: Path, dsn: str) -> None:
    site = Site(tmp_path, "", True)
    plain = site.database(f"<pgjsonb>\ndsn {dsn}\n</pgjsonb>")
    tiered = site.database(f"<pgjsonb>\ndsn {dsn}\ns3-bucket-name b\n</pgjsonb>")
    opinion = second_opinion_of(plain)
    assert opinion is not None
    assert "no tables of zodb-pgjsonb yet" in opinion.warnings[0]
    section = f"%import zodb_pgjsonb\n<pgjsonb>\ndsn {dsn}\ncache-warm-pct 0\n</pgjsonb>"
    with contextlib.closing(DB(ZODB.config.storageFromString(section))) as database:
        with database.transaction() as connection:
            connection.root()["photo"] = Blob(b"a picture")
        assert second_opinion_of(plain) == second_opinion_of(tiered) == AGREED
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection:
        connection.cursor().execute("update blob_state set s3_key = 'blobs/1/2.blob', data = null")
    assert second_opinion_of(tiered) == AGREED
    with pytest.raises(ConfigurationError, match="names no s3-bucket-name"):
        second_opinion_of(plain)


# plan and doctor


def test_plan_warns_and_fails_only_where_blobs_would_be_lost(sqlite: Site, vault: Vault) -> None:
    sqlite.write("off")

    def planned(section: str, *arguments: str) -> Outcome:
        return vault.bare(
            "--repository", vault.repository, "--zope-conf", sqlite.conf(section), "plan", *arguments
        )

    agreed = planned(sqlite.section(), "--json")
    assert agreed.status == 0
    assert not [warning for warning in agreed.document["databases"][0]["warnings"] if "blob" in warning]
    assert (
        "blob_chunk of the database holds blobs: they are in its dump"
        in planned(sqlite.section(blob_dir=None)).out
    )
    refused = planned(sqlite.section("on", "new"), "--json")
    assert (refused.status, refused.error["kind"], refused.out) == (2, "configuration", "")
    assert "database main: " in refused.error["message"]
    unknown = planned(
        "<relstorage>\n<postgresql>\ndsn host=/nowhere password=hunter2\n</postgresql>\n</relstorage>"
    )
    assert unknown.status == 0
    assert (
        "was not asked where its blobs are: it cannot be reached (No such file or directory)" in unknown.out
    )
    assert "hunter2" not in unknown.out + unknown.err


def test_all_databases_are_reported_at_once(tmp_path: Path, vault: Vault) -> None:
    sections = []
    for name in ("one", "two"):
        (tmp_path / name / "data").mkdir(parents=True)
        site = Site(tmp_path / name, f"<sqlite3>\ndata-dir {tmp_path}/{name}/data\n</sqlite3>", True)
        site.write("on")
        sections.append(
            f"<zodb_db {name}>\nmount-point /{name}\n{site.section('off', 'cache')}\n</zodb_db>\n"
        )
    (tmp_path / "zope.conf").write_text("".join(sections))
    outcome = vault.bare("--zope-conf", tmp_path / "zope.conf", "plan")
    assert outcome.status == 2
    assert outcome.err.count("none of them would be copied") == 2


def test_create_stops_where_blobs_would_be_lost(pg: Site, vault: Vault) -> None:
    pg.write("on")

    def created(section: str, *arguments: str) -> Outcome:
        return vault.bare(
            "--repository", vault.repository, "--zope-conf", pg.conf(section), "create", "--json", *arguments
        )

    before = stored(vault.repository)
    refused = created(pg.section("off", "cache"))
    assert (refused.status, refused.error["kind"]) == (2, "configuration")
    assert "none of them would be copied" in refused.error["message"]
    assert stored(vault.repository) == before
    assert created(pg.section("off", "cache"), "--only", "storage").status == 0
    agreed = created(pg.section("on"))
    assert agreed.status == 0
    assert agreed.document["databases"][0]["blobs"]["count"] == 1


def test_create_keeps_the_warning(pg: Site, vault: Vault) -> None:
    pg.write("off")
    conf = pg.conf(pg.section(blob_dir=None))
    (database,) = vault.bare(
        "--repository", vault.repository, "--zope-conf", conf, "create", "--json"
    ).document["databases"]
    assert any("they are in its dump" in warning for warning in database["warnings"])


def test_doctor_looks_for_no_data_fs_where_there_is_none(pg: Site, vault: Vault) -> None:
    pg.write("off")
    outcome = vault.bare(
        "--repository", vault.repository, "--zope-conf", pg.conf(pg.section()), "doctor", "--json"
    )
    assert [check for check in outcome.document["checks"] if not check["ok"]] == []
    assert outcome.status == 0


def test_doctor_asks_the_database(sqlite: Site, vault: Vault) -> None:
    sqlite.write("off")

    def check(section: str) -> dict[str, object]:
        outcome = vault.bare(
            "--repository", vault.repository, "--zope-conf", sqlite.conf(section), "doctor", "--json"
        )
        return next(one for one in outcome.document["checks"] if one["name"] == "database main")

    assert check(sqlite.section()) == {
        "name": "database main",
        "ok": True,
        "message": "the database answers, and its blobs are where the configuration says",
        "hint": None,
    }
    assert "a cache would be taken for all" in str(check(sqlite.section("on", "new"))["message"])
    assert check(sqlite.section("on", "new"))["ok"] is False
    assert check("<relstorage>\n<postgresql>\ndsn host=/nowhere\n</postgresql>\n</relstorage>")["ok"] is False
