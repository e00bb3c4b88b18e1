"""An empty PostgreSQL database for a restore that is a proof.

In a server of our own, or in one that is given; gone afterwards.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from ...errors import ConfigurationError, NotProven, VaultError
from ..sql.program import program_of

SETTINGS: Final = """
listen_addresses = ''
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
fsync = off
full_page_writes = off
synchronous_commit = off
wal_level = minimal
max_wal_senders = 0
"""
DATABASE_PREFIX: Final = "zodb_vault_scratch_"
# The user that a server runs as when we are root, for which it refuses to run.
SERVER_USERS: Final = ("postgres", "mysql", "nobody")
START_SECONDS: Final = 120


def scratch_database(
    directory: Path, server: str | None, note: Callable[[str], None]
) -> AbstractContextManager[str]:
    """Give the DSN of an empty database, in the server of a DSN, else in one of our own.

    Raise ConfigurationError when a database cannot be made with the DSN, NotProven when no server can be
    started.
    """
    return _in_server(server, note) if server else _in_own_server(directory)


@contextlib.contextmanager
def _in_server(dsn: str, note: Callable[[str], None]) -> Iterator[str]:
    from psycopg2.extensions import make_dsn

    from .connection import parameters_of
    from .target_database import execute_once

    name = f"{DATABASE_PREFIX}{secrets.token_hex(6)}"
    try:
        execute_once(
            dsn, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    except VaultError as error:
        raise ConfigurationError(
            [f"no scratch database could be made: {error.message}"],
            "its role needs CREATEDB; without a DSN a server of our own is started",
        ) from None
    try:
        yield str(make_dsn(**(parameters_of(dsn) | {"dbname": name})))
    finally:
        try:
            # a session that was just closed may need a moment to go
            execute_once(dsn, f"DROP DATABASE {name} WITH (FORCE)")
        except VaultError as error:
            note(f"the scratch database {name} could not be removed: {error.message}; drop it yourself")


def missing_programs() -> list[str]:
    """Return the program that starts a server of our own, when it is not installed."""
    try:
        program_of(["initdb"], "postgresql")
    except ConfigurationError:
        return ["the programs of a PostgreSQL server (apt-get install postgresql), or --scratch-server DSN"]
    return []


@contextlib.contextmanager
def _in_own_server(directory: Path) -> Iterator[str]:
    try:
        initdb = program_of(["initdb"], "postgresql")
    except ConfigurationError as error:
        raise NotProven(
            f"the level restore starts a PostgreSQL server of its own: {error.message}", error.hint
        ) from None
    sockets = Path(tempfile.mkdtemp(prefix="zv-", dir="/tmp"))  # the path of a socket may have 107 bytes
    data = directory / "cluster"
    data.mkdir()
    owner = _given_to_a_server(directory, data, sockets)
    programs = Path(os.path.realpath(initdb)).parent
    pg_ctl = str(programs / "pg_ctl")
    try:
        locale = ["--encoding=UTF8", "--locale=C"]
        _run(
            [initdb, "--no-sync", "--auth=trust", "--username=vault", *locale, "-D", str(data)],
            owner,
        )
        with (data / "postgresql.conf").open("a") as file:
            file.write(SETTINGS.format(sockets=sockets))
        start = ["-w", "-t", str(START_SECONDS), "-D", str(data), "-l", str(data / "log")]
        _run([pg_ctl, "start", *start], owner)
        try:
            _run([str(programs / "createdb"), f"--host={sockets}", "--username=vault", "restored"], owner)
            yield f"dbname=restored user=vault host={sockets}"
        finally:
            with contextlib.suppress(VaultError):
                _run([pg_ctl, "stop", "-w", "-m", "immediate", "-D", str(data)], owner)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def _given_to_a_server(directory: Path, *paths: Path) -> dict[str, Any]:
    """Return how a server is started.

    When we are root it gets another user, and these directories belong to that user then.
    """
    if os.geteuid() != 0:
        return {}
    for name in SERVER_USERS:
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            os.chmod(directory, 0o711)
            os.chmod(directory.parent, 0o711)
            for path in paths:
                os.chown(path, user.pw_uid, user.pw_gid)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise NotProven(
        "a database server does not run as root, and there is no other user for it",
        "run this as another user",
    )


def _run(command: list[str], owner: Mapping[str, Any]) -> None:
    # into a file: the server that pg_ctl starts keeps what it is given open
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            done = subprocess.run(
                command, check=False, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/", **owner
            )
        except OSError as error:
            raise NotProven(f"{command[0]} cannot be started: {error.strerror}") from None
        if done.returncode:
            said.seek(0)
            words = " ".join(said.read().split())[-500:]
            raise NotProven(f"{Path(command[0]).name} failed: {words}")
