"""Measure ``create`` of a history-preserving RelStorage in PostgreSQL beside ``pg_dump -Fc``, in one run.

``pg_dump`` runs with its defaults. Each figure is for a whole process: wall seconds, peak memory, bytes. The
data are those of ``generate.py``, loaded into the tables of RelStorage.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent / "tests" / "support"
BATCH = 2000


def measured(command: list[str], environment: dict[str, str], output: Path) -> tuple[float, float]:
    """Run a command; return wall seconds and peak megabytes of the process itself."""
    before = time.perf_counter()
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, env=environment)
        _pid, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed")
    return time.perf_counter() - before, usage.ru_maxrss / 1024


def rows(data_fs: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and transaction of a Data.fs."""
    from ZODB.FileStorage.FileStorage import FileIterator

    yield from enumerate(FileIterator(str(data_fs)))


def make(work: Path, transactions: int, blobs: int = 50) -> None:
    """Make the data."""
    import generate  # type: ignore[import-not-found]

    generate.CFG["P"] = {
        "seed": 44,
        "txns": transactions,
        "blobs": blobs,
        "bmed": 1000,
        "bsig": 1.0,
        "bcap": 10_000,
    }
    data = generate.Gen("P", str(work))
    data.doclist = []
    data.make()


def apart(work: Callable[..., object], *arguments: object) -> None:
    """Call a function in a child process: the peak memory of this process would count for its children."""
    process = multiprocessing.Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{work.__name__} failed")


def fill(dsn: str, data_fs: Path) -> None:
    """Load a Data.fs into the tables of RelStorage."""
    import psycopg2

    newest: dict[int, int] = {}
    size = 0
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM current_object; DELETE FROM object_state; DELETE FROM transaction WHERE tid > 0"
        )
        states, transactions = io.StringIO(), io.StringIO()
        for number, one in rows(data_fs):
            tid = int.from_bytes(one.tid)
            transactions.write(f"{tid}\tf\t\\\\x{one.user.hex()}\t\\\\x{one.description.hex()}\t\\\\x\n")
            for record in one:
                if record.data is None:
                    continue
                oid = int.from_bytes(record.oid)
                states.write(
                    f"{oid}\t{tid}\t{newest.get(oid, 0)}\t{len(record.data)}\t\\\\x{record.data.hex()}\n"
                )
                newest[oid] = tid
                size += len(record.data)
            if number % BATCH == BATCH - 1:
                flush(cursor, transactions, states)
        flush(cursor, transactions, states)
        current = io.StringIO("".join(f"{oid}\t{tid}\n" for oid, tid in newest.items()))
        cursor.copy_expert("COPY current_object (zoid, tid) FROM STDIN", current)
    print(f"{size / 1e6:.0f} MB of states in {data_fs.stat().st_size / 1e6:.0f} MB of Data.fs", flush=True)


def flush(cursor: Any, transactions: io.StringIO, states: io.StringIO) -> None:
    """Copy what was gathered."""
    for file, columns in (
        (transactions, "transaction (tid, packed, username, description, extension)"),
        (states, "object_state (zoid, tid, prev_tid, state_size, state)"),
    ):
        file.seek(0)
        cursor.copy_expert(f"COPY {columns} FROM STDIN", file)
        file.seek(0)
        file.truncate()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transactions", type=int, default=45_000, help="45,000 make about 500 MB")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    from relstorage_sites import RelSite, on
    from services.postgres import BINARIES, PASSWORD, Cluster, as_owner

    directory = Path(tempfile.mkdtemp(prefix="zv-bench-", dir="/tmp"))
    directory.chmod(0o755)
    if owner := as_owner():
        os.chown(directory, owner["user"], owner["group"])
    work = Path(tempfile.mkdtemp(prefix="zv-bench-work-"))
    cluster = Cluster(directory, BINARIES[-1])
    try:
        apart(make, work, options.transactions)
        cluster.start()
        login = cluster.database()
        site = RelSite(on(login), True, work / "cache", False)
        with site.opened():
            pass
        apart(fill, login.dsn, work / "P" / "Data.fs")
        conf = site.write_conf(work / "zope.conf")
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        for number in range(options.rounds):
            repository = work / f"repository-{number}"
            ours = [
                sys.executable,
                "-m",
                "zodb_vault",
                "-q",
                "--repository",
                str(repository),
                "--zope-conf",
                str(conf),
            ]
            subprocess.run([*ours, "repository", "init"], check=True)
            theirs = [
                "pg_dump",
                "-Fc",
                f"--host={login.host}",
                f"--username={login.user}",
                f"--dbname={login.name}",
            ]
            base, _memory = measured(theirs, environment, work / "dump")
            wall, memory = measured([*ours, "create", "--only", "storage"], environment, work / "out")
            stored = sum(path.stat().st_size for path in repository.rglob("*") if path.is_file())
            dumped = (work / "dump").stat().st_size
            print(
                f"pg_dump -Fc: {base:.1f} s, {dumped / 1e6:.0f} MB; create: {wall:.1f} s, "
                f"{stored / 1e6:.0f} MB, {memory:.0f} MB of memory; "
                f"{base / wall:.1f} times as fast, {stored / dumped:.2f} of the size",
                flush=True,
            )
    finally:
        cluster.stop()
        shutil.rmtree(directory)
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
