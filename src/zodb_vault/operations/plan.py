"""What a create would do now and why; changes nothing, and says as much as it can without a repository or a source."""

from __future__ import annotations

import contextlib
from typing import Any

from ..errors import VaultError
from ..model import clock
from ..model.manifest import Meta
from ..model.source import Database, Site
from ..repository.repository import Repository
from ..strategies.filestorage import Survey, Wishes
from .catalog import Catalog
from .create import earlier_of, refuse_overlap


class NoDocuments:
    """Stands for the documents of a repository that is not there: a plan asks for none then, and writes none ever."""

    def put_document(self, data: bytes) -> Meta:
        """Refuse."""
        raise NotImplementedError

    def document(self, name: str) -> bytes:
        """Refuse."""
        raise NotImplementedError


def plan(site: Site, repository: Repository | None, problem: str | None, *, full: bool = False) -> dict[str, Any]:
    """Return the plan as the document that ``plan --json`` prints; ``problem`` says why there is no repository."""
    return {
        "site": site.name,
        "databases": [_database(site, database, repository, problem, full) for database in site.databases],
        "skipped": [{"name": one.name, "why": one.why} for one in site.skipped],
    }


def _database(site: Site, database: Database, repository: Repository | None, problem: str | None, full: bool) -> dict[str, Any]:
    warnings = list(database.warnings) + ([problem] if problem else [])
    copies = database.blob_mode == "directory" and database.blob_dir is not None
    document: dict[str, Any] = {
        "name": database.name, "mount_point": database.mount_point, "backend": database.backend, "adapter": database.adapter,
        "wrappers": list(database.wrappers), "history": database.history, "blob_mode": database.blob_mode,
        "blob_location": database.blob_dir, "copies_blobs": copies, "method": "native",
        "steps": _steps(database, copies), "how": None, "reason": None, "warnings": warnings,
    }  # fmt: skip
    if database.backend != "filestorage":
        warnings.append(f"this version cannot back up {database.backend} yet")
        return document
    try:
        document |= _decision(site, database, repository, full)
    except (VaultError, OSError) as error:
        message = error.message if isinstance(error, VaultError) else str(error)
        warnings += [message] if message not in warnings else []
    return document


def _steps(database: Database, copies: bool) -> list[dict[str, Any]]:
    steps = [("storage", database.data_fs)] + ([("blobs", database.blob_dir)] if copies else [])
    return [
        {"order": n, "what": what, "database": database.name, "from": where, "tool": "zodb-vault"} for n, (what, where) in enumerate(steps, 1)
    ] if database.backend == "filestorage" else []  # fmt: skip


def _decision(site: Site, database: Database, repository: Repository | None, full: bool) -> dict[str, Any]:
    if repository:
        refuse_overlap(repository, [database])
    documents = repository.objects("") if repository else NoDocuments()
    survey = Survey(database, documents, Wishes(forced=full), clock.now())
    with contextlib.closing(survey):
        earlier = earlier_of(Catalog(repository, site.name), database.name) if repository else iter(())
        survey.find_base(earlier, None)
        decision = survey.decide()
        return {"how": decision.how, "reason": {"code": decision.reason.code, "text": decision.reason.text}}
