"""A database of our own, private and gone afterwards: a dump that was restored into it is proved by the real server and the real RelStorage."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...blobs.packs import members, members_of, ref
from ...errors import ConfigurationError, VaultError
from ...model.chain import packs_of
from ...model.manifest import DatabaseEntry, PgDump, PgTransactions, SqliteCopy
from ...model.source import Database
from ...repository.objects import Objects
from ...strategies.blobs.s3 import wrapper_key
from ...strategies.sql.program import program_of

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
STORAGE: Final = """
%import relstorage
<relstorage>
  keep-history {history}
  cache-local-mb 20
  blob-dir {blobs}
  shared-blob-dir {shared}
  {adapter}
</relstorage>
"""
# The cache holds all blobs of the bucket, so nobody is asked at this address.
PGJSONB: Final = """
%import zodb_pgjsonb
<pgjsonb>
  dsn {dsn}
  history-preserving {history}
  cache-shared-mb 20
  cache-warm-pct 0
  blob-temp-dir {directory}/temporary
  {bucket}
</pgjsonb>
"""
BUCKET: Final = """
  s3-bucket-name nowhere
  s3-endpoint-url http://127.0.0.1:1
  s3-region nowhere
  s3-access-key none
  s3-secret-key none
  blob-cache-dir {cache}
  blob-cache-size 1048576GB
