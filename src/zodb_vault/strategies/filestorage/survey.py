"""Compare a Data.fs with earlier backups, and decide: full or incremental, and why."""

from __future__ import annotations

from pathlib import Path

from ...blobs.layout import detect
from ...errors import Damage, SourceChanged, SourceError
from ...model import tid as tids
from ...model.capture import PreviousBackup
from ...model.chain import Chain, segments_of
from ...model.manifest import Segment
from ...model.source import Database
from ...policy.full_or_incremental import ContinuityFacts, Decision, decide
from ...runtime.progress import Progress
from ..base import Checkpointer, Sink, SurveyContext
from ..blobs.s3 import BlobBucket, wrapper_key
from ..blobs.source import BlobDirectory, BlobSource
from .capture import FileStorageCapture
from .cut import TailScan, hex_or_none
from .datafile import DataFile
from .matching import newest_common
from .starting_point import FRESH, StartingPoint, SurveyedDataFs, end_of, find_starting_point


class FileStorageSurvey:
    """A Data.fs compared with its earlier backups; see ``Survey``."""

    def __init__(self, database: Database, context: SurveyContext) -> None:
        if database.data_fs is None:
            raise SourceError(f"the database {database.name} has no Data.fs")
        self.database, self.documents, self.options = database, context.documents, context.options
        self.now = context.now
        self.blob_source = blob_source_of(database)
        self.file = DataFile(Path(database.data_fs))
        try:
            found = find_starting_point(
                self.file, self.documents, context.previous, context.interrupted, self.now
            )
            self.start, self.newest, self._problem = found.start, found.newest, found.problem
            last = self.start.last_tid
            self.cut = TailScan(self.file, self.start.end, tids.from_hex(last) if last else None)
        except BaseException:
            self.file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    @property
    def uses(self) -> list[PreviousBackup]:
        """Return the backups that the new one continues, or takes content from."""
        return [one for one in (self.start.previous, self.newest and self.newest.backup) if one]

    @property
    def commit_pending(self) -> bool:
        """Tell whether a transaction after the cut point is written and may still be committed."""
        return self.cut.state == "pending"

    def extend(self) -> bool:
        """Move the cut point to where the file ends now.

        Raise SourceChanged when a pack has put another file in its place: new transactions are in that file.
        """
        moved = self.cut.extend()
        if self.file.replaced():
            raise SourceChanged(
                f"{self.file.path} was packed while the cut points of the databases were taken"
            )
        return moved

    def decide(self) -> Decision:
        """Return how this backup is made, and why."""
        start, newest = self.start, self.newest
        entry = newest.backup.entry if newest else None
        chain_end = entry.data_fs.end if entry and entry.data_fs else 0
        matching_end = 0
        if newest:
            matching_end = chain_end if newest.whole else end_of(newest.prefix)
        common, unreadable = self._common()
        problem = self._problem or unreadable
        return decide(
            ContinuityFacts(
                parent=newest.backup.id if newest else None,
                cut_end=self.cut.end,
                forced=self.options.forced,
                parent_problem=problem if not start.end or common is None else None,
                matching_end=matching_end,
                chain_end=chain_end,
                reused_end=start.known,
                interrupted_end=start.end - start.known if start.interrupted else 0,
                parent_last_tid=entry.last_tid if entry else None,
                common_tid=common,
                pack_tid=self._packed_until(),
            )
        )

    def _packed_until(self) -> str | None:
        """Return the TID of the last transaction that a pack has seen, None when there is none.

        Also None after a known restore: then transactions are missing because of it, not because of a pack.
        """
        if self.options.restored:
            return None
        return hex_or_none((TailScan(self.file, 0) if self.start.interrupted else self.cut).pack_tid)

    def _common(self) -> tuple[str | None, str | None]:
        """Return the newest TID that the file shares with the newest backup.

        Or return None and the reason why the backup cannot be read.
        """
        newest = self.newest
        if newest is None:
            return None, None
        if newest.whole:
            return newest.backup.entry.last_tid, None
        try:
            theirs = segments_of(newest.backup.entry, self.documents)
            found = newest_common(self.file, self.cut.end, theirs, end_of(newest.prefix))
            kept = next(reversed(newest.prefix), None)
        except Damage as error:
            return None, error.message
        if found:
            return tids.to_hex(found), None
        return kept.last_tid if kept else None, None

    def begin(
        self, decision: Decision, sink: Sink, checkpointer: Checkpointer, progress: Progress
    ) -> FileStorageCapture:
        """Return the capture that copies the file as it was decided."""
        start, cut = self.start, self.cut
        if decision.reason.code in FRESH and (start.known or not start.interrupted):
            start = StartingPoint(start.previous, Chain(Segment, self.documents))
            cut = TailScan(self.file, 0, until=cut.end)
        surveyed = SurveyedDataFs(
            database=self.database,
            options=self.options,
            now=self.now,
            file=self.file,
            blob_source=self.blob_source,
            start=start,
            newest=self.newest,
            cut=cut,
            decision=decision,
            continues=bool(self.uses),
        )
        return FileStorageCapture(surveyed, sink, checkpointer, progress)


def blob_source_of(database: Database) -> BlobSource | None:
    """Return where the blobs are, None when the configuration names no place.

    The blobs of a mirror are always files, even when the blobs of its source are in S3.
    """
    if database.blob_mode == "s3" and database.method != "portable":
        return BlobBucket(database, wrapper_key)
    if not database.blob_dir:
        return None
    root = Path(database.blob_dir)
    return BlobDirectory(root, detect(root))
