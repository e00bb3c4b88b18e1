"""Plan the restore of one Data.fs: inspect what is in place, and begin or resume the restore."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from ....errors import InUse, VaultError
from ....model import tid as tids
from ....model.restore import DestinationOptions, SpaceNeed, TargetState
from ....model.source import Database
from ....runtime.ownership import existing_directory, require_links
from ...blobs.kept import KEPT_PREFIX
from ...blobs.restore import BlobTarget
from ...destination import DatabaseRestore, PlannedRestore, RestoreContext, RestoreSource, require_met
from ..zeo import is_served
from . import journal as journals
from .build import DataFsBuilder
from .client_caches import ClientCaches, caches_of, require_unused
from .journal import Journal
from .old_data_fs import replaced_name
from .paths import DataFsPaths
from .phases import DataFsRestore
from .preflight import place_findings
from .resume import resume
from .state import last_and_lost, newest_common_tid, require_empty


class DataFsJob(NamedTuple):
    """What is restored, and where; ``journal`` is the journal of the same restore if it was interrupted.

    ``database`` is None for a restore into a new directory.
    """

    paths: DataFsPaths
    blobs: BlobTarget | None
    options: DestinationOptions
    database: Database | None
    source: RestoreSource
    journal: Journal | None

    @property
    def in_place(self) -> bool:
        """Tell whether a database of the site is restored."""
        return self.database is not None

    @property
    def exists(self) -> bool:
        """Tell whether there is a Data.fs in place."""
        return self.paths.data_fs.exists()

    @property
    def has_client_caches(self) -> bool:
        """Tell whether clients are known that may have caches of the old state."""
        return self.in_place and bool(self.options.clients) and self.options.only != "blobs"


class PlannedDataFs(PlannedRestore):
    """The plan of one Data.fs.

    It was made before the storage was locked, so ``require_unchanged`` looks again under the lock. ``common``
    is the last TID that both the replaced and the restored state have.
    """

    def __init__(self, job: DataFsJob, state: TargetState, common: str | None) -> None:
        super().__init__(state, self._begin)
        self._job, self._common = job, common

    def require_unused(self) -> None:
        """Raise InUse while a client uses one of the caches that have to be removed."""
        require_unused(_client_caches(self._job, self._common).stale)

    def require_unchanged(self) -> None:
        """Raise InUse when another restore has run since, TargetRefused when a directory is not empty."""
        job = self._job
        journal = journals.read(journals.path_of(job.paths.data_fs))
        if journal != job.journal and not (job.journal and job.journal.phase == "done"):
            raise InUse(
                f"another restore into {job.paths.data_fs} has run since the plan was made",
                "look at the plan again",
            )
        if job.journal is not None:
            return
        if not job.in_place:
            require_empty(job.paths)
        if job.exists and job.options.only != "blobs":
            require_links(job.paths.data_fs)

    def exists(self) -> bool:
        """Tell whether there is a Data.fs in place now."""
        return self._job.exists

    def unsaved(self) -> bool:
        """Tell whether the file in place, as it is now, is not yet in a safety backup."""
        return self._job.in_place and _is_unsaved(self._job)

    def _begin(self, context: RestoreContext) -> DatabaseRestore:
        """Write the journal, or continue with the journal of the interrupted restore."""
        job = self._job
        if job.journal is None:
            journal = journals.write(job.paths.data_fs, _new_journal(job, context, self.state))
        else:
            journal = resume(job.paths, job.journal)
            if journal.phase == "building":  # the command has made a safety backup of the file as it is now
                journal = journals.advance(job.paths.data_fs, journal, saved=_saved(job))
        return DataFsRestore(
            job.paths,
            job.blobs,
            journal,
            DataFsBuilder(job.paths, job.blobs, job.source, context, job.options.workers),
            lambda: _client_caches(job, self._common).stale,
            in_place=job.in_place,
        )


def plan_data_fs(job: DataFsJob) -> PlannedDataFs:
    """Inspect what is in place, and make the plan; raise TargetRefused when something prevents the restore.

    Nothing is changed.
    """
    last_tid, lost = last_and_lost(job.paths.data_fs, job.source.cut) if job.exists else (None, None)
    if job.journal is None:
        require_met(place_findings(job.paths, job.blobs, job.options, job.source, in_place=job.in_place))
    else:
        lost = job.journal.dropped
    common = _common_tid(job) if job.has_client_caches else None
    caches = _client_caches(job, common)
    state = TargetState(
        where=str(job.paths.data_fs),
        location=str(job.paths.data_fs.parent),
        content="Data.fs",
        blobs=job.blobs.where if job.blobs else None,
        exists=job.exists,
        last_tid=last_tid,
        lost=lost,
        unsaved=job.in_place and _is_unsaved(job),
        resumed=job.journal.restore if job.journal else None,
        needs=[] if job.journal else _needs(job),
        more_for_blobs=not job.journal and _blobs_in_place(job),
        caches=caches.stale,
        missing_caches=caches.missing,
        way="replaces the file in place" if job.exists else None,
        details=_blob_details(job),
        notes=_shared_bucket(job),
        next_steps=_next_steps(job) if job.in_place else [],
    )
    return PlannedDataFs(job, state, common)


def _is_unsaved(job: DataFsJob) -> bool:
    """Tell whether the file in place has content that is in no safety backup.

    An interrupted restore may have made a safety backup. But the site may have been used since. So the file
    must still have the length that it had then.
    """
    journal = job.journal
    if not job.exists:
        return False
    if journal is None:
        return True
    if journal.phase in ("switched", "done") or job.paths.is_new(journal):
        return False
    return journal.saved != job.paths.data_fs.stat().st_size


def _needs(job: DataFsJob) -> list[SpaceNeed]:
    blobs = job.source.entry.blobs
    return space_needs(job.paths, job.source.cut.end, blobs.size if blobs else 0)


def space_needs(paths: DataFsPaths, storage: int, blobs: int) -> list[SpaceNeed]:
    """Return the space that is needed: for the new file beside the old one, and for a new blob directory."""
    directories = [(paths.data_fs.parent, storage)]
    if paths.blob_dir is not None and not paths.blob_dir.exists():
        directories.append((paths.blob_dir.parent, blobs))
    return [SpaceNeed(existing_directory(directory), size) for directory, size in directories]


def _blobs_in_place(job: DataFsJob) -> bool:
    """Tell whether blobs are restored into an existing directory.

    Then it is not known before the restore which of them are missing there.
    """
    blob_dir, blobs = job.paths.blob_dir, job.source.entry.blobs
    return blob_dir is not None and blobs is not None and blobs.count > 0 and blob_dir.exists()


def _common_tid(job: DataFsJob) -> str | None:
    """Return the last TID that both the replaced file and the restored state have.

    None when it is not known: then any transaction of a client's cache may differ.
    """
    replaced = job.paths.data_fs
    if job.journal is not None and job.paths.is_new(job.journal):
        replaced = job.paths.replaced(job.journal) or replaced
    common = None
    if replaced.exists():
        with contextlib.suppress(VaultError):  # the file may be damaged: that is a reason for a restore
            common = newest_common_tid(replaced, job.source)
    last = job.source.cut.last_tid
    return min(tids.to_hex(common), last) if common and last else last


def _client_caches(job: DataFsJob, common: str | None) -> ClientCaches:
    """Return the caches of clients that have transactions of the replaced state now."""
    if job.database is None or not job.has_client_caches:
        return ClientCaches([], [])
    removed = job.journal.caches if job.journal else ()
    return caches_of(job.options.clients, job.database, common, removed, alone=job.source.alone)


def _blob_details(job: DataFsJob) -> list[str]:
    in_bucket = job.blobs is not None and job.paths.blob_dir is None
    return [f"blobs to {job.blobs.where}, where nothing is deleted"] if job.blobs and in_bucket else []


def _shared_bucket(job: DataFsJob) -> list[str]:
    """Return a warning when a copy of the site would share a bucket with another site."""
    warning = job.blobs.shared_by() if job.blobs and job.options.elsewhere else None
    return [warning] if warning else []


def _next_steps(job: DataFsJob) -> list[str]:
    """Return what the user has to do before the site may be written to again, and why."""
    if job.database is None or not is_served(job.database):
        return ["restart every process that had the site open; remove the caches of ZEO clients first"]
    known = ", ".join(str(client.config) for client in job.options.clients)
    of = f"of every client except {known}" if known else "of every client: none was named with --client-conf"
    return [
        "restart every ZEO client, on every host, before the server accepts writes again: a client with a "
        "stale cache counts as current as soon as the server has a newer transaction, and mixes discarded "
        "objects with restored ones",
        f"remove the persistent caches (*.zec and *.zec.lock, where zope.conf has `client`) {of}",
    ]


def _new_journal(job: DataFsJob, context: RestoreContext, state: TargetState) -> Journal:
    data_fs, cut = job.paths.data_fs, job.source.cut
    bucket = job.blobs.where if job.blobs and job.paths.blob_dir is None else None
    replaces = job.exists and job.options.only != "blobs"
    return Journal(
        restore=context.restore,
        backup=job.source.backup,
        site=context.site,
        database=cut.entry.name,
        phase="building",
        end=cut.end,
        last_tid=cut.last_tid,
        only=job.options.only,
        data_fs=str(data_fs),
        blob_dir=str(job.paths.blob_dir) if job.paths.blob_dir else None,
        bucket=bucket,
        building=f"{data_fs.name}.restoring-{context.restore}",
        replaced=replaced_name(data_fs, context.restore) if replaces else None,
        kept_dir=KEPT_PREFIX + context.restore,
        dropped=state.lost if state.lost is not None else cut.dropped,
        saved=_saved(job),
    )


def _saved(job: DataFsJob) -> int | None:
    """Return the length of the file in the safety backup, None when none was made."""
    return job.paths.data_fs.stat().st_size if job.options.safety_backup and job.exists else None
