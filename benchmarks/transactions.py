"""Measure ``create --method transactions`` after 200 transactions beside ``pg_dump -Fc``.

The database is a history-preserving RelStorage in PostgreSQL. Each figure is for a whole process: wall
seconds, peak memory, bytes. The data are those of ``generate.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import postgres  # type: ignore[import-not-found]

TRANSACTIONS = 200


def commit(site: Any, number: int) -> None:
    """Commit transactions that change and make objects, some with blobs."""
    with site.opened() as opened:
        for one in range(TRANSACTIONS):
            values: dict[str, Any] = {f"text-{one % 50}": f"round {number}, {one} " * 20}
            if one % 10 == 0:
                values[f"blob-{one}"] = os.urandom(20_000)
            opened.put(**values)


def make_room(dsn: str) -> None:
    """Let new objects get numbers that nobody has, and the server know its tables."""
    import psycopg2

    with contextlib.closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT setval('zoid_seq', (SELECT max(zoid) FROM object_state))")
            cursor.execute("VACUUM ANALYZE")


def stored_in(repository: Path) -> int:
    """Return the bytes in a repository."""
    return sum(path.stat().st_size for path in repository.rglob("*") if path.is_file())


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transactions", type=int, default=45_000, help="45,000 make about 500 MB")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    sys.path.insert(0, str(postgres.TESTS))
    from relstorage_sites import RelSite, on
    from services.postgres import BINARIES, PASSWORD, Cluster, as_owner

    directory = Path(tempfile.mkdtemp(prefix="zv-bench-", dir="/tmp"))
    directory.chmod(0o755)
    if owner := as_owner():
        os.chown(directory, owner["user"], owner["group"])
    work = Path(tempfile.mkdtemp(prefix="zv-bench-work-"))
    cluster = Cluster(directory, BINARIES[-1])
    try:
        postgres.apart(postgres.make, work, options.transactions, 0)
        cluster.start()
        login = cluster.database()
        site = RelSite(on(login), True, work / "cache", False)
        with site.opened():
            pass
        postgres.apart(postgres.fill, login.dsn, work / "P" / "Data.fs")
        make_room(login.dsn)
        conf = site.write_conf(work / "zope.conf")
        ours = [
            sys.executable,
            "-m",
            "zodb_vault",
            "-q",
            "--repository",
            str(work / "repository"),
            "--zope-conf",
            str(conf),
        ]
        subprocess.run([*ours, "repository", "init"], check=True)
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        create = [*ours, "create", "--method", "transactions"]
        first, memory = postgres.measured(create, environment, work / "out")
        print(
            f"base: {first:.1f} s, {stored_in(work / 'repository') / 1e6:.0f} MB, {memory:.0f} MB of memory",
            flush=True,
        )
        theirs = [
            "pg_dump",
            "-Fc",
            f"--host={login.host}",
            f"--username={login.user}",
            f"--dbname={login.name}",
        ]
        for number in range(options.rounds):
            postgres.apart(commit, site, number)
            before = stored_in(work / "repository")
            wall, memory = postgres.measured(create, environment, work / "out")
            added = stored_in(work / "repository") - before
            base, _memory = postgres.measured(theirs, environment, work / "dump")
            idle, _memory = postgres.measured(create, environment, work / "out")
            print(
                f"pg_dump -Fc: {base:.1f} s; after {TRANSACTIONS} transactions: {wall:.2f} s, "
                f"{added / 1e6:.2f} MB, {memory:.0f} MB of memory, "
                f"1/{base / wall:.0f} of it; nothing new: {idle:.2f} s",
                flush=True,
            )
    finally:
        cluster.stop()
        shutil.rmtree(directory)
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
