"""Compare a Data.fs with what earlier backups hold of it, and decide: full or incremental, and why."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from ...blobs.layout import detect
from ...errors import Damage, SourceError
from ...model import chain
from ...model import tid as tids
from ...model.capture import CaptureOptions, InterruptedRun, PreviousBackup
from ...model.chain import Chain, Documents, segments_of
from ...model.manifest import Segment, StoredProgress
from ...model.source import Database
from ...policy.continuity import ContinuityFacts, Decision, decide
from ..blobs.s3 import BlobBucket, wrapper_key
from ..blobs.source import BlobDirectory, BlobSource
from .cut import TailScan
from .datafile import DataFile
from .matching import SegmentMatcher, newest_common


class StartingPoint(msgspec.Struct):
    """Where a capture may start: the prefix of a chain that stands, and whose it is; ``stands`` when that is the whole chain.

    The blobs of the first ``known`` bytes are in the packs of ``earlier``; from there to the end of the prefix an interrupted run stored segments.
    """

    earlier: PreviousBackup | None
    segments: Chain[Segment]
    stands: bool
    known: int
    adopted: StoredProgress | None = None

    @property
    def end(self) -> int:
        """Return how many bytes of the file the prefix gives."""
        return end_of(self.segments)


class Predecessor(msgspec.Struct, frozen=True):
    """The newest backup that can be read, and what of it stands: this decides whether the file is its future, whatever older one is used again."""

    earlier: PreviousBackup
    prefix: Chain[Segment]
    stands: bool


def end_of(segments: Chain[Segment]) -> int:
    """Return the position behind the last segment."""
    return next((segment.end for segment in reversed(segments)), 0)


class FileStorageSurvey:
    """Looks at a Data.fs and at what earlier backups have of it, and decides; writes nothing."""

    def __init__(
        self, database: Database, documents: Documents, wishes: CaptureOptions, now: datetime
    ) -> None:
        if database.data_fs is None:
            raise SourceError(f"the database {database.name} has no Data.fs")
        self.database, self.documents, self.wishes, self.now = database, documents, wishes, now
        self.place = blob_source_of(database)
        self.file = DataFile(Path(database.data_fs))
        self.problem: str | None = None
        self.base = StartingPoint(None, Chain(Segment, documents), stands=False, known=0)
        self.newest: Predecessor | None = None

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def find_base(self, earlier: Iterable[PreviousBackup], resumed: InterruptedRun | None) -> None:
        """Choose what to start from: the longest prefix that stands, of the newest backup when several are as long."""
        standing = SegmentMatcher(self.file)
        unread: PreviousBackup | None = None
        for candidate in earlier:
            if candidate.entry.data_fs is None:
                continue  # the site was on another kind of storage then
            unread = unread or candidate
            if self._consider(candidate, standing):
                break
        if self.newest is None and unread is not None:
            self.newest = Predecessor(unread, Chain(Segment, self.documents), stands=False)
        if resumed is not None:
            self._consider_resumed(resumed, standing)
        if self.base.earlier is None and self.newest is not None:
            self.base.earlier = self.newest.earlier
        kept = next(reversed(self.base.segments), None)
        self.cut = TailScan(
            self.file, self.base.end, tids.from_hex(kept.last_tid) if kept and kept.last_tid else None
        )
        self.previous_tid = kept.last_tid if kept else None

    def _consider(self, candidate: PreviousBackup, standing: SegmentMatcher) -> bool:
        try:
            segments = segments_of(candidate.entry, self.documents)
            stands, trusted = standing.count(segments)
            # without order no TID says which blobs belong to a part of the file: all of it, or nothing
            prefix = segments.first(trusted if candidate.entry.ordered or trusted == len(segments) else 0)
            end = end_of(prefix)
        except Damage as error:
            self.problem = self.problem or error.message
            return False
        whole = stands == len(segments) > 0
        self.newest = self.newest or Predecessor(candidate, prefix, whole)
        if end > self.base.end or (whole and not self.base.end):
            self.base = StartingPoint(candidate, prefix, stands=whole, known=end)
        return whole

    def _consider_resumed(self, resumed: InterruptedRun, standing: SegmentMatcher) -> None:
        notes = resumed.stored
        known = Chain(Segment, self.documents)
        if resumed.parent is not None:
            known = segments_of(resumed.parent.entry, self.documents)
            known = known.first(sum(1 for segment in known if segment.end <= notes.keep))
        if end_of(known) != notes.keep:
            return
        stored = [
            segment for ref in notes.segments for segment in chain.load_list(Segment, self.documents, ref)
        ]
        candidate = known.extended(stored)
        _stands, trusted = standing.count(candidate)
        prefix = candidate.first(trusted)
        if end_of(prefix) > self.base.end or (notes.packs and end_of(prefix) == self.base.end):
            same = (
                resumed.parent is not None
                and self.base.earlier is not None
                and resumed.parent.id == self.base.earlier.id
            )
            self.base = StartingPoint(
                resumed.parent, prefix, same and self.base.stands, min(notes.keep, end_of(prefix)), notes
            )

    @property
    def uses(self) -> list[PreviousBackup]:
        """Return the backups that the new one goes on from, or takes content from."""
        return [one for one in (self.base.earlier, self.newest and self.newest.earlier) if one]

    def decide(self) -> Decision:
        """Return how this backup is made, and why."""
        base, newest = self.base, self.newest
        entry = newest.earlier.entry if newest else None
        chain_end = entry.data_fs.end if entry and entry.data_fs else 0
        common = self._common()
        self.decision = decide(
            ContinuityFacts(
                parent=newest.earlier.id if newest else None,
                cut_end=self.cut.end,
                forced=self.wishes.forced,
                parent_problem=self.problem if not base.end or common is None else None,
                matching_end=chain_end
                if newest and newest.stands
                else end_of(newest.prefix)
                if newest
                else 0,
                chain_end=chain_end,
                reused_end=base.known,
                interrupted_end=base.end - base.known if base.adopted else 0,
                parent_last_tid=entry.last_tid if entry else None,
                common_tid=common,
                pack_tid=self._packed_until(),
            )
        )
        return self.decision

    def _packed_until(self) -> str | None:
        """Return the last packed transaction of the file; None too when a restore is known to have left transactions behind, which no pack took."""
        if self.wishes.restored:
            return None
        return hex_or_none((TailScan(self.file, 0) if self.base.adopted else self.cut).pack_tid)

    def _common(self) -> str | None:
        newest = self.newest
        if newest is None or newest.stands:
            return newest.earlier.entry.last_tid if newest else None
        try:
            theirs = segments_of(newest.earlier.entry, self.documents)
            found = newest_common(self.file, self.cut.end, theirs, end_of(newest.prefix))
            kept = next(reversed(newest.prefix), None)
        except Damage as error:
            self.problem = self.problem or error.message
            return None
        return tids.to_hex(found) if found else kept.last_tid if kept else None


def blob_source_of(database: Database) -> BlobSource | None:
    """Return where the blobs are, None when nobody has said it; those of a mirror are files, wherever those of its source are."""
    if database.blob_mode == "s3" and database.method != "portable":
        return BlobBucket(database, wrapper_key)
    return (
        BlobDirectory(Path(database.blob_dir), detect(Path(database.blob_dir))) if database.blob_dir else None
    )


def hex_or_none(raw: bytes | None) -> str | None:
    """Return a TID as it is printed; None when there is none."""
    return tids.to_hex(raw) if raw else None
