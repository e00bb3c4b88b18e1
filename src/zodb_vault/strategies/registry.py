"""The one table of strategies: which kind of storage is handled by whom. Each is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ..blobs.refs import BlobSet
from ..errors import UnsupportedRepository, UsageError
from ..model.chain import Documents
from ..model.manifest import DatabaseEntry
from ..model.source import Database
from ..runtime.progress import Progress
from .base import CheckReport, Destination, Sink, Strategy, unsupported
from .sql.snapshot import Rows

if TYPE_CHECKING:
    from .blobs.s3 import BlobBucket


def _postgresql(database: Database) -> Rows:
    from .relstorage.postgres import PostgresRows

    return PostgresRows(database)


def _sqlite3(database: Database) -> Rows:
    from .relstorage.sqlite import SqliteRows

    return SqliteRows(database)


def _mysql(database: Database) -> Rows:
    from .relstorage.mysql import MysqlRows

    return MysqlRows(database)


ROWS: Final[Mapping[str, Callable[[Database], Rows]]] = {
    "postgresql": _postgresql,
    "sqlite3": _sqlite3,
    "mysql": _mysql,
}


def _postgres_location(database: Database) -> str:
    from .postgres.connection import where

    return where(database.option("postgresql.dsn"))


def _check_pg_dump(
    entry: DatabaseEntry, sink: Sink, refs: BlobSet, verdict: CheckReport, progress: Progress
) -> None:
    from .postgres.archive import check_dump

    check_dump(entry, sink, refs, verdict, progress)


def _check_transactions(
    entry: DatabaseEntry, sink: Sink, refs: BlobSet, verdict: CheckReport, progress: Progress
) -> None:
    from .postgres.delta_check import check_deltas

    check_deltas(entry, sink, refs, verdict, progress)


def _check_sqlite(
    entry: DatabaseEntry, sink: Sink, refs: BlobSet, verdict: CheckReport, progress: Progress
) -> None:
    from .relstorage.sqlite import check_copy

    check_copy(entry, sink, refs, verdict, progress)


def _sqlite_location(database: Database) -> str:
    from .relstorage.sqlite import location

    return location(database)


def _check_mysql(
    entry: DatabaseEntry, sink: Sink, _refs: BlobSet, verdict: CheckReport, progress: Progress
) -> None:
    from .relstorage.mysql import check_script

    check_script(entry, sink, verdict, progress)


def _mysql_location(database: Database) -> str:
    from .relstorage.mysql_login import location

    return location(database)


CHECKS: Final[Mapping[str, Callable[[DatabaseEntry, Sink, BlobSet, CheckReport, Progress], None]]] = {
    "pg_dump": _check_pg_dump,
    "pg_transactions": _check_transactions,
    "sqlite": _check_sqlite,
    "mysqldump": _check_mysql,
}


LOCATIONS: Final[Mapping[str, Callable[[Database], str]]] = {
    "postgresql": _postgres_location,
    "sqlite3": _sqlite_location,
    "mysql": _mysql_location,
}


def _filestorage() -> Strategy:
    from .filestorage.strategy import STRATEGY

    return STRATEGY


def _relstorage() -> Strategy:
    from .relstorage.strategy import STRATEGY

    return STRATEGY


def _pgjsonb() -> Strategy:
    from .pgjsonb.strategy import STRATEGY

    return STRATEGY


STRATEGIES: Final[Mapping[str, Callable[[], Strategy]]] = {
    "filestorage": _filestorage,
    "relstorage": _relstorage,
    "pgjsonb": _pgjsonb,
}


def strategy_of(database: Database) -> Strategy:
    """Return who backs a database up, a mirror as what it is; raise NothingToBackUp when this version knows nobody."""
    found = STRATEGIES.get("filestorage" if database.method == "portable" else database.backend)
    if found is None:
        raise unsupported(database)
    return found()


def strategy_of_entry(entry: DatabaseEntry) -> Strategy:
    """Return who knows what a backup holds of a database: a Data.fs is one, from whatever storage it was made."""
    found = STRATEGIES.get("filestorage" if entry.data_fs else entry.backend)
    if found is None:
        raise UnsupportedRepository(
            f"the backup holds the database {entry.name} of {entry.backend}, which this version does not know",
            "install a newer zodb-vault",
        )
    return found()


def bucket_to_fill(database: Database, entry: DatabaseEntry, documents: Documents) -> BlobBucket:
    """Return the bucket of a site that the blobs of a backup are put into: that of the wrapper, or that of zodb-pgjsonb."""
    if database.blob_mode == "s3":
        from .blobs.s3 import BlobBucket, wrapper_key

        return BlobBucket(database, wrapper_key)
    from .pgjsonb.capture import bucket_to_fill as of_pgjsonb

    return of_pgjsonb(database, entry, documents)


def _into_postgresql(database: Database, role: str | None) -> Destination:
    from .postgres.restore import PostgresDestination

    return PostgresDestination(
        database.option("dsn" if database.backend == "pgjsonb" else "postgresql.dsn"), role
    )


def _into_sqlite(database: Database, _role: str | None) -> Destination:
    from .relstorage.sqlite_restore import SqliteDestination

    return SqliteDestination(database)


def _into_mysql(database: Database, _role: str | None) -> Destination:
    from .relstorage.mysql_restore import MysqlDestination

    return MysqlDestination(database)


DESTINATIONS: Final[Mapping[str, Callable[[Database, str | None], Destination]]] = {
    "postgresql": _into_postgresql,
    "sqlite3": _into_sqlite,
    "mysql": _into_mysql,
}


def destination_of(database: Database, role: str | None) -> Destination:
    """Return the database that a dump is loaded into, ``role`` being who is to own it; raise UsageError when it is no server's."""
    found = DESTINATIONS.get(database.adapter or "")
    if found is None:
        kind = database.adapter or database.backend
        raise UsageError(
            f"the database {database.name} is on {kind}, no dump can be loaded there",
            "restore with --output DIR",
        )
    return found(database, role)
