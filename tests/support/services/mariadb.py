"""A real MariaDB on a socket in a short directory, and a database and a user of its own for each test."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pymysql
import pytest

PASSWORD = "geh eim"
DEADLINE = 60


class MariaLogin(NamedTuple):
    """A database as its user sees it."""

    socket: str
    name: str
    user: str
    password: str

    @property
    def section(self) -> str:
        """Return the section of RelStorage."""
        return (
            f"<mysql>\n      db {self.name}\n      user {self.user}\n      passwd {self.password}\n"
            f"      unix_socket {self.socket}\n      driver PyMySQL\n    </mysql>"
        )


class Maria:
    """A running server."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.socket = directory, f"{directory}/s"

    def start(self, owner: dict[str, Any]) -> None:
        """Make and start it."""
        data = self.directory / "data"
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            check=True,
            cwd="/",
            capture_output=True,
            **owner,
        )
        program, nothing = shutil.which("mariadbd") or "/usr/sbin/mariadbd", subprocess.DEVNULL
        command = [
            program,
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={self.socket}",
            "--skip-networking",
        ]
        self.process = subprocess.Popen(
            [*command, "--innodb-flush-log-at-trx-commit=0", "--max-allowed-packet=64M"],
            cwd="/",
            stdout=nothing,
            stderr=nothing,
            **owner,
        )
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self.process.poll() is None:
            time.sleep(0.1)
            if Path(self.socket).exists():
                time.sleep(0.2)
                self.execute("SELECT 1")
                return
        raise RuntimeError("MariaDB did not start")

    def stop(self) -> None:
        """Stop it."""
        self.process.kill()
        self.process.wait()

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as root."""
        with contextlib.closing(
            pymysql.connect(unix_socket=self.socket, user="root", autocommit=True)
        ) as connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            return list(cursor.fetchall())

    def database(self) -> MariaLogin:
        """Make an empty database with a user of its own."""
        name = f"plone_{uuid.uuid4().hex[:8]}"
        self.execute(f"CREATE DATABASE {name}")
        self.execute(f"CREATE USER {name}@localhost IDENTIFIED BY '{PASSWORD}'")
        self.execute(f"GRANT ALL ON {name}.* TO {name}@localhost")
        return MariaLogin(self.socket, name, name, PASSWORD)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Maria]:
    """The server of this run."""
    directory = Path(tempfile.mkdtemp(prefix="zv-my-", dir="/tmp"))
    directory.chmod(0o755)
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam("mysql")
        owner = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(directory, user.pw_uid, user.pw_gid)
    server = Maria(directory)
    try:
        server.start(owner)
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)
