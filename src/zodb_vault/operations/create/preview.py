"""Plan what a create would do now, and why.

Nothing is changed. Without a repository or a source, the plan tells as much as is known.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from ...errors import VaultError
from ...model.capture import CaptureOptions
from ...model.manifest import DocumentRef
from ...model.source import Database, Method, Site, Skipped
from ...policy.scope import Elsewhere, Scope, bucket, portable_scope
from ...repository.repository import Repository
from ...runtime import clock
from ...strategies.backend_lookup import backend_of, copying_backend
from ...strategies.base import SurveyContext
from ...strategies.portable.mirror import Mirror
from ..catalog import Catalog, previous_backups_of
from .eligibility import by_method, opinions, refuse_overlap, refused
from .mirrors import as_mirrored, is_mirrored, mirror_of, refuse_directory


class NoDocuments:
    """The documents for a plan without a repository; such a plan neither reads nor writes a document."""

    def put_document(self, data: bytes) -> DocumentRef:
        """Raise NotImplementedError: a plan writes nothing."""
        raise NotImplementedError

    def document(self, name: str) -> bytes:
        """Raise NotImplementedError: there is no repository."""
        raise NotImplementedError


class BackupStep(msgspec.Struct, frozen=True, kw_only=True):
    """One component that is copied; ``order`` counts all storages first, then all blobs."""

    order: int
    what: str
    database: str
    source: str
    tool: str
    why: str


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """The plan for one database.

    ``left`` names what is not copied, and why. ``elsewhere`` tells where to run zodb-vault when the database
    cannot be backed up on this machine.
    """

    database: Database
    method: str
    copies_blobs: bool
    blob_location: str | None
    steps: list[BackupStep]
    left: tuple[str, ...]
    elsewhere: Elsewhere | None
    how: str | None
    reason: dict[str, str] | None
    warnings: list[str]

    def document(self) -> dict[str, Any]:
        """Return the part of ``plan --json`` for the database."""
        database = self.database
        return {
            "name": database.name,
            "mount_point": database.mount_point,
            "backend": database.backend,
            "adapter": database.adapter,
            "wrappers": list(database.wrappers),
            "history": database.history,
            "blob_mode": database.blob_mode,
            "blob_location": self.blob_location,
            "copies_blobs": self.copies_blobs,
            "method": self.method,
            "steps": [
                {
                    "order": step.order,
                    "what": step.what,
                    "database": step.database,
                    "from": step.source,
                    "tool": step.tool,
                }
                for step in self.steps
            ],
            "how": self.how,
            "reason": self.reason,
            "warnings": self.warnings + ([str(self.elsewhere)] if self.elsewhere else []),
        }


class BackupPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The plan for a site."""

    site: str
    databases: list[Planned]
    skipped: tuple[Skipped, ...]

    def document(self) -> dict[str, Any]:
        """Return the document of ``plan --json``."""
        return {
            "site": self.site,
            "databases": [database.document() for database in self.databases],
            "skipped": [{"name": one.name, "why": one.why} for one in self.skipped],
        }


class PlanOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the create that is planned."""

    full: bool = False
    method: Method = "native"
    mirror: Path | None = None


NATIVE: Final = PlanOptions()


def plan(
    site: Site, repository: Repository | None, problem: str | None, wanted: PlanOptions = NATIVE
) -> BackupPlan:
    """Return the plan; ``problem`` tells why there is no repository.

    Raise ConfigurationError when a database tells that the configuration would leave out blobs.
    """
    problems = {
        name: warnings + ([problem] if problem else []) for name, warnings in opinions(site.databases).items()
    }
    consists = {database.name: _scope(site, database, wanted) for database in site.databases}
    steps = list(_steps(consists))
    databases = [
        _database(site, database, consists[database.name], steps, repository, problems, wanted)
        for database in site.databases
    ]
    return BackupPlan(site=site.name, databases=databases, skipped=site.skipped)


def _scope(site: Site, database: Database, wanted: PlanOptions) -> Scope:
    backend = backend_of(database)
    if not is_mirrored(database, wanted.method):
        return backend.scope(database)
    if refused(database, wanted.method):
        return Scope((), portable=True)
    mirror = mirror_of(site, database, wanted.mirror)
    return portable_scope(backend.shown_location(database), str(mirror))


def _steps(consists: dict[str, Scope]) -> Iterator[BackupStep]:
    """Yield the steps of all databases in their order."""
    order = 0
    for what in ("storage", "blobs"):
        for name, one in consists.items():
            for component in one.copied:
                if component.what == what:
                    order += 1
                    yield BackupStep(
                        order=order,
                        what=what,
                        database=name,
                        source=component.source,
                        tool=component.tool,
                        why=component.why,
                    )


def _database(
    site: Site,
    database: Database,
    consists: Scope,
    steps: list[BackupStep],
    repository: Repository | None,
    problems: dict[str, list[str]],
    wanted: PlanOptions,
) -> Planned:
    warnings = [*database.warnings, *problems[database.name]]
    how, reason = None, None
    if refusal := refused(database, wanted.method):
        warnings += [refusal.message] if not consists.elsewhere else []
    else:
        try:
            seen = _seen(site, database, repository, wanted)
            how, reason = _decision(site, seen, repository, wanted.full) if seen else (None, None)
            warnings += [] if seen else ["there is no mirror yet: the first run copies the whole database"]
        except (VaultError, OSError) as error:
            warnings += [error.message if isinstance(error, VaultError) else str(error)]
            warnings += (
                [f"{database.data_fs} does not exist"]
                if database.data_fs and not os.path.lexists(database.data_fs)
                else []
            )
    return Planned(
        database=database,
        method="portable" if consists.portable else by_method(database, wanted.method).method,
        copies_blobs=consists.copies_blobs,
        blob_location=bucket(database) if "s3" in database.blob_mode else database.blob_dir,
        steps=[step for step in steps if step.database == database.name],
        left=consists.left,
        elsewhere=consists.elsewhere,
        how=how,
        reason=reason,
        warnings=list(dict.fromkeys(warnings)),
    )


def _seen(
    site: Site, database: Database, repository: Repository | None, wanted: PlanOptions
) -> Database | None:
    """Return the database as a backup sees it: for the portable method, its mirror as it is now.

    None when there is no mirror yet.
    """
    if not is_mirrored(database, wanted.method):
        return by_method(database, wanted.method)
    directory = mirror_of(site, database, wanted.mirror)
    if repository:
        refuse_directory(directory, repository, site)
    mirror = Mirror(directory)
    return as_mirrored(database, mirror) if mirror.data_fs.exists() else None


def _decision(
    site: Site, database: Database, repository: Repository | None, full: bool
) -> tuple[str, dict[str, str]]:
    if repository:
        refuse_overlap(repository, [database])
    context = SurveyContext(
        documents=repository.objects("") if repository else NoDocuments(),
        options=CaptureOptions(forced=full),
        now=clock.now(),
        previous=previous_backups_of(Catalog(repository, site.name), database.name) if repository else (),
    )
    with contextlib.closing(copying_backend(database).survey(database, context)) as survey:
        decision = survey.decide()
        return decision.how, {"code": decision.reason.code, "text": decision.reason.text}
