"""One attempt to make a backup: it ends with a manifest, or with an error and without a backup."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from ...errors import Damage, SourceChanged
from ...model.capture import CaptureOptions
from ...model.manifest import Reason
from ...model.source import Database, Site
from ...policy.full_or_incremental import Decision
from ...repository.markers import RunMarker
from ...repository.repository import Repository
from ...runtime.progress import Progress
from ...strategies.backend_lookup import copying_backend
from ...strategies.base import Capture, Captured, Survey, SurveyContext
from ..catalog import previous_backups_of
from ..object_lock import Locks, trial_key
from .commit import commit, lasting_findings, locked_until
from .consistency import Consistency, align_cut_points
from .draft import Draft
from .manifest import CapturedDatabases, starts_timeline
from .mirrors import Mirrored
from .options import Created, CreateOptions
from .resume import MarkerCheckpointer, StaleMarker, leave_to_next_run, overtaken, stale_marker
from .source_check import check_source, missing_databases, restored_databases

UNCOORDINATED: Final = (
    "no moment without commits was found: a transaction that spans databases may be incomplete"
)


class Decided(msgspec.Struct, frozen=True):
    """How each database is backed up; ``uses`` are the ids of the used backups, newest last."""

    surveys: list[Survey]
    decisions: list[Decision]
    consistency: Consistency
    uses: list[str]

    @property
    def starting(self) -> list[Decision]:
        """Return the decisions that start a new timeline of the site."""
        pairs = zip(self.surveys, self.decisions, strict=True)
        return [decision for survey, decision in pairs if starts_timeline(decision, bool(survey.uses))]


class Attempt:
    """One attempt; ``begun`` is called with the id of the backup after its marker was written."""

    def __init__(
        self,
        repository: Repository,
        site: Site,
        sources: Mirrored,
        options: CreateOptions,
        progress: Progress,
        begun: Callable[[str], None],
    ) -> None:
        self._draft = Draft(repository, site, sources.databases, options)
        self._mirrors_outdated, self._progress, self._begun = sources.outdated, progress, begun
        self._locks = Locks(repository, trial_key(site.name, self._draft.id), self._draft.now, progress)

    def run(self) -> Created:
        """Make the backup.

        Raise SourceChanged when the source changed during the attempt, and another attempt may succeed.
        """
        draft = self._draft
        stale = stale_marker(draft.catalog, draft.objects)
        with contextlib.ExitStack() as stack:
            decided = self._decide(self._surveys(stale, stack))
            check_source(draft, decided.starting, self._progress)
            self._require_signatures(decided)
            if self._is_unnecessary(decided):
                newest = draft.catalog.backup(decided.uses[-1]).manifest
                lasting = lasting_findings(draft)
                return Created(manifest=newest, skipped=True, missing={}, findings=[], lasting=lasting)
            return self._copy(decided, stale, stack)

    def rehearse(self) -> None:
        """Decide everything that a backup decides before it copies, and change nothing.

        Raise what ``run`` raises until then.
        """
        with contextlib.ExitStack() as stack:
            stale = stale_marker(self._draft.catalog, self._draft.objects)
            decided = self._decide(self._surveys(stale, stack))
            check_source(self._draft, decided.starting, self._progress)
            self._require_signatures(decided)

    # deciding

    def _surveys(self, stale: StaleMarker | None, stack: contextlib.ExitStack) -> list[Survey]:
        surveys, restored = [], restored_databases(self._draft)
        for database in self._draft.databases:
            survey = self._survey(database, stale, restored=database.name in restored)
            stack.callback(survey.close)
            surveys.append(survey)
        return surveys

    def _survey(self, database: Database, stale: StaleMarker | None, *, restored: bool) -> Survey:
        draft, backend = self._draft, copying_backend(database)
        backend.require_open(database)
        context = SurveyContext(
            documents=draft.objects,
            options=self._capture_options(restored),
            now=draft.now,
            previous=previous_backups_of(draft.catalog, database.name),
            interrupted=stale.run_of(draft.catalog, database.name) if stale else None,
        )
        try:
            return backend.survey(database, context)
        except Damage:
            if stale:
                stale.require_unchanged()
            raise

    def _capture_options(self, restored: bool) -> CaptureOptions:
        options = self._draft.options
        return CaptureOptions(
            forced=options.full or bool(self._draft.known_damage.distrust),
            damaged=self._draft.known_damage.objects,
            storage=options.only != "blobs",
            blobs=options.only != "storage",
            allow_missing=options.allow_missing,
            restored=restored,
            doubtful=self._draft.repository.signatures.can_sign,
            workers=options.workers,
        )

    def _decide(self, surveys: list[Survey]) -> Decided:
        consistency = align_cut_points(surveys, self._mirrors_outdated)
        decisions = [self._with_distrust(survey.decide()) for survey in surveys]
        uses = sorted({backup.id for survey in surveys for backup in survey.uses})
        return Decided(surveys, decisions, consistency, uses)

    def _with_distrust(self, decision: Decision) -> Decision:
        """Return a decision that says why a backup is full although the user did not ask for that."""
        distrust, newest = self._draft.known_damage.distrust, self._draft.newest
        if decision.reason.code != "forced" or self._draft.options.full or newest is None:
            return decision
        text = f"Backup {newest.manifest.id} {distrust}, so nothing of it is used again."
        return msgspec.structs.replace(decision, reason=Reason("forced", text))

    def _require_signatures(self, decided: Decided) -> None:
        """Require valid signatures of all used backups: the signature of this backup covers them too."""
        if self._draft.options.full or self._draft.known_damage.distrust:
            return
        for used in decided.uses:
            self._draft.repository.signatures.require(self._draft.catalog.backup(used).manifest)

    def _is_unnecessary(self, decided: Decided) -> bool:
        """Tell whether this backup can be skipped: nothing is new, and its parent is locked long enough."""
        if not self._draft.options.skip_unchanged or not decided.uses:
            return False
        if any(decision.reason.code != "unchanged" for decision in decided.decisions):
            return False
        if self._draft.known_damage.needed:
            return False
        if missing_databases(self._draft):
            return False
        locks = self._locks
        return locks.until is None or locked_until(locks, self._draft.catalog, decided.uses) is not None

    # copying

    def _copy(self, decided: Decided, stale: StaleMarker | None, stack: contextlib.ExitStack) -> Created:
        draft = self._draft
        adopted = (stale.marker, stale.data) if stale else None
        store, site = draft.repository.store, draft.site.name
        run = RunMarker.start(store, site, "create", draft.id, decided.uses, adopted)
        resumed = bool(run.marker.stored)
        captures: list[Capture] = []
        try:
            self._begun(draft.id)
            self._require_listed(decided.uses)
            checkpointer = MarkerCheckpointer(run)
            for survey, decision in zip(decided.surveys, decided.decisions, strict=True):
                capture = survey.begin(decision, draft.objects, checkpointer, self._progress)
                stack.callback(capture.close)
                captures.append(capture)
            copied = CapturedDatabases(self._captured(captures, decided), decided.consistency, decided.uses)
            created = commit(draft, copied, self._locks, run, resumed=resumed)
        except BaseException as error:
            lost = overtaken(run) if isinstance(error, Damage) else None
            leave_to_next_run(run, captures)
            if lost:
                raise lost from error
            raise
        run.remove()
        return created

    def _require_listed(self, uses: Sequence[str]) -> None:
        """List the backups again, after the marker was written, which protects the used ones from deletion.

        A delete that began before the marker was written has removed them from the list.
        """
        gone = set(uses) - set(self._draft.repository.listing(self._draft.site.name).backups)
        if gone:
            raise SourceChanged(
                f"the backup {', '.join(gone)}, which this one would continue, has just been deleted"
            )

    def _captured(self, captures: Sequence[Capture], decided: Decided) -> list[Captured]:
        """Copy all storages, then all blobs: ZODB writes a blob before the transaction that references it."""
        stored = []
        for capture in captures:
            self._progress.begin("storage", capture.expected)
            stored.append(capture.copy_storage())
        captured = []
        for one in stored:
            self._progress.begin("blobs", None)
            captured.append(one.copy_blobs())
        uncoordinated = [UNCOORDINATED] if decided.consistency == "uncoordinated" else []
        gone = missing_databases(self._draft)
        first, *others = captured
        return [
            _with_notes(first, gone, uncoordinated),
            *(_with_notes(one, [], uncoordinated) for one in others),
        ]


def _with_notes(captured: Captured, findings: list[str], warnings: list[str]) -> Captured:
    """Return a captured database with findings and warnings about the whole site added."""
    warnings = [*captured.entry.warnings, *findings, *warnings]
    entry = msgspec.structs.replace(captured.entry, warnings=warnings)
    return msgspec.structs.replace(captured, entry=entry, findings=[*findings, *captured.findings])
