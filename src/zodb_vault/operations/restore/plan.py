"""The plan of a restore: everything is resolved, looked at and refused here, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from ...errors import TargetRefused, VaultError
from ...model import tid as tids
from ...model.source import Site
from ...repository.objects import Objects
from ...repository.repository import Repository
from ...strategies.blobs.s3_restore import shared_by
from ...strategies.filestorage.restore import journal as journals
from ...strategies.filestorage.restore.client_caches import Cache, Left, stale_caches
from ...strategies.filestorage.restore.journal import Journal
from ...strategies.filestorage.restore.paths import DataFsPaths
from ..catalog import Catalog
from ..identity import require_key
from .abort import require_together
from .dumps import DumpOptions, DumpStep, begun_by, plan_dump
from .output_marker import is_begun
from .preflight import (
    RestoreOptions,
    database_for,
    newest_common_of,
    paths_for_cut,
    present_of,
    refuse,
    refuse_within,
    unfinished_of,
)
from .targets import DatabaseCut, RestoreTarget, resolve

# What is restored as a dump, or as the blobs that belong to one.
DUMPED: Final = ("relstorage", "pgjsonb")


class DataFsStep(msgspec.Struct, frozen=True):
    """One database of a plan: what goes where, what it replaces, and the journal (or record) of an interrupted restore of the same.

    Of the ``needed`` bytes ``needed_blobs`` are for the blob directory.
    """

    cut: DatabaseCut
    place: DataFsPaths
    present_last_tid: str | None
    dropped: int
    needed: int
    needed_blobs: int
    resumed: Journal | None

    @property
    def replaces(self) -> bool:
        """Tell whether there is a Data.fs in place."""
        return self.place.data_fs.exists()

    @property
    def unsaved(self) -> bool:
        """Tell whether the file in place holds what no safety backup has; an interrupted restore may have made one, and the site gone on since."""
        journal = self.resumed
        if not self.replaces or (
            journal is not None and (journal.phase in ("switched", "done") or self.place.is_new(journal))
        ):
            return False
        return journal is None or journal.saved != self.place.data_fs.stat().st_size


class RestorePlan(msgspec.Struct, frozen=True):
    """What a restore is going to do; nothing has been changed yet. ``notes`` are what to know before it is agreed to, ``caches`` what goes."""

    target: RestoreTarget
    steps: list[DataFsStep]
    options: RestoreOptions
    site: Site | None
    notes: list[str]
    caches: list[Cache]
    dumps: list[DumpStep] = []

    @property
    def in_place(self) -> bool:
        """Tell whether the site itself is the target."""
        return self.options.output is None


def plan(repository: Repository, site_name: str, site: Site | None, options: RestoreOptions) -> RestorePlan:
    """Resolve what is to be restored and where it goes; raise whatever stands against it, change nothing."""
    catalog = Catalog(repository, site_name)
    target = resolve(catalog, options.backup, options.request, options.databases)
    if not target.backup.complete and not options.allow_incomplete:
        raise TargetRefused(
            f"the backup {target.backup.manifest.id} is incomplete: blobs were missing when it was made",
            "`zodb-vault show` names them; `--allow-incomplete` restores what there is",
        )
    documents = repository.objects("")
    repository.require_signature(target.backup.manifest)
    require_key((cut.entry for cut in target.cuts), documents)
    dumped = [cut for cut in target.cuts if _is_dump(cut)]
    if len(dumped) == len(target.cuts):
        return _plan_dumps(target, site, options, documents)
    return (
        _plan_both(target, dumped, options, documents)
        if dumped
        else _plan_files(repository, target, site, options)
    )


def _plan_files(
    repository: Repository, target: RestoreTarget, site: Site | None, options: RestoreOptions
) -> RestorePlan:
    """Plan databases that are all a Data.fs."""
    documents = repository.objects("")
    places = [paths_for_cut(cut, site, options, target) for cut in target.cuts]
    for place in places:
        refuse_within(repository, place)
    if site is not None and options.output is None:
        into = {database_for(cut.entry, site, target).name for cut in target.cuts}
        require_together(places, [one for one in site.databases if one.name not in into], done=False)
    unfinished = unfinished_of(places, target, options)
    steps = [
        _step(cut, place, journal, documents, options)
        for cut, place, journal in zip(target.cuts, places, unfinished, strict=True)
    ]
    caches = caches_of(target, steps, site, options, documents)
    notes = [
        *_notes(target, site, options),
        *_shared(places, options),
        *(note for cache in caches for note in cache.notes),
    ]
    return RestorePlan(target, steps, options, site, notes, caches)


def _step(
    cut: DatabaseCut, place: DataFsPaths, resumed: Journal | None, documents: Objects, options: RestoreOptions
) -> DataFsStep:
    present, dropped = present_of(place, cut)
    if resumed is None:
        refuse(place, cut, documents, options)
    blob_dir = place.blob_dir
    blobs = cut.entry.blobs.size if cut.entry.blobs and blob_dir and not blob_dir.exists() else 0
    return DataFsStep(
        cut, place, present, resumed.dropped if resumed else dropped, cut.end + blobs, blobs, resumed
    )


def needs_of(step: DataFsStep) -> list[tuple[Path, int]]:
    """Return the directories that are there now and what a database needs below them."""
    blob_dir = step.place.blob_dir or step.place.data_fs
    existing = next(parent for parent in (blob_dir, *blob_dir.parents) if parent.is_dir())
    return [(step.place.data_fs.parent, step.needed - step.needed_blobs), (existing, step.needed_blobs)]


def caches_of(
    target: RestoreTarget,
    steps: list[DataFsStep],
    site: Site | None,
    options: RestoreOptions,
    documents: Objects,
) -> list[Cache]:
    """Return what clients keep of the state that is replaced."""
    if not options.clients or options.output is not None or options.only == "blobs":
        return []
    left = [Left(database_for(step.cut.entry, site, target), _left_after(step, documents)) for step in steps]
    return stale_caches(options.clients, left)


def _left_after(step: DataFsStep, documents: Objects) -> str | None:
    """Return the TID up to which clients may have seen what is restored: behind it the replaced file and the backup may differ."""
    place, journal = step.place, step.resumed
    replaced = (
        place.data_fs.with_name(journal.replaced)
        if journal and journal.replaced and place.is_new(journal)
        else place.data_fs
    )
    try:
        common = newest_common_of(replaced, step.cut, documents) if replaced.exists() else None
    except VaultError:
        common = None  # a damaged file is what restores are for
    last = step.cut.last_tid
    return min(tids.to_hex(common), last) if common and last else last


def _is_dump(cut: DatabaseCut) -> bool:
    return cut.entry.dump is not None or (cut.entry.storage is None and cut.entry.backend in DUMPED)


def _plan_both(
    target: RestoreTarget, dumped: list[DatabaseCut], options: RestoreOptions, documents: Objects
) -> RestorePlan:
    """Plan a directory for databases of which some are a Data.fs; in place they have no step in common that would make all valid."""
    if options.output is None:
        names = ", ".join(cut.entry.name for cut in target.cuts)
        hint = "restore them one after the other, with --database NAME, or all of them into a directory, with --output DIR"
        raise TargetRefused(
            f"the databases {names} are of different kinds, and no one step would make all of them valid",
            hint,
        )
    dumps = [_dump_step(cut, target, None, options, documents) for cut in dumped]
    begun = all(
        dump.directory and is_begun(dump.directory, begun_by(dump.cut, how_of(options, target)))
        for dump in dumps
    )
    left = [
        cut
        for cut in target.cuts
        if cut not in dumped and not (begun and _stands(cut, paths_for_cut(cut, None, options, target)))
    ]
    places = [paths_for_cut(cut, None, options, target) for cut in left]
    unfinished = unfinished_of(places, msgspec.structs.replace(target, cuts=left), options)
    steps = [
        _step(cut, place, journal, documents, options)
        for cut, place, journal in zip(left, places, unfinished, strict=True)
    ]
    return RestorePlan(target, steps, options, None, list(_notes(target, None, options)), [], dumps=dumps)


def _stands(cut: DatabaseCut, place: DataFsPaths) -> bool:
    """Tell whether a Data.fs is there as it was restored, with nothing that says it was interrupted."""
    if (
        not place.data_fs.exists()
        or journals.read(journals.path_of(place.data_fs))
        or any(True for _record in journals.records(place.data_fs))
    ):
        return False
    return place.data_fs.stat().st_size == cut.end and present_of(place, cut) == (cut.last_tid, 0)


def _dump_step(
    cut: DatabaseCut, target: RestoreTarget, site: Site | None, options: RestoreOptions, documents: Objects
) -> DumpStep:
    directory = (
        options.output.absolute() / (cut.entry.folder if len(target.cuts) > 1 else "")
        if options.output
        else None
    )
    database = None if directory else database_for(cut.entry, site, target)
    return plan_dump(cut, database, directory, documents, how_of(options, target))


def _plan_dumps(
    target: RestoreTarget, site: Site | None, options: RestoreOptions, documents: Objects
) -> RestorePlan:
    """Plan databases that are all dumps."""
    steps = [_dump_step(cut, target, site, options, documents) for cut in target.cuts]
    notes = [*_shared(steps, options), *(note for step in steps if step.seen for note in step.seen.notes)]
    return RestorePlan(target, [], options, site, [*_notes(target, site, options), *notes], [], dumps=steps)


def how_of(options: RestoreOptions, target: RestoreTarget) -> DumpOptions:
    """Return what of the options is a matter of dumps."""
    return DumpOptions(
        backup=target.backup.manifest.id,
        replace=options.replace,
        exchange=options.replace_blobs,
        role=options.role,
        only=options.only,
        workers=options.workers,
    )


def _shared(places: Sequence[DataFsPaths | DumpStep], options: RestoreOptions) -> Iterator[str]:
    """Yield warnings about buckets that a copy of the site would share with somebody."""
    for bucket in (place.bucket for place in places if place.bucket and options.elsewhere):
        if warning := shared_by(bucket):
            yield warning


def _notes(target: RestoreTarget, site: Site | None, options: RestoreOptions) -> Iterator[str]:
    manifest = target.backup.manifest
    into = (
        {database_for(cut.entry, site, target).name for cut in target.cuts}
        if site is not None and options.output is None
        else set()
    )
    for database in site.databases if into and site and not options.databases else ():
        if database.name not in into:
            yield f"{database.name} is not in this backup and stays as it is: it may not fit to the others"
    if manifest.consistency == "uncoordinated" and len(target.cuts) > 1:
        yield "the databases were never still together when this backup was made: a commit to several of them may be in one of them only"
