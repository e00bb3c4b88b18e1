"""The one table of strategies: which kind of storage is handled by whom. Each is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ..errors import UnsupportedRepository
from ..model.manifest import DatabaseEntry
from ..model.source import Database
from .base import Strategy, unsupported


def _filestorage() -> Strategy:
    from .filestorage import STRATEGY

    return STRATEGY


def _relstorage() -> Strategy:
    from .relstorage import STRATEGY

    return STRATEGY


STRATEGIES: Final[Mapping[str, Callable[[], Strategy]]] = {
    "filestorage": _filestorage,
    "relstorage": _relstorage,
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
