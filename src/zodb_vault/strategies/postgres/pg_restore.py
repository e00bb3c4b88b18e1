"""Run ``pg_restore`` over a stored dump, with its deltas if it has any, and check what was loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from ...errors import Damage, TargetRefused, VaultError
from ...model.chain import dump_of
from ...model.manifest import DatabaseEntry, PgDump, PgTransactions
from ...runtime.progress import Progress
from ..base import Sink
from ..sql.program import Program
from .connection import connect, secrets_of, shown_dsn, translate_errors
from .delta_restore import DeltaRestore, require_keys
from .names import TableName
from .tables import StorageTables
from .versions import made_by, pg_restore_for

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# What is in an error of pg_restore, and the next step.
HINTS: Final = {
    "permission denied to create extension": (
        "let an administrator create the extension in the database first"
    ),
    "out of shared memory": (
        "raise max_locks_per_transaction on the server, or let the role create databases (CREATEDB)"
    ),
    "already exists": "restore into an empty database, or give --replace",
    "permission denied for schema": "GRANT CREATE ON SCHEMA public TO the role that restores",
}
CLEAN: Final = ("--clean", "--if-exists")


class DumpToLoad(NamedTuple):
    """One dump, what is called while it is loaded, and the ``role`` that will own everything.

    Without a ``role`` the owner is ``user``, who is logged in.
    """

    entry: DatabaseEntry
    dump: PgDump
    tables: StorageTables
    objects: Sink
    progress: Progress
    heartbeat: Callable[[], None]
    role: str | None
    user: str


def load_dump(dsn: str, job: DumpToLoad, *, clean: bool = False) -> None:
    """Load a dump in one transaction; ``clean``: drop what is there first.

    Raise Damage, TargetRefused: nothing is changed then.
    """
    job.progress.begin("storage", job.dump.size)
    if isinstance(job.dump, PgTransactions):
        _load_with_deltas(dsn, job, job.dump, clean=clean)
    else:
        _load_alone(dsn, job, clean=clean)


def _command(job: DumpToLoad, made_by: int) -> list[str]:
    return [pg_restore_for(made_by), "--no-owner", "--no-acl", *([f"--role={job.role}"] if job.role else [])]


def _load_alone(dsn: str, job: DumpToLoad, *, clean: bool) -> None:
    command = [
        *_command(job, made_by(job.dump.versions)),
        "--exit-on-error",
        "--single-transaction",
        "--no-password",
        f"--dbname={shown_dsn(dsn)}",
        *(CLEAN if clean else ()),
    ]
    with Program(command, secrets_of(dsn), failure, fed=True) as program:
        for part in dump_of(job.entry, job.objects):
            # read and checked as a whole before its first byte is handed over: pg_restore commits after the
            # last one
            content = b"".join(job.objects.read([part]))
            if not program.feed(content):
                break
            job.progress.advance(len(content))
            job.heartbeat()
        program.close_input()
        program.finish()


def _load_with_deltas(dsn: str, job: DumpToLoad, dump: PgTransactions, *, clean: bool) -> None:
    """Load the base and its deltas, and commit only when everything is as it was in the snapshot."""
    command = _command(job, made_by(dump.base.versions))
    with contextlib.closing(connect(dsn)) as connection:
        restore = DeltaRestore(connection, command, failure, job.objects, job.progress, job.heartbeat)
        restore.run(job.entry, job.tables, dump, CLEAN if clean else ())
        require_keys(connection, job.entry, job.tables, dump)
        require_loaded(connection, job)
        with translate_errors(TargetRefused):
            connection.commit()


def require_loaded(connection: Connection, job: DumpToLoad) -> None:
    """Raise Damage unless tables have the rows, and sequences the values, that were dumped.

    TargetRefused for other owners.
    """
    with translate_errors(TargetRefused), connection.cursor() as cursor:
        for table, rows in job.dump.tables.items():
            cursor.execute(f"SELECT count(*) FROM {TableName.parse(table).quoted}")
            if (found := cursor.fetchall()[0][0]) != rows:
                raise Damage(f"the restored table {table} has {found} rows, {rows} were dumped")
        for sequence, value in job.dump.sequences.items():
            cursor.execute(
                "SELECT coalesce(max(last_value), 0) FROM pg_sequences WHERE (schemaname, sequencename) = "
                "(%s, %s)",
                tuple(TableName.parse(sequence)),
            )
            if (found := cursor.fetchall()[0][0]) < value:
                raise Damage(f"the restored sequence {sequence} is at {found}, {value} were used already")
        owner = job.role or job.user
        cursor.execute(
            "SELECT count(*) FROM pg_largeobject_metadata WHERE pg_get_userbyid(lomowner) <> %s", (owner,)
        )
        if (others := cursor.fetchall()[0][0]) != 0:
            raise TargetRefused(
                f"{others} large objects do not belong to {owner}", "remove them first: `vacuumlo`"
            )


def failure(text: str) -> VaultError:
    """Return the error for what pg_restore said."""
    hint = next((hint for words, hint in HINTS.items() if words in text), "")
    return TargetRefused(f"{text} (nothing was changed in the database)", hint)
