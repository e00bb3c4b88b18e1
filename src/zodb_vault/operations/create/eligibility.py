"""Which databases of a site can be backed up together, and by which method."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...errors import ConfigurationError, NothingToBackUp, UsageError
from ...model.source import Database, Method, Site
from ...policy.scope import scope_of
from ...repository.repository import Repository
from ...strategies.blobs.probe import opinions
from ...strategies.registry import strategy_of
from .mirrors import is_mirrored, unportable
from .options import CreateOptions


def choose_databases(site: Site, options: CreateOptions) -> list[Database]:
    """Return the databases that the options name, else all; raise NothingToBackUp or UsageError."""
    if not site.databases:
        skipped = "; ".join(f"{one.name}: {one.why}" for one in site.skipped)
        raise NothingToBackUp(f"the site {site.name} has no persistent database of its own", skipped)
    unknown = sorted(set(options.databases) - {database.name for database in site.databases})
    if unknown:
        raise UsageError(
            f"there is no database {', '.join(unknown)}",
            "known: " + ", ".join(d.name for d in site.databases),
        )
    chosen = [
        database for database in site.databases if not options.databases or database.name in options.databases
    ]
    for database in chosen:
        if refusal := refused(database, options.method):
            raise refusal
        if options.cold and is_mirrored(database, options.method):
            raise UsageError(
                f"--cold locks a Data.fs, and the database {database.name} is copied while it runs",
                "leave out --cold",
            )
    return [by_method(database, options.method) for database in chosen]


def by_method(database: Database, method: Method) -> Database:
    """Return a database as the method has it copied: a Data.fs is copied by transactions natively."""
    wanted = method == "transactions" and database.backend != "filestorage"
    return msgspec.structs.replace(database, method="transactions") if wanted else database


def with_advice(databases: list[Database], options: CreateOptions) -> list[Database]:
    """Return the databases with the warnings of a second opinion on where their blobs are; raise ConfigurationError when some would be lost."""
    if options.only == "storage":
        return databases
    told = opinions(databases)
    return [
        msgspec.structs.replace(one, warnings=tuple(dict.fromkeys((*one.warnings, *told[one.name]))))
        for one in databases
    ]


def refused(database: Database, method: Method = "native") -> NothingToBackUp | None:
    """Return why a database cannot be backed up here, None when it can."""
    if is_mirrored(database, method):
        return unportable(database)
    if elsewhere := scope_of(database).elsewhere:
        where, _, instead = elsewhere.partition(". ")
        return NothingToBackUp(f"the database {database.name}: {where}", instead)
    try:
        strategy_of(database).require(database)
    except NothingToBackUp as error:
        return error
    if method == "transactions" and database.backend != "filestorage" and database.adapter != "postgresql":
        kind = f"{database.backend} ({database.adapter})" if database.adapter else database.backend
        return NothingToBackUp(
            f"--method transactions is for databases in PostgreSQL, and {database.name} is {kind}",
            "leave it out: the native method dumps the database, and copies only the blob files that are new",
        )
    return None


def refuse_overlap(repository: Repository, databases: list[Database]) -> None:
    """Raise ConfigurationError when the repository lies in a blob directory, or one of these in the repository."""
    if "://" in repository.store.location:
        return
    root = Path(repository.store.location).resolve()
    for database in databases:
        blobs = Path(database.blob_dir).resolve() if database.blob_dir else None
        if blobs and (root == blobs or blobs in root.parents or root in blobs.parents):
            raise ConfigurationError(
                [f"the repository {root} and the blob directory {blobs} lie in each other"],
                "keep the repository elsewhere",
            )
