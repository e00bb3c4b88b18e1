"""A real PostgreSQL: one cluster per test run; each test has its own database and roles.

The socket is in a short directory. Roles log in with passwords, so that tests can find leaked secrets; the
superuser ``postgres`` needs none.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
CONFIGURATION = """
listen_addresses = ''
unix_socket_directories = '{directory}'
fsync = off
full_page_writes = off
max_connections = 60
shared_buffers = 32MB
log_min_messages = fatal
"""
ACCESS = "local all postgres trust\nlocal replication postgres trust\nlocal all all scram-sha-256\n"
PASSWORD = "s3cr'et wörd"


class Login(NamedTuple):
    """A database as one role sees it."""

    host: str
    name: str
    user: str
    password: str | None

    @property
    def dsn(self) -> str:
        """Return the DSN as zope.conf has it."""
        parts = {"dbname": self.name, "user": self.user, "host": self.host} | (
            {"password": self.password} if self.password else {}
        )
        return " ".join(f"{key}={_quoted(value)}" for key, value in parts.items())


class Cluster:
    """A running server."""

    def __init__(self, directory: Path, binaries: Path) -> None:
        self.directory, self.binaries = directory, binaries
        self.data = directory / "data"

    def run(self, program: str, *arguments: str) -> None:
        """Run one of its programs as the user it belongs to."""
        # what pg_ctl starts would keep a pipe open
        streams: dict[str, Any] = (
            {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            if program == "pg_ctl"
            else {"capture_output": True}
        )
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            check=False,
            text=True,
            cwd="/",
            **streams,
            **as_owner(),
        )
        if done.returncode:
            log = self.directory / "log"
            raise RuntimeError(f"{program}: {done.stderr or ''}{log.read_text() if log.exists() else ''}")

    def start(self) -> None:
        """Make and start it."""
        self.run(
            "initdb",
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
            str(self.data),
        )
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(CONFIGURATION.format(directory=self.directory))
        (self.data / "pg_hba.conf").write_text(ACCESS)
        self.run("pg_ctl", "start", "-w", "-t", "60", "-D", str(self.data), "-l", str(self.directory / "log"))

    def stop(self) -> None:
        """Stop it."""
        with contextlib.suppress(RuntimeError):
            self.run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self.data))

    def login(self, name: str = "postgres", user: str = "postgres", password: str | None = None) -> Login:
        """Return how to log in."""
        return Login(str(self.directory), name, user, password)

    def role(self, prefix: str = "zodb", *options: str) -> str:
        """Make a role that can log in, and return its name."""
        name = f"{prefix}_{uuid.uuid4().hex[:8]}"
        execute(
            self.login(),
            f"CREATE ROLE {name} LOGIN {' '.join(options)} PASSWORD "
            f"'{PASSWORD.replace(chr(39), 2 * chr(39))}'",
        )
        return name

    def database(self, owner: str | None = None) -> Login:
        """Make an empty database that belongs to ``owner``, a new role when that is not given."""
        owner = owner or self.role()
        name = f"plone_{uuid.uuid4().hex[:8]}"
        execute(self.login(), f"CREATE DATABASE {name} OWNER {owner} TEMPLATE template0")
        return self.login(name, owner, PASSWORD)

    @contextlib.contextmanager
    def replica(self) -> Iterator[int]:
        """Start a streaming replica beside it; give its port."""
        data = self.directory / f"replica-{uuid.uuid4().hex[:6]}"
        self.run(
            "pg_basebackup",
            f"--host={self.directory}",
            "--username=postgres",
            "--checkpoint=fast",
            "--write-recovery-conf",
            "-D",
            str(data),
        )
        port = 5433
        try:
            self.run(
                "pg_ctl",
                "start",
                "-w",
                "-t",
                "60",
                "-D",
                str(data),
                "-l",
                str(self.directory / "replica.log"),
                "-o",
                f"-p {port}",
            )
            yield port
        finally:
            with contextlib.suppress(RuntimeError):
                self.run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(data))
            shutil.rmtree(data)

    def names(self) -> set[str]:
        """Return the names of all databases and roles."""
        return {
            str(row[0])
            for row in execute(
                self.login(), "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles"
            )
        }

    def drop(self, names: set[str]) -> None:
        """Drop databases, even if they are in use, then roles."""
        databases = [str(row[0]) for row in execute(self.login(), "SELECT datname FROM pg_database")]
        for name in names & set(databases):
            execute(self.login(), f'DROP DATABASE "{name}" WITH (FORCE)')
        for name in names - set(databases):
            execute(self.login(), f'DROP ROLE IF EXISTS "{name}"')


def execute(login: Login, statement: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Run one statement and return its rows."""
    import psycopg2

    with contextlib.closing(psycopg2.connect(login.dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []


def as_owner() -> dict[str, Any]:
    """Return how a process is started that may not be root's."""
    if os.geteuid() != 0:
        return {}
    owner = pwd.getpwnam("postgres")
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Cluster]:
    assert BINARIES, "PostgreSQL is not installed: sh scripts/debian-packages.sh test"
    directory = Path(tempfile.mkdtemp(prefix="zv-pg-", dir="/tmp"))
    directory.chmod(0o755)
    if owner := as_owner():
        os.chown(directory, owner["user"], owner["group"])
    cluster = Cluster(directory, BINARIES[-1])
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(directory)


@pytest.fixture
def postgres(_cluster: Cluster) -> Iterator[Cluster]:
    """A server on which every database and role that the test makes is dropped after it."""
    before = _cluster.names()
    yield _cluster
    _cluster.drop(_cluster.names() - before)


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
