"""Decide which databases of a site can be backed up together, and by which method."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from ...errors import ConfigurationError, NothingToBackUp, UsageError
from ...model.source import Database, Method, Site
from ...repository.repository import Repository
from ...strategies.backend_lookup import backend_of
from .mirrors import is_mirrored
from .options import CreateOptions


def choose_databases(site: Site, options: CreateOptions) -> list[Database]:
    """Return the databases that the options name, or all; raise NothingToBackUp, UsageError."""
    if not site.databases:
        skipped = "; ".join(f"{one.name}: {one.why}" for one in site.skipped)
        raise NothingToBackUp(f"the site {site.name} has no persistent database", skipped)
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
                f"--cold locks a Data.fs, but the database {database.name} is copied while the site runs",
                "leave out --cold",
            )
    return [by_method(database, options.method) for database in chosen]


def by_method(database: Database, method: Method) -> Database:
    """Return a database with the method that copies it when the user asks for ``method``.

    The method ``portable`` is set later, together with the paths of the mirror.
    """
    chosen = backend_of(database).method(database, method)
    return msgspec.structs.replace(database, method=chosen) if chosen == "transactions" else database


def with_advice(databases: list[Database], options: CreateOptions) -> list[Database]:
    """Return the databases with warnings about the place of their blobs, for which each database was queried.

    Raise ConfigurationError when blobs would be left out.
    """
    if options.only == "storage":
        return databases
    warnings = opinions(databases)
    return [
        msgspec.structs.replace(one, warnings=tuple(dict.fromkeys((*one.warnings, *warnings[one.name]))))
        for one in databases
    ]


def opinions(databases: Iterable[Database]) -> dict[str, list[str]]:
    """Return the warnings of each database about the place of its blobs, by the name of the database.

    Raise one ConfigurationError for all databases whose blobs would be left out.
    """
    warnings: dict[str, list[str]] = {}
    issues: list[str] = []
    hints: list[str] = []
    for database in databases:
        try:
            opinion = backend_of(database).second_opinion(database)
        except ConfigurationError as error:
            issues += error.issues
            hints.append(error.hint)
        else:
            warnings[database.name] = opinion.warnings if opinion else []
    if issues:
        raise ConfigurationError(issues, "\n".join(dict.fromkeys(hints)))
    return warnings


def refused(database: Database, method: Method = "native") -> NothingToBackUp | None:
    """Return the error when a database cannot be backed up on this machine, None when it can."""
    backend = backend_of(database)
    chosen = backend.method(database, method)
    elsewhere = backend.scope(database).elsewhere if chosen != "portable" else None
    if elsewhere is not None:
        return NothingToBackUp(f"the database {database.name}: {elsewhere.problem}", elsewhere.instead)
    try:
        backend.require(database, chosen)
    except NothingToBackUp as error:
        return error
    return None


def refuse_overlap(repository: Repository, databases: list[Database]) -> None:
    """Raise ConfigurationError when the repository is in a blob directory, or a blob directory is in it."""
    if "://" in repository.store.location:
        return
    root = Path(repository.store.location).resolve()
    for database in databases:
        blobs = Path(database.blob_dir).resolve() if database.blob_dir else None
        if blobs and (root == blobs or blobs in root.parents or root in blobs.parents):
            raise ConfigurationError(
                [f"one of the repository {root} and the blob directory {blobs} contains the other"],
                "use another directory for the repository",
            )
