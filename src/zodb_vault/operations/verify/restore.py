"""The level ``restore``: restore into a scratch directory or database, and open it with the real storage."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ...errors import Damage, NotProven, TargetRefused, UnsupportedRepository
from ...model.manifest import DatabaseEntry, Manifest
from ...model.restore import DatabaseCut, DestinationOptions
from ...repository.repository import Repository
from ...runtime.progress import Progress
from ...strategies.backend_lookup import backend_of_entry
from ...strategies.destination import RestoreContext, RestoreSource
from .load import Loaded, StorageToLoad, load_configured, load_data_fs
from .options import VerifyOptions
from .report import VerifyReport

SCRATCH_PREFIX = "zodb-vault-verify-"


def check_restore(
    repository: Repository,
    site: str,
    manifest: Manifest,
    options: VerifyOptions,
    progress: Progress,
    report: VerifyReport,
) -> None:
    """Restore every database of a backup and load everything in it."""
    check = RestoreCheck(repository, site, manifest, options, progress, report)
    for entry in manifest.databases:
        if entry.dump:
            with _findings(report, entry.name):
                check.check_dump(entry)
    if any(entry.dump is None for entry in manifest.databases):
        with _findings(report, None):
            check.check_files()


@contextlib.contextmanager
def _findings(report: VerifyReport, database: str | None) -> Iterator[None]:
    """Report what a restore raises.

    A restore that is refused here says nothing about the backup: another machine, role or server may take it.
    """
    try:
        yield
    except Damage as error:
        report.add_damage(database, "restore", error)
    except (NotProven, TargetRefused, UnsupportedRepository) as error:
        report.add_unproven(database, error)


class RestoreCheck:
    """Restores the databases of one backup, and reports what cannot be loaded afterwards."""

    def __init__(
        self,
        repository: Repository,
        site: str,
        manifest: Manifest,
        options: VerifyOptions,
        progress: Progress,
        report: VerifyReport,
    ) -> None:
        self._repository, self._site, self._manifest = repository, site, manifest
        self._options, self._progress, self._report = options, progress, report

    def check_files(self) -> None:
        """Restore the databases that are a Data.fs into a scratch directory, and load them."""
        from ..restore import run as restore

        names = tuple(one.name for one in self._manifest.databases if one.dump is None)
        everything = len(names) == len(self._manifest.databases)
        with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=self._options.scratch) as scratch:
            options = restore.RestoreOptions(
                backup=self._manifest.id,
                output=Path(scratch) / "site",
                allow_incomplete=True,
                workers=self._options.workers,
                databases=() if everything else names,
            )
            plan = restore.plan(self._repository, self._site, None, options)
            done = restore.execute(self._repository, plan, self._site, self._progress)
            for step in done.plan.steps:
                blob_dir = Path(step.state.blobs) if step.state.blobs else None
                self._load(
                    step.cut.entry, partial(load_data_fs, Path(step.state.where), blob_dir, self._progress)
                )

    def check_dump(self, entry: DatabaseEntry) -> None:
        """Restore a dump into a scratch database, and load it."""
        from ...strategies.blobs.cache import fill_cache
        from ..restore.run import restore_alone

        objects = self._repository.objects("")
        # Blobs of a bucket go into the cache of the storage: there is no scratch bucket, and the one of the
        # site must not be written to.
        only_storage = entry.blob_mode == "database+s3"
        options = DestinationOptions(workers=self._options.workers, only="storage" if only_storage else None)
        source = RestoreSource(self._manifest.id, DatabaseCut(entry, 0, entry.last_tid, 0), objects)
        context = RestoreContext(self._manifest.id, self._site, self._progress, lambda: None)
        with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=self._options.scratch) as scratch:
            directory = Path(scratch) / "site"
            directory.mkdir()
            backend = backend_of_entry(entry)
            with backend.scratch(entry, directory, self._options.scratch_dsn, self._progress.note) as ours:
                restore_alone(backend.destination(ours.database, options), source, context)
                if ours.cache:
                    fill_cache(entry, objects, ours.cache, self._progress)
                storage = StorageToLoad(entry.backend, ours.configuration, ours.settings)
                loaded = self._load(entry, partial(load_configured, storage, self._progress, ours.objects))
        found = loaded.objects + loaded.undone
        if ours.objects not in (None, found) and not loaded.failure:
            why = f"the storage has {found} objects, the snapshot had {ours.objects}"
            self._report.add_damage(entry.name, "storage", why)

    def _load(self, entry: DatabaseEntry, load: Callable[[], Loaded]) -> Loaded:
        """Load everything in a restored database, and report what was found."""
        self._progress.begin("objects", None)
        loaded = load()
        self._report.count("objects loaded", loaded.objects)
        self._report.count("objects of missing classes", loaded.broken)
        self._report.count_missing(loaded.modules)
        if loaded.opaque:
            self._report.count("objects of unknown encoding", loaded.opaque)
        self._report.count("blobs opened", loaded.blobs)
        # blobs that the source had lost already are reported as that, and not as damage as well
        lost_before = {(one.oid, one.tid) for one in self._report.source if one.what == "blob"}
        for oid, why in loaded.undecodable:
            self._report.add_source_defect(entry.name, "object", why, oid=oid)
        for oid, tid, why in loaded.unreadable_blobs:
            if (oid, tid) not in lost_before:
                self._report.add_damage(entry.name, "blob", why, oid=oid, tid=tid)
        if loaded.failure:
            self._report.add_damage(entry.name, "storage", loaded.failure)
        return loaded
