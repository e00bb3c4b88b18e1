"""Find the longest beginning of a Data.fs that earlier backups, or an interrupted run, have stored already."""

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
from ...policy.continuity import Decision
from ..blobs.source import BlobSource
from .cut import TailScan
from .datafile import DataFile
from .matching import SegmentMatcher

# Reasons of a backup that uses nothing of an earlier one.
FRESH: Final = ("first", "forced", "parent-missing", "new-history")


class StartingPoint(msgspec.Struct, frozen=True):
    """Where a capture starts: the segments that are used again, and whose they are.

    ``whole`` when they are all of ``previous``.

    The blobs of the first ``known`` bytes are in the packs of ``previous``; from there to the end of
    ``segments`` an interrupted run stored them.
    """

    previous: PreviousBackup | None
    segments: Chain[Segment]
    whole: bool = False
    known: int = 0
    interrupted: StoredProgress | None = None

    @property
    def end(self) -> int:
        """Return how many bytes of the file the segments give."""
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
    """The newest backup that can be read, and what of it is in the file.

    Whether the file is its future does not depend on older backups.
    """

    backup: PreviousBackup
    prefix: Chain[Segment]
    whole: bool


class Surveyed(NamedTuple):
    """A Data.fs as it is to be copied: what is used again ends at ``start``, the rest is in ``cut``."""

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
    """What of earlier backups can be used again; ``problem`` says why one of them cannot be read."""

    start: StartingPoint
    newest: Predecessor | None
    problem: str | None


def end_of(segments: Chain[Segment]) -> int:
    """Return the position after the last segment."""
    return next((segment.end for segment in reversed(segments)), 0)


def find_starting_point(
    file: DataFile,
    documents: Documents,
    previous: Iterable[PreviousBackup],
    interrupted: InterruptedRun | None,
) -> Found:
    """Choose what to start from.

    The longest prefix that matches the file, of the newest backup when several are as long.
    """
    search = _Search(file, documents)
    unread: PreviousBackup | None = None
    for candidate in previous:
        if candidate.entry.data_fs is None:
            continue  # the site was on another kind of storage then
        unread = unread or candidate
        if search.consider(candidate):
            break
    newest = search.newest
    if newest is None and unread is not None:
        newest = Predecessor(unread, Chain(Segment, documents), whole=False)
    if interrupted is not None:
        search.consider_interrupted(interrupted)
    start = search.start
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
        """Take the segments of a backup that match; tell whether all do, so that no older backup has more."""
        try:
            segments = segments_of(candidate.entry, self._documents)
            matching, trusted = self._matcher.count(segments)
            # without order no TID says which blobs belong to a part of the file: all of it, or nothing
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
        """Use the segments that an interrupted run has stored after those of its parent, if a backup has fewer."""
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
