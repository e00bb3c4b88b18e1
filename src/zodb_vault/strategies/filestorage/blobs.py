"""Copy the blobs that the records of a Data.fs reference, from a directory or a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from ...blobs.layout import detect
from ...blobs.packs import Member
from ...blobs.refs import BlobSet
from ...errors import SourceChanged, SourceError
from ...model import chain
from ...model import tid as tids
from ...model.blob import BlobRef, MissingBlob
from ...model.capture import PreviousBackup
from ...model.chain import packs_of
from ...model.manifest import Blobs, DatabaseEntry, Pack
from ...runtime.workers import Workers
from ..base import Checkpointer, Sink
from ..blobs.capture import PackedBlobs
from ..blobs.compaction import reading_workers
from ..blobs.missing import limit_missing, missing_rows
from ..blobs.packer import Packer, compare, reconcile, still_holds
from ..blobs.source import BlobDirectory, BlobSource
from ..checkpoint import RunNotes
from .starting_point import FRESH, SurveyedDataFs

NO_TID: Final = ""
HIGHEST_TID: Final = "0x" + 16 * "f"


class DataFsBlobs:
    """The blobs of one Data.fs; ``refs`` are the blobs that the new part of the file references."""

    def __init__(
        self,
        surveyed: SurveyedDataFs,
        sink: Sink,
        packer: Packer,
        refs: BlobSet,
        notes: RunNotes,
        checkpointer: Checkpointer,
    ) -> None:
        self._surveyed, self._sink, self._packer = surveyed, sink, packer
        self._refs, self._checkpointer = refs, checkpointer
        self._packed = PackedBlobs(packer, refs, notes)
        self._missing: list[BlobRef] = []
        self.findings: list[str] = []

    def copy(self) -> None:
        """Copy the blobs that no pack has.

        Raise SourceChanged when a pack removed some of them, BlobsMissing when too many are missing.
        """
        self._use_known_packs()
        source, options = self._surveyed.blob_source, self._surveyed.options
        if source is None:
            return
        with reading_workers(source, self._refs, options, self._checkpointer) as workers:
            if self._packed.copy_missing(workers, source):
                self._find_elsewhere(workers, source)
            limit_missing(self._missing, self._packed.count, options.allow_missing, str(source.root))
            self._packed.rewrite(workers, source, options.damaged)
        # A pack that runs at the same time may remove blobs that the backup already has. That is no loss, and
        # no finding. The next run sees which packs became sparse.
        self.findings += [] if self._surveyed.file.replaced() else self._packed.findings

    # packs of earlier backups

    def _use_known_packs(self) -> None:
        """Use the live blobs in the packs of the previous backup and of an interrupted run."""
        start = self._surveyed.start
        previous = start.previous
        if previous is not None and self._surveyed.decision.reason.code not in FRESH:
            until = self._known_until()
            self._reference_missing(previous.entry, until)
            if previous.entry.blobs is not None:
                captured = tids.to_hex(tids.from_datetime(previous.captured))
                limit = min(self._shared_with(previous, until), captured)
                untouched = self._is_untouched(previous.entry)
                choose = partial(self._choose, until, None if untouched else limit)
                take_all = untouched and not self._is_doubtful(previous)
                packs = packs_of(previous.entry, self._sink)
                self._packed.take(packs, previous.entry.blobs, None if take_all else choose)
        if start.interrupted is not None:
            lists = start.interrupted.packs
            self._packed.adopt(
                (pack for ref in lists for pack in chain.load_list(Pack, self._sink, ref)), self._reusable
            )

    def _choose(self, until: str, limit: str | None, pack: Pack) -> Pack | None:
        """Return the part of a pack that is used again.

        ``limit`` is None when the file has everything that the backup has.
        """
        if pack.future and self._surveyed.blob_source is not None:
            return compare(self._packer, self._refs, until, pack, self._still_holds)
        return pack if limit is None else reconcile(self._packer, self._refs, until, limit, pack)

    def _is_doubtful(self, previous: PreviousBackup) -> bool:
        """Tell whether a backup has TIDs that were later than its clock: its packs have to be compared.

        The same bytes in Data.fs do not prove the same blobs then.
        """
        newest = next(reversed(chain.segments_of(previous.entry, self._sink)), None)
        return newest is not None and newest.future

    def _is_untouched(self, entry: DatabaseEntry) -> bool:
        """Tell whether the file still begins with everything that the previous backup has.

        Then all blobs of that backup are live, and no index has to be read.
        """
        start = self._surveyed.start
        return start.whole and entry.data_fs is not None and start.known == entry.data_fs.end

    def _shared_with(self, previous: PreviousBackup, until: str) -> str:
        """Return the TID up to which a backup and the file are on the same timeline.

        A transaction that both have, with a TID up to this one, is the same transaction.
        """
        newest = self._surveyed.newest
        if newest is not None and newest.backup.id == previous.id:
            return self._surveyed.decision.common_tid or NO_TID
        return (previous.entry.last_tid or NO_TID) if self._surveyed.start.whole else until

    def _known_until(self) -> str:
        """Return the TID up to which every blob of the file is in the packs of the previous backup."""
        start = self._surveyed.start
        if start.previous and self._is_untouched(start.previous.entry):
            return HIGHEST_TID
        known = [segment for segment in start.segments.tail if segment.end <= start.known]
        if known or not start.known:
            return (known[-1].last_tid if known else None) or NO_TID
        for segment in reversed(start.segments):
            if segment.end <= start.known and segment.last_tid:
                return segment.last_tid
        return NO_TID

    def _reusable(self, pack: Pack) -> Pack | None:
        """Return the part of a pack of an interrupted run that is used again, None when there is none.

        When this run signs its backup, each blob is compared with the source: the interrupted run signed
        nothing.
        """
        if pack.future:
            return compare(self._packer, self._refs, NO_TID, pack, self._still_holds)
        holds = self._still_holds if self._surveyed.options.doubtful else None
        now = tids.to_hex(tids.from_datetime(self._surveyed.now))
        return reconcile(self._packer, self._refs, NO_TID, now, pack, holds)

    def _still_holds(self, member: Member) -> bool:
        self._checkpointer.heartbeat()
        source = self._surveyed.blob_source
        return source is not None and still_holds(source, member)

    def _reference_missing(self, entry: DatabaseEntry, until: str) -> None:
        """Look again for the blobs that were missing in the previous backup."""
        self._refs.add(
            BlobRef(tids.from_hex(row.oid), tids.from_hex(row.tid), True)
            for row in missing_rows(entry, self._sink)
            if row.tid <= until
        )

    # blobs that were not found

    def _find_elsewhere(self, workers: Workers, source: BlobSource) -> None:
        """Look for blobs that were not found: a pack removed them, or the site lost them.

        A pack with ``pack-keep-old`` keeps the removed blobs in ``<blob-dir>.old``.
        """
        file = self._surveyed.file
        directory = source if isinstance(source, BlobDirectory) else None
        replaced, kept = file.replaced(), directory.kept() if directory else None
        if replaced and kept is not None:
            self._packed.copy_missing(workers, kept)
        gone = self._packed.copy_missing(workers, source)  # on NFS a second look may find more
        # A wrapper may encrypt the records. Then a blob whose file was removed by the pack looks like a
        # record that never had a file. Only a new run, which reads the packed file, can tell these two apart.
        if gone and (replaced or file.replaced()):
            raise SourceChanged(
                f"{file.path} was packed while it was backed up, and some of its blobs are gone"
            )
        # detect raises an error when the directory no longer exists
        if gone and directory and detect(directory.root) != directory.layout:
            raise SourceError(
                f"{directory.root} is not the same blob directory as at the start of the backup",
                "check that it is mounted",
            )
        self._missing = [blob for blob in self._refs.missing() if blob.sure]

    # the result

    @property
    def added(self) -> int:
        """Return how many blobs this run has copied."""
        return self._packed.added

    def warnings(self) -> Iterator[str]:
        """Yield warnings about unusual blobs."""
        return self._packed.warnings()

    def result(self) -> Blobs:
        """Return the entry of the manifest for the blobs."""
        source = self._surveyed.blob_source
        return self._packed.result(
            MissingBlob(blob, str(source.path(blob)) if source else "") for blob in self._missing
        )
