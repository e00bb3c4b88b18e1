"""The databases that RelStorage works with, one record for each.

The code of one is imported when it is first needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...blobs.refs import BlobSet
from ...errors import Damage
from ...model.manifest import DatabaseEntry
from ...model.requirements import Package
from ...model.source import Database, masked
from ...policy.scope import shown_server
from ...runtime.progress import Progress
from ..base import CheckReport, Sink
from ..postgres.requirements import DRIVERS, TOOLS

if TYPE_CHECKING:
    from ...config.sections import Section
    from ..destination import PreflightFinding
    from ..sql.probe import ProbedDatabase
    from ..sql.restore import LoadRequest, PlannedLoad
    from ..sql.snapshot import Rows

DSN: Final = "postgresql.dsn"

Check = Callable[[DatabaseEntry, Sink, BlobSet, CheckReport, Progress], None]
Note = Callable[[str], None]
Options = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Dumping:
    """How one kind of database is dumped, checked and restored.

    ``checks`` are by the kind of storage in a manifest; ``plan_load`` looks at a database that a dump is to
    be loaded into; ``preflight`` yields what a load by a role needs, also while the site runs; ``files`` are
    those of a database that is not in a server; ``scratch`` takes a directory, the DSN of a server or None,
    and what says what cannot be removed, and gives the options of an empty database; ``connect`` opens a
    connection for a second opinion. None where there is none.
    """

    open_rows: Callable[[Database], Rows]
    location: Callable[[Database], str]
    checks: Mapping[str, Check]
    plan_load: Callable[[Database, LoadRequest], PlannedLoad]
    preflight: Callable[[Database, LoadRequest | None, str | None], Iterable[PreflightFinding]]
    scratch: Callable[[Path, str | None, Note], AbstractContextManager[Options]] | None = None
    connect: Callable[[Database], AbstractContextManager[ProbedDatabase]] | None = None
    files: Callable[[Database], list[Path]] | None = None
    persistent_cache: bool = True


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One kind of database.

    What is said of it, what it needs, and how it is dumped (None where no dump could be restored).
    """

    tool: str
    shown_location: Callable[[Database], str]
    dsn_option: str | None = None
    drivers: tuple[Package, ...] = ()
    tools: tuple[tuple[str, ...], ...] = ()
    dumping: Dumping | None = None


# PostgreSQL


def _shown_postgresql(database: Database) -> str:
    return shown_server("PostgreSQL", database, DSN)


def _postgresql_rows(database: Database) -> Rows:
    from .postgres import PostgresRows

    return PostgresRows(database)


def _postgresql_location(database: Database) -> str:
    from ..postgres.connection import where

    return where(database.dsn)


def _check_pg_dump(
    entry: DatabaseEntry, sink: Sink, refs: BlobSet, report: CheckReport, progress: Progress
) -> None:
    from ..postgres.archive import check_dump
    from .tables import tables_of

    check_dump(entry, tables_of(bool(entry.history)), sink, refs, report, progress)


def _check_pg_transactions(
    entry: DatabaseEntry, sink: Sink, refs: BlobSet, report: CheckReport, progress: Progress
) -> None:
    from ..postgres.delta_check import check_deltas
    from .tables import tables_of

    check_deltas(entry, tables_of(bool(entry.history)), sink, refs, report, progress)


def _load_postgresql(database: Database, request: LoadRequest) -> PlannedLoad:
    from ..postgres.empty_or_replace import plan_load
    from .tables import tables_of

    return plan_load(database.dsn, tables_of, request)


def _preflight_postgresql(
    database: Database, request: LoadRequest | None, role: str | None
) -> Iterable[PreflightFinding]:
    from ..postgres.empty_or_replace import preflight

    return preflight(database.dsn, request, role)


@contextlib.contextmanager
def _scratch_postgresql(directory: Path, server: str | None, note: Note) -> Iterator[Options]:
    from ..postgres.scratch import scratch_database

    with scratch_database(directory, server, note) as dsn:
        yield {DSN: dsn}


def _connected_to_postgresql(database: Database) -> AbstractContextManager[ProbedDatabase]:
    from ..postgres.probe import connected

    return connected(database)


# SQLite


def _shown_sqlite3(database: Database) -> str:
    return masked(database.options).get("sqlite3.data-dir", "")


def _sqlite3_rows(database: Database) -> Rows:
    from .sqlite import SqliteRows

    return SqliteRows(database)


def _sqlite3_location(database: Database) -> str:
    from .sqlite import location

    return location(database)


def _check_sqlite(
    entry: DatabaseEntry, sink: Sink, refs: BlobSet, report: CheckReport, progress: Progress
) -> None:
    from .sqlite import check_copy

    check_copy(entry, sink, refs, report, progress)


def _load_sqlite3(database: Database, request: LoadRequest) -> PlannedLoad:
    from .sqlite_restore import plan_load

    return plan_load(database, request)


