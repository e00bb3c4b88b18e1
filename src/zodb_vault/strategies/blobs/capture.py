"""The blob half of a database in a server: files of a shared directory or objects of a bucket, as far as the rows of a snapshot ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

import msgspec

from ...blobs.packs import Member
from ...blobs.refs import BlobSet
from ...errors import SourceChanged
from ...model import chain
from ...model import tid as tids
from ...model.blob import BlobRef
from ...model.capture import CaptureOptions, PreviousBackup
from ...model.chain import Chain, packs_of
from ...model.manifest import Blobs, Pack, StoredProgress
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Checkpointer, Sink
from .compaction import is_sparse, pack_missing, reading_workers, rewrite_packs
from .missing import limit_missing, note_missing
from .packer import Packer, reconcile, still_holds
from .source import BlobSource

NAMED: Final = 20
HIGHEST: Final = "0x" + 16 * "f"


class BlobFiles:
    """Copies the blobs of a place that no earlier backup has; ``refs`` are those that the snapshot asks for."""

    def __init__(
        self,
        place: BlobSource,
        sink: Sink,
        folder: str,
        captured: datetime,
        wishes: CaptureOptions,
        keeper: Checkpointer,
        progress: Progress,
        notes: StoredProgress,
    ) -> None:
        self.place = place
        self.sink, self.wishes, self.keeper, self.notes = sink, wishes, keeper, notes
        self.packer, self._captured = Packer(sink, folder, captured, progress), captured
        self.refs = BlobSet()
        self.packs = Chain(Pack, sink)
        self.count = self.size = self.added = self._sparse_left = 0
        self.missing: list[BlobRef] = []
        self.warnings: list[str] = []
        self.findings: list[str] = []
        self._sparse = False
        self._unnoted: list[Pack] = []

    def close(self) -> None:
        """Free everything."""
        self.refs.close()

    def take_whole(self, earlier: PreviousBackup) -> None:
        """Use all packs of an earlier backup: it is known that all their blobs are still asked for."""
        assert earlier.entry.blobs is not None
        self.packs = packs_of(earlier.entry, self.sink)
        self.count, self.size = earlier.entry.blobs.count, earlier.entry.blobs.size
        self._sparse = earlier.entry.blobs.sparse > 0

    def take_wanted(
        self, packs: Iterable[Pack], limit: str, holds: Callable[[Member], bool] | None = None
    ) -> None:
        """Use of packs what is asked for, up to the TID ``limit``; those whose TIDs were later than the clock do not identify content."""
        for pack in (pack for pack in packs if not pack.future):
            kept = reconcile(self.packer, self.refs, "", limit, pack, holds)
            if kept is not None:
                self.packs = self.packs.extended([kept])
                self.count, self.size = self.count + kept.count, self.size + kept.size
                self._sparse = self._sparse or is_sparse(kept)

    def adopt(self, stored: StoredProgress) -> None:
        """Use what an interrupted run has stored."""
        packs = [pack for ref in stored.packs for pack in chain.load_list(Pack, self.sink, ref)]
        self.take_wanted(
            packs,
            tids.to_hex(tids.from_datetime(self._captured)),
            self._holds if self.wishes.doubtful else None,
        )

    def _holds(self, member: Member) -> bool:
        self.keeper.beat()
        return still_holds(self.place, member)

    def copy(self, still_asked_for: Callable[[BlobRef], bool]) -> None:
        """Pack what is lacking; raise SourceChanged when a pack of the database took some away, BlobsMissing when too many are gone."""
        with reading_workers(self.place, self.refs, self.wishes, self.keeper) as workers:
            if self._pack(workers):
                self._pack(workers)  # on NFS a second look may see more
            self.missing = list(self.refs.lacking())
            gone = next((blob for blob in self.missing if not still_asked_for(blob)), None)
            if gone is not None:
                raise SourceChanged(
                    f"the database was packed while it was backed up, and {self.place.path(gone)} is gone"
                )
            limit_missing(self.missing, self.count, self.wishes.allow_missing, str(self.place.root))
            done = rewrite_packs(self.packs, self._sparse, self.packer, self.place, workers, self.findings)
            self.packs, self._sparse_left = done.chain, done.sparse

    def _pack(self, workers: Workers) -> int:
        gone = 0
        for packed in pack_missing(workers, self.packer, self.place, self.refs.lacking()):
            gone += packed.gone
            self.refs.have(packed.keys)
            self.warnings += [f"{self.place.path(blob)} is empty" for blob in packed.empty[:NAMED]]
            for pack in packed.packs:
                self.packs = self.packs.extended([pack])
                self.count, self.size, self.added = (
                    self.count + pack.count,
                    self.size + pack.size,
                    self.added + pack.count,
                )
                self._unnoted.append(pack)
                if self.keeper.due(pack.stored):
                    self.keeper.keep(self.noted())
        return gone

    def noted(self) -> StoredProgress:
        """Return what has been stored so far for a run that continues this one."""
        if self._unnoted:
            self.notes = msgspec.structs.replace(
                self.notes, packs=[*self.notes.packs, chain.store_list(self.sink, self._unnoted)]
            )
            self._unnoted = []
        return self.notes

    def blobs(self, others: Iterable[tuple[BlobRef, str]] = ()) -> Blobs:
        """Return what the manifest says of them, and of ``others`` that are missing elsewhere."""
        sealed = self.packs.with_short_tail()
        missing = note_missing(
            self.sink, (*others, *((blob, str(self.place.path(blob))) for blob in self.missing))
        )
        return Blobs(
            count=self.count,
            size=self.size,
            lists=sealed.lists,
            tail=sealed.tail,
            missing=missing,
            sparse=self._sparse_left,
        )


def reusable_until(earlier: PreviousBackup, common_tid: str | None, *, continues: bool) -> str:
    """Return the TID up to which an OID and a TID identify a blob of an earlier backup: not beyond where two lines part."""
    return HIGHEST if continues else min(tids.to_hex(tids.from_datetime(earlier.captured)), common_tid or "")
