"""The blobs that a SQL storage keeps outside of its database: files of a directory, or objects in S3."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Final

from ...blobs.packs import Member
from ...blobs.refs import BlobSet
from ...errors import SourceChanged
from ...model import chain
from ...model import tid as tids
from ...model.blob import BlobRef, MissingBlob
from ...model.capture import CaptureOptions, PreviousBackup
from ...model.chain import packs_of
from ...model.manifest import Blobs, Pack, StoredProgress
from ...policy.full_or_incremental import Decision
from ..base import Checkpointer, Sink
from ..blobs.capture import PackedBlobs
from ..blobs.compaction import reading_workers
from ..blobs.missing import limit_missing
from ..blobs.packer import Packer, compare, reconcile, still_holds
from ..blobs.source import BlobSource
from ..checkpoint import RunNotes

HIGHEST_TID: Final = "0x" + 16 * "f"


class SqlBlobs:
    """Copies the blobs that no earlier backup has; ``refs`` are those that the snapshot references."""

    def __init__(
        self,
        source: BlobSource,
        sink: Sink,
        packer: Packer,
        captured: datetime,
        options: CaptureOptions,
        checkpointer: Checkpointer,
        notes: RunNotes,
    ) -> None:
        self.source, self.refs = source, BlobSet()
        self._sink, self._packer, self._captured = sink, packer, captured
        self._options, self._checkpointer = options, checkpointer
        self.packed = PackedBlobs(packer, self.refs, notes)
        self._missing: list[BlobRef] = []

    def close(self) -> None:
        """Free everything."""
        self.refs.close()

    def take_whole(self, previous: PreviousBackup) -> None:
        """Use all packs of an earlier backup, when the caller knows that all their blobs are referenced."""
        assert previous.entry.blobs is not None
        self.packed.take(packs_of(previous.entry, self._sink), previous.entry.blobs)

    def take_referenced(self, previous: PreviousBackup, decision: Decision) -> None:
        """Use the blobs of an earlier backup that are still referenced."""
        if previous.entry.blobs is not None:
            choose = partial(self._reusable, _identified_until(previous, decision), None)
            self.packed.take(packs_of(previous.entry, self._sink), previous.entry.blobs, choose)

    def adopt(self, stored: StoredProgress) -> None:
        """Use the packs that an interrupted run has stored.

        If this run signs its manifest, each blob of them is compared with the source first.
        """
        packs = [pack for ref in stored.packs for pack in chain.load_list(Pack, self._sink, ref)]
        until = tids.to_hex(tids.from_datetime(self._captured))
        holds = self._still_holds if self._options.doubtful else None
        self.packed.adopt(packs, partial(self._reusable, until, holds))

    def _reusable(self, until: str, holds: Callable[[Member], bool] | None, pack: Pack) -> Pack | None:
        if (
            pack.future
        ):  # a TID that was later than the clock does not identify content: it may be given again
            return compare(self._packer, self.refs, "", pack, self._still_holds)
        return reconcile(self._packer, self.refs, "", until, pack, holds)

    def _still_holds(self, member: Member) -> bool:
        self._checkpointer.heartbeat()
        return still_holds(self.source, member)

    def copy(self, still_referenced: Callable[[BlobRef], bool]) -> None:
        """Pack the blobs that no pack has.

        Raise SourceChanged when a pack of the database removed some, BlobsMissing when too many are missing.
        """
        source = self.source
        with reading_workers(source, self.refs, self._options, self._checkpointer) as workers:
            if self.packed.copy_missing(workers, source):
                self.packed.copy_missing(workers, source)  # on NFS a second look may see more
            self._missing = list(self.refs.missing())
            gone = next((blob for blob in self._missing if not still_referenced(blob)), None)
            if gone is not None:
                raise SourceChanged(
                    f"the database was packed while it was backed up, and {source.path(gone)} is gone"
                )
            limit_missing(self._missing, self.packed.count, self._options.allow_missing, str(source.root))
            self.packed.rewrite(workers, source, self._options.damaged)

    def result(self, others: Iterable[MissingBlob]) -> Blobs:
        """Return the entry of the manifest; ``others`` are blobs that the database itself has lost."""
        missing = (MissingBlob(blob, str(self.source.path(blob))) for blob in self._missing)
        return self.packed.result((*others, *missing))


def _identified_until(previous: PreviousBackup, decision: Decision) -> str:
    """Return the TID up to which OID and TID identify a blob of an earlier backup.

    After a restore to an older state, a TID can be given a second time, to another blob. So only blobs up to
    the last common transaction are used again.
    """
    if not decision.starts_timeline:
        return HIGHEST_TID
    return min(tids.to_hex(tids.from_datetime(previous.captured)), decision.common_tid or "")
