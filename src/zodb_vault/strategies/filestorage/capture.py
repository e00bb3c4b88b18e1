"""Copy a Data.fs: first the transactions up to the cut point, then the blobs that they reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...blobs.refs import BlobSet
from ...errors import ConfigurationError, SourceChanged
from ...model import chain
from ...model import tid as tids
from ...model.blob import BlobRef
from ...model.manifest import StoredProgress
from ...runtime import clock
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Captured, Checkpointer, Sink, folder_of
from ..blobs.packer import Packer
from ..checkpoint import RunNotes
from .blobs import DataFsBlobs
from .cut import Range
from .entry import CopiedDataFs, entry_of
from .segments import Copier, Scanned, compact_segments, heal_segments
from .starting_point import SurveyedDataFs

# The highest number of defects that are listed one by one: a damaged file may have a million of them.
NAMED: Final = 20


class FileStorageCapture:
    """Copies a Data.fs as it was decided; see ``Capture``."""

    def __init__(
        self, surveyed: SurveyedDataFs, sink: Sink, checkpointer: Checkpointer, progress: Progress
    ) -> None:
        self._surveyed, self._sink = surveyed, sink
        self._checkpointer = checkpointer
        folder = folder_of(surveyed.database.name)
        # The clock is read after the cut point was taken. The last transaction may be newer than the start of
        # the run, and must not count as one of the future.
        captured = clock.now()
        self._copier = Copier(surveyed.file, sink, folder, captured, progress)
        self._packer = Packer(sink, folder, captured, progress)
        self._notes = RunNotes(sink, checkpointer, _first_notes(surveyed, sink))
        self._segments = surveyed.start.segments
        self._findings: list[str] = []
        self._defects = 0
        self.refs = BlobSet()

    def close(self) -> None:
        """Free everything."""
        self.refs.close()

    @property
    def expected(self) -> int:
        """Return how many bytes have to be read."""
        return self._surveyed.cut.end - self._surveyed.start.end

    def stored(self) -> StoredProgress:
        """Return what has been stored so far."""
        return self._notes.stored()

    def copy_storage(self) -> FileStorageBlobCapture:
        """Copy the new segments, and find the blobs that they reference."""
        options, ranges = self._surveyed.options, self._surveyed.cut.ranges
        with Workers(options.workers, self._checkpointer.heartbeat) as workers:
            if options.blobs and self._surveyed.blob_source is None:
                self._require_no_blobs(workers, ranges)
            for scanned in workers.in_order(self._copier.jobs(ranges, self.refs.add, store=options.storage)):
                self._take(scanned)
            self._read_adopted(workers)
            self._find_first_blobs(workers)
            if options.storage:
                self._segments = heal_segments(
                    self._segments, options.damaged, self._copier, workers, self._findings
                )
                self._segments = compact_segments(self._segments, self._copier, workers, self._findings)
        if self._defects > NAMED:
            self._findings.append(f"Data.fs has {self._defects - NAMED} more defects inside transactions")
        copied = CopiedDataFs(self._surveyed, self._segments, self._findings)
        blobs = DataFsBlobs(
            self._surveyed, self._sink, self._packer, self.refs, self._notes, self._checkpointer
        )
        return FileStorageBlobCapture(copied, blobs if options.blobs else None)

    def _require_no_blobs(self, workers: Workers, ranges: Sequence[Range]) -> None:
        """Raise ConfigurationError for the first blob: without a blob directory none could be copied."""
        path = self._surveyed.file.path

        def refuse(blobs: list[BlobRef]) -> None:
            if found := next((blob for blob in blobs if blob.sure), None):
                which = f"OID {tids.to_hex(found.oid)}, TID {tids.to_hex(found.tid)}"
                raise ConfigurationError(
                    [f"{path} refers to blobs ({which}), but no blob directory is configured"],
                    "name it with --blob-dir or in the configuration, or leave blobs out with --only storage",
                )

        for _scanned in workers.in_order(self._copier.jobs(ranges, refuse, store=False)):
            pass

    def _take(self, scanned: Scanned) -> None:
        named = scanned.defects[: max(0, NAMED - self._defects)]
        self._defects += len(scanned.defects)
        self._findings += [f"Data.fs at position {defect.pos}: {defect.why}" for defect in named]
        if scanned.segment is not None:
            self._segments = self._segments.extended([scanned.segment])
            self._notes.add_segment(scanned.segment)

    def _read_adopted(self, workers: Workers) -> None:
        """Find the blobs of the segments that an interrupted run stored.

        Raise SourceChanged when the file now has other bytes in their place.
        """
        adopted = self._surveyed.start.adopted
        ranges = [Range(segment.start, segment.end, segment.tail_start) for segment in adopted]
        jobs = self._copier.jobs(ranges, self.refs.add, store=False)
        for segment, scanned in zip(adopted, workers.in_order(jobs), strict=True):
            if scanned.sha256 != segment.sha256:
                path = self._surveyed.file.path
                raise SourceChanged(f"{path} no longer has the bytes that the interrupted run stored")
            self._take(scanned)

    def _find_first_blobs(self, workers: Workers) -> None:
        """Find the blobs in segments that were stored while no blob directory was configured.

        The earlier backups have no blobs, so the segments that they stored are read again.
        """
        surveyed, start = self._surveyed, self._surveyed.start
        if start.previous is None or start.previous.entry.blob_mode != "none":
            return
        if surveyed.blob_source is None or not surveyed.options.blobs:
            return
        known = [segment for segment in start.segments if segment.end <= start.known]
        ranges = [Range(segment.start, segment.end, segment.tail_start) for segment in known]
        for _scanned in workers.in_order(self._copier.jobs(ranges, self.refs.add, store=False)):
            pass


class FileStorageBlobCapture:
    """A Data.fs whose storage is copied and whose blobs are not yet copied; see ``BlobCapture``."""

    def __init__(self, storage: CopiedDataFs, blobs: DataFsBlobs | None) -> None:
        self._storage, self._blobs = storage, blobs

    def copy_blobs(self) -> Captured:
        """Copy the blobs that no pack has.

        Raise SourceChanged when a pack removed some of them, BlobsMissing when too many are missing.
        """
        if self._blobs is not None:
            self._blobs.copy()
        surveyed = self._storage.surveyed
        findings = self._storage.findings + (self._blobs.findings if self._blobs else [])
        return Captured(
            entry=entry_of(self._storage, self._blobs, findings),
            decision=surveyed.decision,
            continues=surveyed.continues,
            findings=findings,
        )


def _first_notes(surveyed: SurveyedDataFs, sink: Sink) -> StoredProgress:
    """Return the first notes: what an interrupted run stored, as far as it still matches the file."""
    start = surveyed.start
    parent = start.previous.id if start.previous and start.known else None
    notes = StoredProgress(database=surveyed.database.name, parent=parent, keep=start.known)
    if start.interrupted is None:
        return notes
    adopted, lists = start.adopted, start.interrupted.segments
    if len(adopted) != sum(ref.count for ref in lists):
        lists = [chain.store_list(sink, adopted)] if adopted else []
    return StoredProgress(
        database=notes.database,
        parent=parent,
        keep=start.known,
        segments=lists,
        packs=start.interrupted.packs,
    )
