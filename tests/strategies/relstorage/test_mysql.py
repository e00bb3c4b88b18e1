"""The tables of RelStorage in a real MariaDB.

RelStorage 4 itself runs on MySQL 8 only: it writes ``INSERT ... AS excluded ON DUPLICATE KEY``, which MariaDB
does not know. So the tables are made and filled here, with the records that RelStorage would write, and what
is restored is compared row by row.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymysql
import pytest
from command_line import flip
from relstorage_sites import RelSite
from relstorage_vault import NOISE, RelVault, by_hand
from services.mariadb import PASSWORD, Maria, MariaLogin
from ZODB.blob import FilesystemHelper
from ZODB.utils import p64

BLOB = bytes.fromhex("8003635a4f44422e626c6f620a426c6f620a71002e80034e2e")
TID = 0x040D42B000000000
HISTORY = """
CREATE TABLE transaction (tid BIGINT NOT NULL PRIMARY KEY, packed BOOLEAN NOT NULL DEFAULT FALSE,
  username BLOB NOT NULL, description BLOB NOT NULL, extension BLOB);
CREATE TABLE object_state (zoid BIGINT NOT NULL, tid BIGINT NOT NULL, prev_tid BIGINT NOT NULL,
  md5 CHAR(32) CHARACTER SET ascii, state_size BIGINT NOT NULL, state LONGBLOB,
    PRIMARY KEY (zoid, tid)) ENGINE = InnoDB;
CREATE TABLE current_object (zoid BIGINT NOT NULL PRIMARY KEY, tid BIGINT NOT NULL) ENGINE = InnoDB
"""
FREE = """
CREATE TABLE object_state (zoid BIGINT NOT NULL PRIMARY KEY, tid BIGINT NOT NULL,
  state_size BIGINT NOT NULL, state LONGBLOB) ENGINE = InnoDB
"""
BOTH = """
CREATE TABLE blob_chunk (zoid BIGINT NOT NULL, tid BIGINT NOT NULL,
  chunk_num BIGINT NOT NULL, chunk LONGBLOB NOT NULL,
  PRIMARY KEY (zoid, tid, chunk_num)) ENGINE = InnoDB;
