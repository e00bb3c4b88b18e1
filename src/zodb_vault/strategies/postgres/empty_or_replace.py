"""Decide how a dump gets into a database of PostgreSQL, which may not be empty.

Into an empty database, beside a full one that is then renamed, or over a full one in one transaction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import Enum
from functools import partial

from ...errors import TargetRefused
from ...model.manifest import PgDump
from ...model.restore import RestorePoint
from ..destination import PreflightFinding, finding_of
from ..sql.restore import LoadRequest, PlannedLoad
from .restore import LoadBeside, LoadInPlace
from .tables import StorageTables, TablesOf
from .target_database import TargetDatabase
from .versions import SERVER, major, major_of_server


class Way(Enum):
    """How a dump gets into a database; the value is what the plan of a restore says."""

    EMPTY = "into the empty database"
    BESIDE = "beside it, exchanged by a rename"
    OVER = "over it, in one transaction"


def plan_load(dsn: str, tables_of: TablesOf, request: LoadRequest) -> PlannedLoad:
    """Log in, look, and choose the way.

    Raise InUse, TargetRefused when the database is not empty and is not to be replaced.
    """
    dump = request.entry.dump
    if not isinstance(dump, PgDump):
        raise TargetRefused(
            f"the backup of {request.entry.name} is no dump of PostgreSQL", "restore it with --output DIR"
        )
    tables = tables_of(bool(request.entry.history))
    with contextlib.closing(TargetDatabase(dsn, request.role)) as database:
        database.require_unused()
        empty = database.is_empty()
        if not empty and not request.replace:
            raise TargetRefused(
                f"the database {database.where} is not empty",
                "restore into an empty database, or give --replace: "
                "what is there is kept under another name, or saved first",
            )
        way = _way(database, request.point, empty=empty)
        _require_way(database, way, dump)
        load = LoadBeside if way is Way.BESIDE else LoadInPlace
        return PlannedLoad(
            exists=not empty,
            way=way.value,
            begin=partial(load, dsn, tables, request, dump, was_empty=empty),
            last_tid=None if empty else database.last_tid(),
            notes=list(_notes(database, tables, dump, way, request.point)),
        )


def preflight(dsn: str, request: LoadRequest | None, role: str | None) -> Iterator[PreflightFinding]:
    """Yield the way that a dump would take now, and whether the role has the rights for it.

    Sessions of the running site do not matter here. Raise ConfigurationError, SourceError without an answer.
    """
    dump = request.entry.dump if request is not None else None
    with contextlib.closing(TargetDatabase(dsn, role)) as database:
        empty, user = database.is_empty(), database.facts.user
        way = _way(database, None, empty=empty)
        may = "may" if database.facts.creates else "may not"
        message = f"the role {user} {may} create databases: a restore goes {way.value}"
        check = partial(_require_way, database, way, dump if isinstance(dump, PgDump) else None)
        yield finding_of(message, check)


def _require_way(database: TargetDatabase, way: Way, dump: PgDump | None) -> None:
    """Raise TargetRefused when the role lacks a right for this way, or the dump does not fit.

    Without a ``dump``, only the rights count.
    """
    if way is Way.BESIDE:
        database.connect_beside().close()
        return
    database.require_rights(empty=way is Way.EMPTY)
    if way is Way.OVER and dump is not None:
        _require_same_tables(database, dump)


def _way(database: TargetDatabase, point: RestorePoint | None, *, empty: bool) -> Way:
    """Return the way of a dump.

    One that is truncated is so, wherever that is possible, before any process can see it.
    """
    creates, user = database.facts.creates, database.facts.user
    if empty and (point is None or not creates):
        return Way.EMPTY
    if creates:
        return Way.BESIDE
    if point is not None:
        raise TargetRefused(
            f"the role {user} may not create databases, so what is later than {point.tid} cannot be removed "
            "before the database is valid",
            f"ALTER ROLE {user} CREATEDB for the time of the restore, or restore into an empty database",
        )
    return Way.OVER


def _require_same_tables(database: TargetDatabase, dump: PgDump) -> None:
    """Raise TargetRefused when there are tables that the dump would not drop."""
    user = database.facts.user
    if more := sorted(database.tables() - dump.tables.keys()):
        raise TargetRefused(
            f"the role {user} may not create databases, and {database.where} has tables that the backup "
            "does not have: "
            f"{', '.join(more[:5])}",
            f"ALTER ROLE {user} CREATEDB for the time of the restore, or restore into an empty database",
        )


def _notes(
    database: TargetDatabase, tables: StorageTables, dump: PgDump, way: Way, point: RestorePoint | None
) -> Iterator[str]:
    made_of = dump.versions.get(SERVER, "")
    if major(made_of) > major_of_server(database.facts.version):
        yield (f"the dump was made of a newer server ({made_of}): it may hold what this server does not know")
    if way is Way.EMPTY and point is not None:
        yield (
            f"the role {database.facts.user} may not create databases: the whole backup is loaded first, "
            "and truncated "
            "then; no process may use the database before the restore has succeeded"
        )
    if point is not None and tables.truncation_note:
        yield tables.truncation_note
    if way is Way.OVER and dump.large_objects:
        yield "large objects that only the replaced state has stay behind; `vacuumlo` removes them"
