"""The one table of strategies: which kind of storage is handled by whom. Each is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ..errors import UnsupportedRepository, UsageError
from ..model.chain import Documents
from ..model.manifest import DatabaseEntry
from ..model.source import Database
from .base import Destination, Strategy, unsupported

if TYPE_CHECKING:
    from .bucket import Bucket


def _filestorage() -> Strategy:
    from .filestorage import STRATEGY

    return STRATEGY


def _relstorage() -> Strategy:
    from .relstorage import STRATEGY

    return STRATEGY


def _pgjsonb() -> Strategy:
    from .pgjsonb import STRATEGY

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
            f"the backup holds the database {entry.name} of {entry.backend}, which this version does not know", "install a newer zodb-vault"
        )
    return found()


def bucket_to_fill(database: Database, entry: DatabaseEntry, documents: Documents) -> Bucket:
    """Return the bucket of a site that the blobs of a backup are put into: that of the wrapper, or that of zodb-pgjsonb."""
    if database.blob_mode == "s3":
        from .bucket import Bucket, wrapper_key

        return Bucket(database, wrapper_key)
    from .pgjsonb import bucket_to_fill as of_pgjsonb

    return of_pgjsonb(database, entry, documents)


def _into_postgresql(database: Database, role: str | None) -> Destination:
    from .pgrestore import PostgresDestination

    return PostgresDestination(database.option("dsn" if database.backend == "pgjsonb" else "postgresql.dsn"), role)


def _into_sqlite(database: Database, _role: str | None) -> Destination:
    from .sqlite import SqliteDestination

    return SqliteDestination(database)


def _into_mysql(database: Database, _role: str | None) -> Destination:
    from .mysql import MysqlDestination

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
        raise UsageError(f"the database {database.name} is on {kind}, no dump can be loaded there", "restore with --output DIR")
    return found(database, role)
