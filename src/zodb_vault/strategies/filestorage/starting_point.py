"""Find the longest beginning of a Data.fs that an earlier backup or an interrupted run has stored."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from ...errors import Damage
from ...model import chain
from ...model.capture import CaptureOptions, InterruptedRun, PreviousBackup
from ...model.chain import Chain, Documents, segments_of
from ...model.manifest import Segment, StoredProgress
from ...model.source import Database
from ...policy.full_or_incremental import Decision
from ..blobs.source import BlobSource
from .cut import TailScan
from .datafile import DataFile
from .matching import SegmentMatcher, without_past

# The codes of the reasons for a backup that uses nothing of an earlier backup.
FRESH: Final = ("first", "forced", "parent-missing", "new-history")


class StartingPoint(msgspec.Struct, frozen=True):
    """Where a capture starts: the segments that are used again, and the backup that they belong to.

    ``whole`` tells whether they are all segments of ``previous``. The blobs of the first ``known`` bytes are
    in the packs of ``previous``. The segments after these bytes are from an interrupted run.
    """

    previous: PreviousBackup | None
    segments: Chain[Segment]
    whole: bool = False
    known: int = 0
    interrupted: StoredProgress | None = None

    @property
    def end(self) -> int:
        """Return how many bytes of the file are in the segments."""
        return end_of(self.segments)

    @property
    def last_tid(self) -> str | None:
        """Return the TID of the last transaction in the segments."""
        last = next(reversed(self.segments), None)
        return last.last_tid if last else None

    @property
    def adopted(self) -> list[Segment]:
        """Return the segments that an interrupted run stored."""
        if self.interrupted is None:
            return []
        return [segment for segment in self.segments if segment.start >= self.known]


class Predecessor(msgspec.Struct, frozen=True):
    """The newest backup that can be read, and those of its segments that are in the file.

    It alone decides whether the file continues the timeline. Older backups only offer segments to use again.
    """

    backup: PreviousBackup
    prefix: Chain[Segment]
    whole: bool


class SurveyedDataFs(NamedTuple):
    """A Data.fs and all that was decided about its copy: ``start`` is used again, ``cut`` is copied."""

    database: Database
    options: CaptureOptions
    now: datetime
    file: DataFile
    blob_source: BlobSource | None
    start: StartingPoint
    newest: Predecessor | None
    cut: TailScan
    decision: Decision
    continues: bool


class Found(msgspec.Struct, frozen=True):
    """What can be used again of earlier backups; ``problem`` tells why one of them cannot be read."""

    start: StartingPoint
    newest: Predecessor | None
    problem: str | None


def end_of(segments: Chain[Segment]) -> int:
    """Return the position after the last segment, 0 when there is none."""
    return next((segment.end for segment in reversed(segments)), 0)


def find_starting_point(
    file: DataFile,
    documents: Documents,
    previous: Iterable[PreviousBackup],
    interrupted: InterruptedRun | None,
    now: datetime,
) -> Found:
    """Return the longest prefix of stored segments that matches the file.

    When several backups have an equally long prefix, the newest of them is used. ``previous`` are the earlier
    backups, newest first.
    """
    search = _Search(file, documents)
    unread: PreviousBackup | None = None
    for candidate in previous:
        if candidate.entry.data_fs is None:
            continue  # the site had another kind of storage at that time
        unread = unread or candidate
        if search.consider(candidate):
            break
    newest = search.newest
    if newest is None and unread is not None:
        newest = Predecessor(unread, Chain(Segment, documents), whole=False)
    if interrupted is not None:
        search.consider_interrupted(interrupted)
    start = msgspec.structs.replace(search.start, segments=without_past(search.start.segments, now))
    if start.previous is None and newest is not None:
        start = msgspec.structs.replace(start, previous=newest.backup)
    return Found(start, newest, search.problem)


class _Search:
    def __init__(self, file: DataFile, documents: Documents) -> None:
        self._documents, self._matcher = documents, SegmentMatcher(file)
        self.start = StartingPoint(None, Chain(Segment, documents))
        self.newest: Predecessor | None = None
        self.problem: str | None = None

    def consider(self, candidate: PreviousBackup) -> bool:
        """Take the matching segments of a backup; tell whether all match, so no older backup has more."""
        try:
            segments = segments_of(candidate.entry, self._documents)
            matching, trusted = self._matcher.count(segments)
            # When TIDs do not ascend, no TID tells which blobs belong to a part of the file. So all segments
            # are used, or none.
            prefix = segments.first(trusted if candidate.entry.ordered or trusted == len(segments) else 0)
            end = end_of(prefix)
        except Damage as error:
            self.problem = self.problem or error.message
            return False
        whole = matching == len(segments) > 0
        self.newest = self.newest or Predecessor(candidate, prefix, whole)
        if end > self.start.end or (whole and not self.start.end):
            self.start = StartingPoint(candidate, prefix, whole, known=end)
        return whole

    def consider_interrupted(self, run: InterruptedRun) -> None:
        """Take what an interrupted run has stored after the segments of its parent, if that is longer."""
        notes, parent = run.stored, run.parent
        known = Chain(Segment, self._documents)
        if parent is not None:
            known = segments_of(parent.entry, self._documents)
            known = known.first(sum(1 for segment in known if segment.end <= notes.keep))
        if end_of(known) != notes.keep:
            return
        stored = [
            segment for ref in notes.segments for segment in chain.load_list(Segment, self._documents, ref)
        ]
        candidate = known.extended(stored)
        _matching, trusted = self._matcher.count(candidate)
        prefix = candidate.first(trusted)
        end = end_of(prefix)
        if end > self.start.end or (notes.packs and end == self.start.end):
            ours = self.start.previous
            same = parent is not None and ours is not None and parent.id == ours.id
            self.start = StartingPoint(
                parent, prefix, same and self.start.whole, min(notes.keep, end), interrupted=notes
            )
