"""Find the backend of a database of a site or of a backup, by name."""

from __future__ import annotations

from ..config.backend_registry import DATA_FS, ENTRY_POINTS, find_backend
from ..errors import ConfigurationError, NothingToBackUp, UnsupportedRepository
from ..model.manifest import DatabaseEntry
from ..model.source import Database
from .backend import Backend


def backend_of(database: Database) -> Backend:
    """Return the backend of a database of a site; raise NothingToBackUp when no package registers it."""
    found = _find(database.backend)
    if found is None:
        raise NothingToBackUp(
            f"the database {database.name} is on {database.backend}, but no installed package registers this "
            "backend",
            f"install the package that registers {database.backend} under the entry points {ENTRY_POINTS}",
        )
    return found


def copying_backend(database: Database) -> Backend:
    """Return the backend that copies a database; for the portable method, the backend of its mirror.

    A mirror is a Data.fs.
    """
    return backend_named(DATA_FS) if database.method == "portable" else backend_of(database)


def location_of(database: Database) -> str:
    """Return the place of a database, not of its mirror; it identifies the source."""
    backend = backend_of(database)
    return backend.shown_location(database) if database.method == "portable" else backend.location(database)


def backend_of_entry(entry: DatabaseEntry) -> Backend:
    """Return the backend that reads a database of a backup.

    Raise UnsupportedRepository when no package registers it.
    """
    found = find_backend_of_entry(entry)
    if found is None:
        raise UnsupportedRepository(
            f"the backup holds the database {entry.name} of the backend {entry.backend}, which is not known "
            "here",
            f"install a newer zodb-vault, or the package that registers {entry.backend} under the entry "
            f"points {ENTRY_POINTS}",
        )
    return found


def find_backend_of_entry(entry: DatabaseEntry) -> Backend | None:
    """Return the backend that reads a database of a backup, None when no package registers it.

    A mirror is always a Data.fs.
    """
    return _find(DATA_FS if entry.data_fs or entry.method == "portable" else entry.backend)


def backend_named(name: str) -> Backend:
    """Return the backend with a name that is certainly registered."""
    found = _find(name)
    assert found is not None, name
    return found


def _find(name: str) -> Backend | None:
    registered = find_backend(name)
    if registered is None:
        return None
    if isinstance(registered.backend, Backend):
        return registered.backend
    raise ConfigurationError(
        [f"{registered.source}, registered for {name}, is not a {Backend.__module__}.{Backend.__name__}"],
        "report this mistake to the package that registers it",
    )
