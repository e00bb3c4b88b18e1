"""Build the new Data.fs beside the old one, with its index and blobs, all checked and durable."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from ....blobs.refs import BlobSet
from ....errors import Damage
from ....model.chain import segments_of
from ....runtime.ownership import ownership_for_file
from ....runtime.workers import Workers
from ...blobs.restore import BlobsJob, BlobTarget, require_all
from ...destination import RestoreContext, RestoreSource
from ..rebuild import SegmentReader, rebuild
from .index import IndexProcess, indexing
from .journal import Journal
from .paths import DataFsPaths


class NewState(NamedTuple):
    """What was built: the inode number of the new Data.fs, and notes for the user."""

    inode: int
    notes: list[str]


class DataFsBuilder:
    """Builds the new state of one database. The new Data.fs is not valid before it is renamed."""

    def __init__(
        self,
        paths: DataFsPaths,
        blobs: BlobTarget | None,
        source: RestoreSource,
        context: RestoreContext,
        workers: int,
    ) -> None:
        self._paths, self._blobs, self._source, self._context = paths, blobs, source, context
        self._workers = workers

    def build(self, journal: Journal) -> NewState:
        """Write the new Data.fs, then its blobs; raise Damage, TargetRefused, StoreError."""
        with contextlib.closing(BlobSet()) as refs:
            with indexing(self._paths.new_index(journal), wanted=journal.only != "blobs") as index:
                state = self._build_storage(journal, refs, index)
                if journal.only != "storage" and self._blobs is not None:
                    state.notes.extend(self.restore_blobs(self._blobs, refs))
            return NewState(state.inode, state.notes + index.notes)

    def _build_storage(self, journal: Journal, refs: BlobSet, index: IndexProcess) -> NewState:
        """Write the file from its segments, and add the blobs that its records reference to ``refs``."""
        owner = ownership_for_file(self._paths.data_fs)
        building = self._paths.building(journal)
        self._context.progress.begin("storage", journal.end)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(building)
        fd = os.open(building, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            defects = self._write_segments(journal, fd, refs, index)
            if (size := os.fstat(fd).st_size) != journal.end:
                raise Damage(
                    f"the storage of {self._source.entry.name} has {size} bytes instead of {journal.end}"
                )
            index.complete(journal.end)
            os.fchmod(fd, owner.directory_mode)
            owner.apply(fd)
            os.fsync(fd)
            return NewState(os.fstat(fd).st_ino, defects)
        finally:
            os.close(fd)

    def _write_segments(self, journal: Journal, fd: int, refs: BlobSet, index: IndexProcess) -> list[str]:
        source, context = self._source, self._context
        segments = segments_of(source.entry, source.objects)
        reader = SegmentReader(source.objects, segments, journal.end, context.progress, digests=False)
        with Workers(self._workers, context.heartbeat) as workers:
            _count, defects = rebuild(reader, fd, workers, refs, index.add)
        return [f"a defect of the source was restored as it was: {defect}" for defect in defects]

    def restore_blobs(self, blobs: BlobTarget, refs: BlobSet) -> list[str]:
        """Restore the blobs that the new Data.fs references; return notes for the user."""
        notes = blobs.restore(BlobsJob(self._source, self._context, self._workers), refs)
        return require_all(self._source, refs) + notes
