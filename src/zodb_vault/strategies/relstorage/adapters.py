"""The databases that RelStorage works with, one record for each; the code of one is imported when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ...blobs.refs import BlobSet
from ...model.manifest import DatabaseEntry
from ...model.source import Database
from ...runtime.progress import Progress
from ..base import CheckReport, Destination, Sink
from ..sql.snapshot import Rows

Check = Callable[[DatabaseEntry, Sink, BlobSet, CheckReport, Progress], None]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One kind of database: ``checks`` by the kind of storage that a manifest names, ``destination`` takes the future owner too."""

    open_rows: Callable[[Database], Rows]
    location: Callable[[Database], str]
    checks: Mapping[str, Check]
    destination: Callable[[Database, str | None], Destination]


def _postgresql_rows(database: Database) -> Rows:
    from .postgres import PostgresRows

    return PostgresRows(database)


def _postgresql_location(database: Database) -> str:
    from ..postgres.connection import where

    return where(database.option("postgresql.dsn"))


def _check_pg_dump(
    entry: DatabaseEntry, sink: Sink, refs: BlobSet, verdict: CheckReport, progress: Progress
) -> None:
    from ..postgres.archive import check_dump

    check_dump(entry, sink, refs, verdict, progress)


def _check_pg_transactions(
    entry: DatabaseEntry, sink: Sink, refs: BlobSet, verdict: CheckReport, progress: Progress
) -> None:
    from ..postgres.delta_check import check_deltas

    check_deltas(entry, sink, refs, verdict, progress)


def _into_postgresql(database: Database, role: str | None) -> Destination:
    from ..postgres.restore import PostgresDestination

    return PostgresDestination(database.option("postgresql.dsn"), role)


def _sqlite3_rows(database: Database) -> Rows:
    from .sqlite import SqliteRows

    return SqliteRows(database)


def _sqlite3_location(database: Database) -> str:
    from .sqlite import location

    return location(database)


def _check_sqlite(
    entry: DatabaseEntry, sink: Sink, refs: BlobSet, verdict: CheckReport, progress: Progress
) -> None:
    from .sqlite import check_copy

    check_copy(entry, sink, refs, verdict, progress)


def _into_sqlite3(database: Database, _role: str | None) -> Destination:
    from .sqlite_restore import SqliteDestination

    return SqliteDestination(database)


def _mysql_rows(database: Database) -> Rows:
    from .mysql import MysqlRows

    return MysqlRows(database)


def _mysql_location(database: Database) -> str:
    from .mysql_login import location

    return location(database)


def _check_mysqldump(
    entry: DatabaseEntry, sink: Sink, _refs: BlobSet, verdict: CheckReport, progress: Progress
) -> None:
    from .mysql import check_script

    check_script(entry, sink, verdict, progress)


def _into_mysql(database: Database, _role: str | None) -> Destination:
    from .mysql_restore import MysqlDestination

    return MysqlDestination(database)


ADAPTERS: Final[Mapping[str, Adapter]] = {
    "postgresql": Adapter(
        open_rows=_postgresql_rows,
        location=_postgresql_location,
        checks={"pg_dump": _check_pg_dump, "pg_transactions": _check_pg_transactions},
        destination=_into_postgresql,
    ),
    "sqlite3": Adapter(
        open_rows=_sqlite3_rows,
        location=_sqlite3_location,
        checks={"sqlite": _check_sqlite},
        destination=_into_sqlite3,
    ),
    "mysql": Adapter(
        open_rows=_mysql_rows,
        location=_mysql_location,
        checks={"mysqldump": _check_mysqldump},
        destination=_into_mysql,
    ),
}