"""
DATABASE_PREFIX: Final = "zodb_vault_scratch_"
# What a server that may not run as root is started as.
SERVER_USERS: Final = ("postgres", "mysql", "nobody")


class Scratch(NamedTuple):
    """An empty database: what a dump is restored into, and what opens it then; ``cache`` is where that looks for blobs before it asks a bucket."""

    database: Database
    storage: str
    cache: Path | None = None

    @property
    def dsn(self) -> str:
        """Return where the objects are listed if the storage itself does not do that."""
        return self.database.option("dsn")


@contextlib.contextmanager
def scratch_database(
    entry: DatabaseEntry, directory: Path, server: str | None, note: Callable[[str], None]
) -> Iterator[Scratch]:
    """Give an empty database for what a backup holds, gone afterwards; raise ConfigurationError when no server can be started here.

    ``server`` is the DSN of a PostgreSQL to make it in, instead of a server of our own; what stays behind is told to ``note``.
    """
    kind = type(entry.dump)
    if kind not in SCRATCHES:
        raise ConfigurationError(
            [
                f"the level restore needs a MySQL 8 of its own for {entry.name}, and this version cannot make one"
            ],
            "use the level records, or restore into an empty database of a server of yours",
        )
    if entry.backend == "pgjsonb" and importlib.util.find_spec("zodb_pgjsonb") is None:
        raise ConfigurationError(
            [f"the level restore opens {entry.name} with zodb-pgjsonb, which is not installed here"],
            "pip install 'zodb-vault[pgjsonb]', Python 3.12",
        )
    given = server if issubclass(kind, PgDump) else None
    with _in_a_server(given, note) if given else SCRATCHES[kind](directory) as (adapter, section, options):
        if entry.backend == "pgjsonb":
            yield _pgjsonb(entry, directory, str(options["postgresql.dsn"]))
            return
        blobs, shared = directory / "blobs", entry.blob_mode in ("directory", "s3")
        database = Database(
            name=entry.name,
            backend="relstorage",
            adapter=adapter,
            blob_dir=str(blobs),
            blob_mode="directory" if shared else "database",
            history=entry.history,
            options=options,
        )
        shown = STORAGE.format(
            history=str(entry.history).lower(), blobs=blobs, shared=str(shared).lower(), adapter=section
        )
        yield Scratch(database, shown)


def _pgjsonb(entry: DatabaseEntry, directory: Path, dsn: str) -> Scratch:
    database = Database(
        name=entry.name,
        backend="pgjsonb",
        adapter="postgresql",
        blob_mode="database",
        history=entry.history,
        options={"dsn": dsn},
    )
    cache = directory / "blobs" if entry.blob_mode == "database+s3" else None
    bucket = BUCKET.format(cache=cache) if cache else ""
    shown = PGJSONB.format(
        dsn=dsn.replace("$", "$$"), history=str(entry.history).lower(), directory=directory, bucket=bucket
    )
    return Scratch(database, shown, cache)


def fill_cache(entry: DatabaseEntry, objects: Objects, cache: Path) -> None:
    """Put all blobs of a backup into a cache, where zodb-s3blobs and zodb-pgjsonb name them alike; raise Damage."""
    for pack in packs_of(entry, objects):
        for member, chunks in members(
            members_of(objects, pack), objects.read(pack.parts), lambda _member: True
        ):
            path = cache.parent / wrapper_key(ref(member))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)


@contextlib.contextmanager
def _postgres(directory: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    initdb = program_of(["initdb"], "postgresql")
    sockets = Path(tempfile.mkdtemp(prefix="zv-", dir="/tmp"))  # the path of a socket may have 107 bytes
    data = directory / "cluster"
    data.mkdir()
    owner = _given_to_a_server(directory, data, sockets)
    programs = Path(os.path.realpath(initdb)).parent
    try:
        _run(
            [
                initdb,
                "--no-sync",
                "--auth=trust",
                "--username=vault",
                "--encoding=UTF8",
                "--locale=C",
                "-D",
                str(data),
            ],
            owner,
        )
        with (data / "postgresql.conf").open("a") as file:
            file.write(SETTINGS.format(sockets=sockets))
        _run(
            [str(programs / "pg_ctl"), "start", "-w", "-t", "120", "-D", str(data), "-l", str(data / "log")],
            owner,
        )
        try:
            _run([str(programs / "createdb"), f"--host={sockets}", "--username=vault", "restored"], owner)
            yield _postgres_at(f"dbname=restored user=vault host={sockets}")
        finally:
            with contextlib.suppress(VaultError):
                _run([str(programs / "pg_ctl"), "stop", "-w", "-m", "immediate", "-D", str(data)], owner)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


@contextlib.contextmanager
def _in_a_server(dsn: str, note: Callable[[str], None]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Make a database in a server that was given, for as long as it is needed."""
    from psycopg2.extensions import make_dsn

    from ...strategies.postgres.connection import parameters_of
    from ...strategies.postgres.restore import execute

    name = f"{DATABASE_PREFIX}{secrets.token_hex(6)}"
    try:
        execute(dsn, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
    except VaultError as error:
        raise ConfigurationError(
            [f"no scratch database could be made: {error.message}"],
            "its role needs CREATEDB; without a DSN a server of our own is started",
        ) from None
    try:
        yield _postgres_at(str(make_dsn(**(parameters_of(dsn) | {"dbname": name}))))
    finally:
        try:
            # a session that was just closed may need a moment to go
            execute(dsn, f"DROP DATABASE {name} WITH (FORCE)")
        except VaultError as error:
            note(f"the scratch database {name} could not be removed: {error.message}; drop it yourself")


def _postgres_at(dsn: str) -> tuple[str, str, dict[str, Any]]:
    # ZConfig takes a $ for the beginning of a name
    return (
        "postgresql",
        f"<postgresql>\n    dsn {dsn.replace('$', '$$')}\n  </postgresql>",
        {"postgresql.dsn": dsn},
    )


@contextlib.contextmanager
def _sqlite(directory: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    data = directory / "data"
    data.mkdir()
    yield "sqlite3", f"<sqlite3>\n    data-dir {data}\n  </sqlite3>", {"sqlite3.data-dir": str(data)}


def _given_to_a_server(directory: Path, *paths: Path) -> dict[str, Any]:
    """Return how a server is started: as another user where we are root, to whom these directories belong then."""
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
    raise ConfigurationError(
        ["a database server does not run as root, and there is no other user for it"],
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
            raise VaultError(
                f"{command[0]} cannot be started: {error.strerror}", "nothing was found out about the backup"
            ) from None
        if done.returncode:
            said.seek(0)
            words = " ".join(said.read().split())[-500:]
            raise VaultError(
                f"{Path(command[0]).name} failed: {words}", "nothing was found out about the backup"
            )


SCRATCHES: Final[
    Mapping[type, Callable[[Path], contextlib.AbstractContextManager[tuple[str, str, dict[str, Any]]]]]
] = {
    PgDump: _postgres,
    PgTransactions: _postgres,
    SqliteCopy: _sqlite,
}
