"""The FileStorage strategy: the committed prefix of ``Data.fs``, then the blobs that it asks for, of a directory or of a bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import msgspec

from ...blobs.layout import detect
from ...blobs.packs import Member
from ...blobs.refs import BlobSet
from ...errors import ConfigurationError, SourceChanged, SourceError
from ...model import chain
from ...model import tid as tids
from ...model.blob import BlobRef, MissingRows
from ...model.capture import PreviousBackup
from ...model.chain import Chain, packs_of
from ...model.manifest import Blobs, DatabaseEntry, DataFs, Pack, Segment, StoredProgress
from ...runtime import clock
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Checkpointer, Sink, folder_of
from ..blobs.compaction import is_sparse, pack_missing, reading_workers, rewrite_packs
from ..blobs.missing import limit_missing, note_missing
from ..blobs.packer import Packer, reconcile, still_holds
from ..blobs.source import BlobDirectory, BlobSource
from .cut import Range, TailScan
from .segments import Copier, Scanned, compact_segments
from .survey import FileStorageSurvey, StartingPoint, hex_or_none

FRESH: Final = ("first", "forced", "parent-missing", "new-history")
# Of what may be wrong a million times so many are told one by one.
NAMED: Final = 20
NO_TID: Final = ""
HIGHEST_TID: Final = "0x" + 16 * "f"


class FileStorageCapture(FileStorageSurvey):
    """Copies what the survey decided: ``copy_storage``, then ``copy_blobs``, then ``entry``."""

    def begin(self, sink: Sink, keeper: Checkpointer, progress: Progress) -> None:
        """Settle what is used again of earlier backups."""
        self.sink, self.keeper, self.progress = sink, keeper, progress
        self.folder = folder_of(self.database.name)
        # after the cut: on a busy site its last transaction is younger than the start of the run
        captured = clock.now()
        self.copier = Copier(self.file, sink, self.folder, captured, progress)
        self.packer = Packer(sink, self.folder, captured, progress)
        self.refs = BlobSet()
        self.warnings: list[str] = list(self.database.warnings)
        self.findings: list[str] = []
        self.missing: list[BlobRef] = []
        self._empty = self._defects = 0
        self.blobs_added = 0
        self._unnoted: tuple[list[Segment], list[Pack]] = ([], [])
        if self.decision.reason.code in FRESH and (self.base.known or not self.base.adopted):
            self.base = StartingPoint(
                self.base.earlier, Chain(Segment, self.documents), stands=False, known=0
            )
            self.cut = TailScan(self.file, 0, until=self.cut.end)
            self.previous_tid = None
        self.segments = self.base.segments
        self.notes = self._first_notes()

    def _first_notes(self) -> StoredProgress:
        """Return the notes to begin with: what the interrupted run left and still stands, or nothing."""
        base = self.base
        parent = base.earlier.id if base.earlier and base.known else None
        notes = StoredProgress(database=self.database.name, parent=parent, keep=base.known)
        if base.adopted is None:
            return notes
        adopted = self._adopted()
        whole = len(adopted) == sum(ref.count for ref in base.adopted.segments)
        segments = (
            base.adopted.segments if whole else [chain.store_list(self.sink, adopted)] if adopted else []
        )
        return msgspec.structs.replace(notes, segments=segments, packs=base.adopted.packs)

    def _adopted(self) -> list[Segment]:
        """Return the segments that an interrupted run stored."""
        if self.base.adopted is None:
            return []
        return [segment for segment in self.base.segments if segment.start >= self.base.known]

    def close(self) -> None:
        """Free everything."""
        super().close()
        if hasattr(self, "refs"):
            self.refs.close()

    def extend(self) -> bool:
        """Walk on to where the file ends now; raise SourceChanged when a pack has put another file in its place: what is new is in that."""
        moved = self.cut.extend()
        if self.file.replaced():
            raise SourceChanged(f"{self.file.path} was packed while the cuts of the databases were taken")
        return moved

    @property
    def voted(self) -> bool:
        """Tell whether a transaction behind the cut may still be finished."""
        return self.cut.state == "voted"

    @property
    def expected(self) -> int:
        """Return how many bytes are to be read."""
        return self.cut.end - self.base.end

    @property
    def software(self) -> dict[str, str]:
        """Return nothing: there is no server."""
        return {}

    # storage

    def copy_storage(self) -> None:
        """Copy the storage half, and learn which blobs it asks for."""
        ranges = self.cut.ranges
        with Workers(self.wishes.workers, self.keeper.beat) as workers:
            if self.wishes.blobs and self.place is None:
                self._require_no_blobs(workers, ranges)
            for scanned in workers.in_order(
                self.copier.jobs(ranges, self.refs.add, store=self.wishes.storage)
            ):
                self._take(scanned)
            self._look_again(workers)
            self._look_for_first_blobs(workers)
            if self.wishes.storage:
                self.segments = compact_segments(self.segments, self.copier, workers, self.findings)

    def _require_no_blobs(self, workers: Workers, ranges: Sequence[Range]) -> None:
        def refuse(blobs: list[BlobRef]) -> None:
            if found := next((blob for blob in blobs if blob.sure), None):
                raise ConfigurationError(
                    [
                        f"{self.file.path} refers to blobs (OID {tids.to_hex(found.oid)}, TID {tids.to_hex(found.tid)}), no blob directory is known"
                    ],
                    "name it with --blob-dir or in the configuration; `--only storage` leaves the blobs out",
                )

        for _scanned in workers.in_order(self.copier.jobs(ranges, refuse, store=False)):
            pass

    def _take(self, scanned: Scanned) -> None:
        named = scanned.defects[: max(0, NAMED - self._defects)]
        self._defects += len(scanned.defects)
        self.findings += [f"Data.fs at position {defect.pos}: {defect.why}" for defect in named]
        if scanned.segment is not None:
            self.segments = self.segments.extended([scanned.segment])
            self._unnoted[0].append(scanned.segment)
            self._note(scanned.size)

    def _look_again(self, workers: Workers) -> None:
        """Find the blobs of the segments that an interrupted run stored."""
        adopted = self._adopted()
        ranges = [Range(segment.start, segment.end, segment.tail_start) for segment in adopted]
        for segment, scanned in zip(
            adopted, workers.in_order(self.copier.jobs(ranges, self.refs.add, store=False)), strict=True
        ):
            if scanned.sha256 != segment.sha256:
                raise SourceChanged(
                    f"{self.file.path} no longer gives the bytes that the interrupted run stored"
                )
            self._take(scanned)

    def _look_for_first_blobs(self, workers: Workers) -> None:
        """Ask for the blobs of what earlier backups stored when no place of them was known: only that tells which records are blobs."""
        earlier = self.base.earlier
        if (
            earlier is None
            or earlier.entry.blob_mode != "none"
            or self.place is None
            or not self.wishes.blobs
        ):
            return
        known = [
            Range(one.start, one.end, one.tail_start)
            for one in self.base.segments
            if one.end <= self.base.known
        ]
        for _scanned in workers.in_order(self.copier.jobs(known, self.refs.add, store=False)):
            pass

    def _note(self, size: int) -> None:
        if self.keeper.due(size):
            self.keeper.keep(self._noted())

    def last_notes(self) -> StoredProgress | None:
        """Return what this capture has stored so far for a run that continues it; None when it had not begun."""
        return self._noted() if hasattr(self, "notes") else None

    def _noted(self) -> StoredProgress:
        segments, packs = self._unnoted
        self.notes = msgspec.structs.replace(
            self.notes,
            segments=self.notes.segments + ([chain.store_list(self.sink, segments)] if segments else []),
            packs=self.notes.packs + ([chain.store_list(self.sink, packs)] if packs else []),
        )
        self._unnoted = ([], [])
        return self.notes

    # blobs

    def copy_blobs(self) -> None:
        """Copy the blobs that no pack has; raise SourceChanged when a pack took some of them away, BlobsMissing when too many are gone."""
        self.packs = self._known_packs()
        if self.place is None or not self.wishes.blobs:
            return
        with reading_workers(self.place, self.refs, self.wishes, self.keeper) as workers:
            if self._pack(workers, self.place):
                self._find(workers, self.place)
            limit_missing(self.missing, self.count, self.wishes.allow_missing, str(self.place.root))
            self.packs = self._rewritten(workers, self.place)

    def _known_packs(self) -> Chain[Pack]:
        """Return what is live of the packs of the parent and of an interrupted run."""
        earlier = self.base.earlier
        sparse_before = earlier.entry.blobs.sparse if earlier and earlier.entry.blobs else 0
        self.count = self.size = 0
        self.sparse = sparse_before > 0
        packs = Chain(Pack, self.documents)
        until = self._known_until()
        if earlier is not None and self.decision.reason.code not in FRESH:
            if earlier.entry.blobs:
                self.count, self.size = earlier.entry.blobs.count, earlier.entry.blobs.size
            self._inherit_missing(earlier.entry, until)
            limit = min(self._shared_with(earlier, until), tids.to_hex(tids.from_datetime(earlier.captured)))
            packs = packs_of(earlier.entry, self.documents)
            if not self._untouched(earlier.entry):
                packs = packs.mapped(partial(self._reconcile, until, limit))
        if self.base.adopted:
            stored = [
                pack for ref in self.base.adopted.packs for pack in chain.load_list(Pack, self.documents, ref)
            ]
            packs = packs.extended([kept for pack in stored if (kept := self._adopt(pack)) is not None])
        return packs

    def _untouched(self, entry: DatabaseEntry) -> bool:
        """Tell whether the file still begins with all that the earlier backup has: then so do its blobs, and no index need be read."""
        return self.base.stands and entry.data_fs is not None and self.base.known == entry.data_fs.end

    def _shared_with(self, earlier: PreviousBackup, until: str) -> str:
        """Return the TID up to which the transactions of a backup are those of the file, as far as they are in both."""
        if self.newest is not None and self.newest.earlier.id == earlier.id:
            return self.decision.common_tid or NO_TID
        return (earlier.entry.last_tid or NO_TID) if self.base.stands else until

    def _known_until(self) -> str:
        """Return the TID up to which every blob of the file is known to be in the packs."""
        if self.base.earlier and self._untouched(self.base.earlier.entry):
            return HIGHEST_TID
        known = [segment for segment in self.base.segments.tail if segment.end <= self.base.known]
        if known or not self.base.known:
            return (known[-1].last_tid if known else None) or NO_TID
        return (
            next(
                (s.last_tid for s in reversed(self.base.segments) if s.end <= self.base.known and s.last_tid),
                None,
            )
            or NO_TID
        )

    def _reconcile(self, until: str, limit: str, pack: Pack) -> Pack | None:
        kept = reconcile(self.packer, self.refs, until, limit, pack)
        if kept is not pack:
            self.count += (kept.count if kept else 0) - pack.count
            self.size += (kept.size if kept else 0) - pack.size
            self.sparse = self.sparse or (kept is not None and is_sparse(kept))
        return kept

    def _adopt(self, pack: Pack) -> Pack | None:
        if pack.future:
            return None
        holds = self._holds if self.wishes.doubtful else None
        kept = reconcile(
            self.packer, self.refs, NO_TID, tids.to_hex(tids.from_datetime(self.now)), pack, holds
        )
        if kept is not None:
            self.count += kept.count
            self.size += kept.size
        return kept

    def _holds(self, member: Member) -> bool:
        self.keeper.beat()
        return self.place is not None and still_holds(self.place, member)

    def _inherit_missing(self, entry: DatabaseEntry, until: str) -> None:
        if entry.blobs is None or entry.blobs.missing.list is None:
            return
        rows = msgspec.json.decode(self.documents.document(entry.blobs.missing.list), type=MissingRows).rows
        self.refs.add(
            BlobRef(tids.from_hex(oid), tids.from_hex(tid), True) for oid, tid, _path in rows if tid <= until
        )

    def _pack(self, workers: Workers, place: BlobSource) -> int:
        """Pack the blobs that no pack has; return how many are not in their place."""
        gone = 0
        for packed in pack_missing(workers, self.packer, place, self.refs.lacking()):
            gone += packed.gone
            self.refs.have(packed.keys)
            self.warnings += [
                f"{place.path(blob)} is empty" for blob in packed.empty[: max(0, NAMED - self._empty)]
            ]
            self._empty += len(packed.empty)
            for pack in packed.packs:
                self.packs = self.packs.extended([pack])
                self.count, self.size = self.count + pack.count, self.size + pack.size
                self.blobs_added += pack.count
                self._unnoted[1].append(pack)
                self._note(pack.stored)
        return gone

    def _find(self, workers: Workers, place: BlobSource) -> None:
        """Look for blobs that were not in their place: taken away by a pack, or lost by the source."""
        directory = place if isinstance(place, BlobDirectory) else None
        replaced, kept = self.file.replaced(), directory.kept() if directory else None
        if replaced and kept is not None:
            self._pack(workers, kept)
        gone = self._pack(workers, place)  # on NFS a second look may see more
        # a record of unknown encoding whose file the pack took away looks as one that never had a file: only starting over can tell
        if gone and (replaced or self.file.replaced()):
            raise SourceChanged(
                f"{self.file.path} was packed while it was backed up, and some of its blobs are gone"
            )
        if (
            gone and directory and detect(directory.root) != directory.layout
        ):  # raises when there is no such directory any more
            raise SourceError(
                f"{directory.root} is not the blob directory any more that it was when the backup began",
                "check that it is mounted",
            )
        self.missing = [blob for blob in self.refs.lacking() if blob.sure]

    def _rewritten(self, workers: Workers, place: BlobSource) -> Chain[Pack]:
        findings: list[str] = []
        done = rewrite_packs(self.packs, self.sparse, self.packer, place, workers, findings)
        self.sparse_left = done.sparse
        # a pack of this moment has taken blobs away that the backup has: no loss, and the next run sees which packs are half dead then
        self.findings += [] if self.file.replaced() else findings
        return done.chain

    # the result

    def entry(self) -> DatabaseEntry:
        """Return what the manifest says of this database."""
        parent = self.base.earlier.entry if self.base.earlier else None
        kept = parent if self.base.end and parent else None
        first, pack_tid, ordered = self._range(kept)
        last = tids.to_hex(self.cut.last_tid) if self.cut.last_tid else self.previous_tid
        self._warn(ordered)
        return DatabaseEntry(
            name=self.database.name,
            folder=self.folder,
            mount_point=self.database.mount_point,
            backend=self.database.backend,
            method=self.database.method,
            history=self.database.history is not False,
            blob_mode=self.database.blob_mode if self.place else "none",
            layout=self.place.layout if isinstance(self.place, BlobDirectory) else None,
            first_tid=first,
            pack_tid=pack_tid,
            last_tid=last,
            last_time=tids.iso(tids.from_hex(last)) if last else None,
            storage=self._storage() if self.wishes.storage else None,
            blobs=self._blobs() if self.wishes.blobs else None,
            ordered=ordered,
            transactions_added=self.cut.transactions,
            blobs_added=self.blobs_added,
            warnings=self.warnings,
        )

    def _range(self, kept: DatabaseEntry | None) -> tuple[str | None, str | None, bool]:
        """Return the first TID, the TID of the last packed transaction and whether TIDs ascend, of the whole file."""
        if self.base.adopted:
            whole = TailScan(self.file, 0, until=self.cut.end)
            return hex_or_none(whole.first_tid), hex_or_none(whole.pack_tid), whole.ascending
        pack_tid = hex_or_none(self.cut.pack_tid)
        if kept is None:
            return hex_or_none(self.cut.first_tid), pack_tid, self.cut.ascending
        if pack_tid is None and kept.pack_tid is not None:
            pack_tid = min(kept.pack_tid, self.previous_tid or kept.pack_tid)
        return kept.first_tid, pack_tid, kept.ordered and self.cut.ascending

    def _warn(self, ordered: bool) -> None:
        if not ordered:
            self.warnings.append("the TIDs of Data.fs do not ascend: restoring to a moment is refused")
        if self._empty > NAMED:
            self.warnings.append(f"{self._empty - NAMED} more blobs are empty")
        if self._defects > NAMED:
            self.findings.append(f"Data.fs has {self._defects - NAMED} more defects inside transactions")
        if self.cut.state == "torn":
            self.warnings.append(
                f"Data.fs ends with a part of a transaction, from position {self.cut.end} on, which is not in the backup"
            )
        if self.cut.strange:
            self.warnings.append(
                f"the transaction at position {self.cut.strange.pos} has the unknown status {self.cut.strange.status!r}"
            )
        future = sum(1 for segment in self.segments.tail if segment.future)
        if future:
            self.warnings.append(
                "the newest transactions are later than the clock here: every run reads them again until it has passed them"
            )
        self.warnings += self.findings

    def _storage(self) -> DataFs:
        whole = (
            self.base.earlier.entry.data_fs
            if self.base.earlier and self.base.stands and not self.base.adopted
            else None
        )
        same = whole is not None and whole.end == self.base.end
        kept = (
            whole.transactions
            if whole is not None and same
            else sum(segment.transactions for segment in self.base.segments)
        )
        sealed = self.segments.with_short_tail()
        return DataFs(
            end=self.cut.end, transactions=kept + self.cut.transactions, lists=sealed.lists, tail=sealed.tail
        )

    def _blobs(self) -> Blobs:
        sealed = self.packs.with_short_tail()
        return Blobs(
            count=self.count,
            size=self.size,
            lists=sealed.lists,
            tail=sealed.tail,
            missing=note_missing(self.sink, self._lost()),
            sparse=getattr(self, "sparse_left", 0),
        )

    def _lost(self) -> Iterator[tuple[BlobRef, str]]:
        for blob in self.missing:
            assert self.place is not None
            yield blob, str(self.place.path(blob))