def _preflight_sqlite3(
    database: Database, _request: LoadRequest | None, _role: str | None
) -> Iterable[PreflightFinding]:
    from .sqlite_restore import preflight

    return preflight(database)


def _files_of_sqlite3(database: Database) -> list[Path]:
    from .sqlite import FILES, data_dir

    return [data_dir(database) / name for name in FILES]


@contextlib.contextmanager
def _scratch_sqlite3(directory: Path, _server: str | None, _note: Note) -> Iterator[Options]:
    data = directory / "data"
    data.mkdir()
    yield {"sqlite3.data-dir": str(data)}


def _connected_to_sqlite3(database: Database) -> AbstractContextManager[ProbedDatabase]:
    from .probe import connected_to_sqlite

    return connected_to_sqlite(database)


# MySQL and MariaDB


def _shown_mysql(database: Database) -> str:
    options = masked(database.options)
    host = options.get("mysql.unix_socket") or options.get("mysql.host") or "localhost"
    port = options.get("mysql.port")
    return f"MySQL {options.get('mysql.db', '')} at {host}{f':{port}' if port else ''}"


def _mysql_rows(database: Database) -> Rows:
    from .mysql import MysqlRows

    return MysqlRows(database)


def _mysql_location(database: Database) -> str:
    from .mysql_login import location

    return location(database)


def _check_mysqldump(
    entry: DatabaseEntry, sink: Sink, _refs: BlobSet, report: CheckReport, progress: Progress
) -> None:
    from .mysql import check_script

    check_script(entry, sink, report, progress)


def _load_mysql(database: Database, request: LoadRequest) -> PlannedLoad:
    from .mysql_restore import plan_load

    return plan_load(database, request)


def _preflight_mysql(
    database: Database, _request: LoadRequest | None, _role: str | None
) -> Iterable[PreflightFinding]:
    from .mysql_restore import preflight

    return preflight(database)


# Oracle


def _shown_oracle(database: Database) -> str:
    return shown_server("Oracle", database, "oracle.dsn")


ADAPTERS: Final[Mapping[str, Adapter]] = {
    "postgresql": Adapter(
        tool="pg_dump",
        shown_location=_shown_postgresql,
        dsn_option=DSN,
        drivers=DRIVERS,
        tools=TOOLS,
        dumping=Dumping(
            open_rows=_postgresql_rows,
            location=_postgresql_location,
            checks={"pg_dump": _check_pg_dump, "pg_transactions": _check_pg_transactions},
            plan_load=_load_postgresql,
            preflight=_preflight_postgresql,
            scratch=_scratch_postgresql,
            connect=_connected_to_postgresql,
        ),
    ),
    "sqlite3": Adapter(
        tool="sqlite3",
        shown_location=_shown_sqlite3,
        dumping=Dumping(
            open_rows=_sqlite3_rows,
            location=_sqlite3_location,
            checks={"sqlite": _check_sqlite},
            plan_load=_load_sqlite3,
            preflight=_preflight_sqlite3,
            scratch=_scratch_sqlite3,
            connect=_connected_to_sqlite3,
            files=_files_of_sqlite3,
            persistent_cache=False,  # RelStorage ignores cache-local-dir
        ),
    ),
    "mysql": Adapter(
        tool="mariadb-dump",
        shown_location=_shown_mysql,
        tools=(("mariadb-dump", "mysqldump"), ("mariadb", "mysql")),
        dumping=Dumping(
            open_rows=_mysql_rows,
            location=_mysql_location,
            checks={"mysqldump": _check_mysqldump},
            plan_load=_load_mysql,
            preflight=_preflight_mysql,
        ),
    ),
    "oracle": Adapter(tool="zodb-convert", shown_location=_shown_oracle),
}


def adapter_section(section: Section, adapters: Mapping[str, Adapter]) -> Section:
    """Return the section of the one adapter; raise ConfigurationError when it is missing or not known."""
    if len(section.sections) != 1:
        known = ", ".join(f"<{name}>" for name in adapters)
        raise section.error(f"{section.label} has to hold one of {known}")
    adapter = section.sections[0]
    if adapter.type not in adapters:
        raise adapter.error(
            f"{adapter.label} is not a database that RelStorage is known for",
            hint=f"known are {', '.join(adapters)}",
        )
    return adapter


def dumping_of(adapters: Mapping[str, Adapter], database: Database) -> Dumping:
    """Return how a database is dumped; that it can be dumped was checked before."""
    dumping = adapters[database.adapter or ""].dumping
    assert dumping is not None, database.adapter
    return dumping


def dumping_that_reads(adapters: Mapping[str, Adapter], kind: str) -> tuple[str, Dumping]:
    """Return the adapter, and its way of dumping, for a kind of storage in a manifest; raise Damage."""
    for name, one in adapters.items():
        if one.dumping is not None and kind in one.dumping.checks:
            return name, one.dumping
    raise Damage(f"a backup of RelStorage has no storage of the kind {kind}")
