"""Choose where each database of a backup goes: a database of the site, or a directory.

Every backend answers for itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ...errors import UsageError, VaultError
from ...model.manifest import DatabaseEntry
from ...model.restore import DatabaseCut, DestinationOptions
from ...model.source import Database, Site
from ...strategies.backend_lookup import backend_of_entry, copying_backend, find_backend_of_entry
from ...strategies.destination import Destination
from .dump_directory import DumpDirectory
from .options import RestoreOptions
from .targets import RestoreTarget


class Chosen(NamedTuple):
    """One database of a backup with its destination; ``database`` is None for a directory."""

    cut: DatabaseCut
    destination: Destination
    database: Database | None


def choose(cut: DatabaseCut, site: Site | None, options: RestoreOptions, target: RestoreTarget) -> Chosen:
    """Return where a database goes; opens nothing.

    Raise UsageError when the site has no such database, TargetRefused.
    """
    if options.output is None:
        database = database_for(cut.entry, site, target)
        return Chosen(cut, backend_of_entry(cut.entry).destination(database, options), database)
    directory = options.output.absolute() / (cut.entry.folder if len(target.cuts) > 1 else "")
    # the files of a dump can be written without the package that understands them
    backend = find_backend_of_entry(cut.entry)
    found = backend.directory(cut.entry, directory, options) if backend else None
    return Chosen(cut, found or DumpDirectory(directory, options), None)


def database_for(entry: DatabaseEntry, site: Site | None, target: RestoreTarget) -> Database:
    """Return the database of the site that one of a backup goes into: the one of the same name.

    Where the backup and the site have just one, it is that one.
    """
    databases = site.databases if site else ()
    manifest = target.backup.manifest
    alone = databases[0] if manifest.whole and len(manifest.databases) == len(databases) == 1 else None
    database = next((one for one in databases if one.name == entry.name), alone)
    if database is None:
        known = ", ".join(one.name for one in databases) or "none"
        raise UsageError(
            f"the site has no database {entry.name} to restore into, it has {known}",
            "restore into a directory with --output DIR, or only what the site has with --database NAME",
        )
    return database


def resuming_destinations(databases: Iterable[Database]) -> list[Destination]:
    """Return the databases of a site in which an interrupted restore can be undone, as destinations."""
    found = []
    for database in databases:
        try:
            destination = copying_backend(database).destination(database, DestinationOptions())
        except VaultError:  # nothing can be restored into it, so nothing was
            continue
        if destination.resumes:
            found.append(destination)
    return found