CREATE TABLE commit_row_lock (tid BIGINT NOT NULL PRIMARY KEY) ENGINE = InnoDB;
CREATE TABLE new_oid (zoid BIGINT NOT NULL PRIMARY KEY AUTO_INCREMENT) ENGINE = InnoDB;
INSERT INTO commit_row_lock VALUES (0);
CREATE PROCEDURE lock_nothing() BEGIN SELECT 'a (text), (with'' parentheses'; END
"""
EACH = pytest.mark.parametrize(
    ("history", "shared"), [(False, False), (False, True), (True, False), (True, True)]
)
Make = Callable[..., "Tables"]


class Tables:
    """A site, and a writer of its tables that commits as RelStorage does: under the lock of one row."""

    def __init__(self, vault: RelVault, login: MariaLogin) -> None:
        self.vault, self.login = vault, login
        self.history, self.shared = vault.site.history, vault.site.shared
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            script = (HISTORY if self.history else FREE).strip().split(";") + BOTH.strip().split(";\n")
            for statement in script:
                cursor.execute(statement)
            connection.commit()
        if self.shared and vault.site.blob_dir:
            vault.site.blob_dir.mkdir()
            (vault.site.blob_dir / ".layout").write_text("bushy")
        for number in range(1, 6):
            self.commit(number, number, b"a 'text'),( \\ \n\0" * 20, blob=None)
            self.commit(number + 100, number + 50, BLOB, NOISE[number])

    def connect(self) -> Any:
        return pymysql.connect(
            unix_socket=self.login.socket,
            user=self.login.user,
            password=self.login.password,
            database=self.login.name,
        )

    def commit(self, number: int, oid: int, state: bytes, blob: bytes | None = None) -> None:
        """Commit one object."""
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT tid FROM commit_row_lock FOR UPDATE")
            tid = TID + number * 1000
            if blob is not None and self.shared:
                path = Path(
                    FilesystemHelper(str(self.vault.site.blob_dir)).getBlobFilename(p64(oid), p64(tid))
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(blob)
            if self.history:
                cursor.execute(
                    "INSERT INTO transaction VALUES (%s, FALSE, '', %s, NULL)", (tid, b"it's (one), (more)")
                )
                cursor.execute(
                    "INSERT INTO object_state VALUES (%s, %s, 0, NULL, %s, %s)", (oid, tid, len(state), state)
                )
                cursor.execute("REPLACE INTO current_object VALUES (%s, %s)", (oid, tid))
            else:
                cursor.execute(
                    "REPLACE INTO object_state VALUES (%s, %s, %s, %s)", (oid, tid, len(state), state)
                )
            if blob is not None and not self.shared:
                cursor.execute("INSERT INTO blob_chunk VALUES (%s, %s, 0, %s)", (oid, tid, blob))
            connection.commit()


def rows(login: MariaLogin) -> dict[str, Any]:
    """Return everything that is in a database."""
    with contextlib.closing(
        pymysql.connect(
            unix_socket=login.socket, user=login.user, password=login.password, database=login.name
        )
    ) as connection:
        cursor = connection.cursor()
        cursor.execute("SHOW TABLES")
        names = [name for (name,) in cursor.fetchall()]
        found: dict[str, Any] = {}
        for name in names:
            cursor.execute(f"SELECT * FROM {name}")
            found[name] = sorted(map(repr, cursor.fetchall()))
        cursor.execute(
            "SELECT routine_name FROM information_schema.routines WHERE routine_schema = database()"
        )
        return found | {"routines": cursor.fetchall()}


@pytest.fixture
def make(mariadb: Maria, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Make:
    """Make a site with some content."""

    def make(history: bool = True, shared: bool = False) -> Tables:
        login = mariadb.database()
        return Tables(
            RelVault(tmp_path, capsys, RelSite(login.section, history, tmp_path / "blobs", shared)), login
        )

    return make


@EACH
def test_a_backup_is_all_there_is(
    make: Make, mariadb: Maria, tmp_path: Path, history: bool, shared: bool
) -> None:
    tables = make(history, shared)
    vault = tables.vault
    made = vault.created()
    assert (made["status"], made["databases"][0]["warnings"][1:]) == ("complete", [])
    assert (made["databases"][0]["blobs"] or {}).get("count") == (5 if shared else None)
    report = vault.done("verify", "--json").document
    assert report["damage"] == [] and report["checked"]["rows"] > 10
    login = mariadb.database()
    other = vault.site._replace(adapter=login.section, blob_dir=tmp_path / "other")
    vault.done("restore", "--target", other.write_conf(tmp_path / "other.conf"), "--yes")
    assert rows(login) == rows(tables.login)
    if shared:
        assert {path.read_bytes() for path in (tmp_path / "other").rglob("*.blob")} == set(NOISE[1:6])


def test_by_hand(make: Make, mariadb: Maria, tmp_path: Path) -> None:
    tables = make()
    vault = tables.vault
    by_hand(vault.repository, vault.created()["id"], tmp_path / "by hand")
    vault.done("restore", "--output", tmp_path / "out", "--yes")
    assert (tmp_path / "out" / "database.sql").read_bytes() == (
        tmp_path / "by hand" / "database.sql"
    ).read_bytes()
    login = mariadb.database()
    mariadb.execute(f"GRANT SET USER ON *.* TO {login.user}@localhost")
    command = ["mariadb", f"--socket={login.socket}", f"--user={login.user}", login.name]
    with (tmp_path / "by hand" / "database.sql").open("rb") as file:
        done = subprocess.run(
            command,
            stdin=file,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"MYSQL_PWD": PASSWORD},
        )
    assert done.returncode == 0, done.stderr
    assert rows(login) == rows(tables.login)


@pytest.mark.parametrize("history", [False, True])
def test_dump_and_snapshot_are_consistent(make: Make, history: bool) -> None:
    tables, stop = make(history, True), threading.Event()
    vault = tables.vault

    def write() -> None:
        number = 1000
        while not stop.is_set():
            number += 1
            tables.commit(number, 50 + number % 7, BLOB, b"%d " % number + NOISE[number % 8])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = [vault.created() for _ in range(4)]
    finally:
        stop.set()
        writer.join()
    assert all(one["status"] == "complete" for one in made)
    assert len({one["databases"][0]["last_tid"] for one in made}) == 4
    for one in made:
        assert vault.done("verify", one["id"], "--json").document["damage"] == []


def test_commits_do_not_wait_for_the_dump(make: Make) -> None:
    tables = make()
    tables.vault.created()
    before = time.monotonic()
    tables.commit(5000, 9, b"x")
    assert time.monotonic() - before < 5


def test_a_full_database_is_refused_and_a_damaged_script_leaves_an_empty_one(
    make: Make, mariadb: Maria
) -> None:
    tables = make()
    vault = tables.vault
    vault.created()
    refused = vault("restore", "--yes", "--json")
    assert (refused.status, refused.error["kind"]) == (1, "target-refused")
    flip(max(vault.repository.glob("objects/*/*"), key=lambda path: path.stat().st_size))
    login = mariadb.database()
    other = vault.site._replace(adapter=login.section, blob_dir=vault.directory / "other")
    assert vault("restore", "--target", other.write_conf(vault.directory / "other.conf"), "--yes").status == 4
    assert rows(login) == {"routines": ()}
    assert vault("verify", "--json").status == 4


def test_no_secret_is_stored_or_in_an_argument(make: Make) -> None:
    tables = make()
    tables.vault.created()
    assert not any(
        PASSWORD.encode() in path.read_bytes()
        for path in tables.vault.repository.rglob("*")
        if path.is_file()
    )
