"""The one table of strategies: which kind of storage is handled by whom. Each is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ..errors import UnsupportedRepository
from ..model.chain import Documents
from ..model.manifest import DatabaseEntry
from ..model.source import Database
from .base import Destination, Strategy, not_restorable, unsupported

if TYPE_CHECKING:
    from .blobs.s3 import BlobBucket


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


def destination_of(database: Database, role: str | None) -> Destination:
    """Return the database that a dump is loaded into, ``role`` being its future owner; raise UsageError when no dump can be."""
    found = STRATEGIES.get(database.backend)
    if found is None:
        raise not_restorable(database)
    return found().destination(database, role)
