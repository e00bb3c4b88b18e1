"""The contents of a database, read without zodb_vault: all rows, large objects, definitions and sequences."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
from relstorage_vault import pg_restore
from services.postgres import Cluster, Login

from zodb_vault.strategies.postgres.snapshot import Postgres
from zodb_vault.strategies.postgres.transactions import TransactionsSurvey

# What a pack finds out, and finds out again when it is not there.
DERIVED = {"object_ref", "object_refs_added", "pack_object", "pack_state", "pack_state_tid"}


class Held(NamedTuple):
    """Everything that a database holds."""

    rows: dict[str, list[str]]
    large_objects: list[tuple[Any, ...]]
    sequences: dict[str, int]
    definitions: str


def held_by(login: Login, owner: str) -> Held:
    """Read a database, without what belongs to other roles than ``owner``."""
    with contextlib.closing(psycopg2.connect(login.dsn)) as connection, connection.cursor() as cursor:

        def ask(query: str) -> list[tuple[Any, ...]]:
            cursor.execute(query)
            return list(cursor.fetchall())

        tables = [
            name
            for (name,) in ask(
                f"SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tableowner = '{owner}'"
            )
        ]
        return Held(
            rows={name: sorted(row for (row,) in ask(f'SELECT t::text FROM "{name}" t')) for name in tables},
            large_objects=ask(
                "SELECT oid, md5(lo_get(oid)), pg_get_userbyid(lomowner) FROM pg_largeobject_metadata ORDER "
                "BY oid"
            ),
            sequences={
                name: _next(ask, name) for (name,) in ask("SELECT sequencename::text FROM pg_sequences")
            },
            definitions=_definitions(login),
        )


def _next(ask: Callable[[str], list[tuple[Any, ...]]], name: str) -> int:
    """Return what a sequence gives next."""
    return int(ask(f'SELECT last_value + is_called::int FROM "{name}"')[0][0])


def _definitions(login: Login) -> str:
    command = [
        "pg_dump",
        "--schema-only",
        "--no-owner",
        "--no-acl",
        f"--host={login.host}",
        f"--username={login.user}",
        f"--dbname={login.name}",
    ]
    environment = os.environ | {"PGPASSWORD": login.password or ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("--", "\\")))


class Dumping:
    """Dumps the snapshot of each backup by transactions as well; ``latest`` is the last dump."""

    def __init__(self, monkeypatch: Any, directory: Path) -> None:
        self._directory, self._count = directory, 0
        decide = TransactionsSurvey.decide

        def deciding(survey: TransactionsSurvey) -> Any:
            assert isinstance(survey.rows, Postgres)
            self._dump(survey.rows.snapshot_name, survey.rows.dsn)
            return decide(survey)

        monkeypatch.setattr(TransactionsSurvey, "decide", deciding)

    def _dump(self, snapshot: str, dsn: str) -> None:
        self._count += 1
        self.latest = self._directory / f"plain-{self._count}.dump"
        subprocess.run(
            ["pg_dump", "-Fc", "-Z0", f"--snapshot={snapshot}", f"--dbname={dsn}", f"--file={self.latest}"],
            check=True,
        )

    def held(self, postgres: Cluster) -> Held:
        """Restore the last dump, and read it."""
        login = postgres.database()
        pg_restore(self.latest, login)
        return held_by(login, login.user)._replace(large_objects=self._of(login))

    def _of(self, login: Login) -> list[tuple[Any, ...]]:
        return held_by(login, login.user).large_objects


def require_same(found: Held, wanted: Held) -> None:
    """Require that a restored database holds what a dump of its snapshot holds; tables of packs are empty."""
    assert found.rows.keys() == wanted.rows.keys()
    for table, rows in wanted.rows.items():
        assert found.rows[table] == ([] if table in DERIVED else rows), table
    assert [one[:2] for one in found.large_objects] == [one[:2] for one in wanted.large_objects]
    assert found.definitions == wanted.definitions
    assert found.sequences.keys() == wanted.sequences.keys()
    assert all(value >= wanted.sequences[name] for name, value in found.sequences.items())
