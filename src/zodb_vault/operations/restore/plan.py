"""The plan of a restore: everything is resolved, looked at and refused here, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import TargetRefused
from ...model.restore import DatabaseCut, StaleCache, TargetState
from ...model.source import Database, Site
from ...repository.repository import Repository
from ...strategies.destination import PlannedRestore, RestoreSource
from ..catalog import Catalog
from ..identity import require_key
from .destination import Chosen, choose, database_for, resuming_destinations
from .options import RestoreOptions
from .preflight import refuse_within, require_one_step, require_together
from .targets import RestoreTarget, resolve


@dataclass(frozen=True)
class RestoreStep:
    """One database of a plan: which part of the backup, and what is planned for where it goes.

    ``database`` is the one of the site that is replaced, None for a directory.
    """

    chosen: Chosen
    planned: PlannedRestore

    @property
    def cut(self) -> DatabaseCut:
        """Return what of the backup is restored."""
        return self.chosen.cut

    @property
    def database(self) -> Database | None:
        """Return the database of the site."""
        return self.chosen.database

    @property
    def state(self) -> TargetState:
        """Return what was found where it goes."""
        return self.planned.state


@dataclass(frozen=True)
class RestorePlan:
    """What a restore is going to do; nothing has been changed yet.

    ``notes`` are what to know before it is agreed to.
    """

    target: RestoreTarget
    steps: list[RestoreStep]
    options: RestoreOptions
    site: Site | None
    notes: list[str]

    @property
    def in_place(self) -> bool:
        """Tell whether a site is the target."""
        return self.options.in_place

    @property
    def resumes(self) -> bool:
        """Tell whether the restore goes on when it is run again after an interruption."""
        return all(step.chosen.destination.resumes for step in self.steps)

    @property
    def missing_caches(self) -> list[str]:
        """Return a sentence about each cache that is configured and was not found."""
        return [text for step in self.steps for text in step.state.missing_caches]

    @property
    def caches(self) -> list[StaleCache]:
        """Return the caches of clients that are removed."""
        return [cache for step in self.steps for cache in step.state.caches]


def plan(repository: Repository, site_name: str, site: Site | None, options: RestoreOptions) -> RestorePlan:
    """Resolve what is to be restored and where it goes; raise whatever speaks against it, change nothing."""
    target = resolve(Catalog(repository, site_name), options.backup, options.request, options.databases)
    objects = repository.objects("")
    if not target.backup.complete and not options.allow_incomplete:
        raise TargetRefused(
            f"the backup {target.backup.manifest.id} is incomplete: blobs were missing when it was made",
            "`zodb-vault show` names them; `--allow-incomplete` restores what there is",
        )
    repository.signatures.require(target.backup.manifest)
    require_key((cut.entry for cut in target.cuts), objects)
    chosen = [choose(cut, site, options, target) for cut in target.cuts]
    if options.in_place:
        require_one_step(chosen)
    for one in chosen:
        refuse_within(repository, one.destination)
    if options.in_place and site is not None:
        _require_together(chosen, site)
    unfinished = [found for one in chosen if (found := one.destination.unfinished())]
    steps = []
    for one in chosen:
        source = RestoreSource(target.backup.manifest.id, one.cut, objects, alone=len(chosen) == 1)
        planned = one.destination.inspect(source, unfinished)
        if planned is not None:
            steps.append(RestoreStep(one, planned))
    notes = [
        *target.notes,
        *_notes(target, site, options),
        *(note for step in steps for note in step.state.notes),
    ]
    return RestorePlan(target, steps, options, site, notes)


def _require_together(chosen: list[Chosen], site: Site) -> None:
    names = {one.database.name for one in chosen if one.database is not None}
    others = resuming_destinations(one for one in site.databases if one.name not in names)
    require_together([one.destination for one in chosen], others, done=False)


def _notes(target: RestoreTarget, site: Site | None, options: RestoreOptions) -> Iterator[str]:
    if site is not None and options.in_place and not options.databases:
        restored = {database_for(cut.entry, site, target).name for cut in target.cuts}
        for database in site.databases:
            if database.name not in restored:
                yield (f"{database.name} is not in this backup and stays as it is: it may not fit the others")
    if target.backup.manifest.consistency == "uncoordinated" and len(target.cuts) > 1:
        yield (
            "no moment without commits was found when this backup was made: "
            "a transaction that spans databases may be incomplete"
        )
