"""The FileStorage strategy: the committed prefix of ``Data.fs``, then the blobs that it asks for, of a directory or of a bucket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from ..blobs.layout import detect
from ..blobs.packs import Member
from ..blobs.refs import BlobSet
from ..errors import ConfigurationError, Damage, InUse, SourceChanged, SourceError
from ..model import chain, clock
from ..model import tid as tids
from ..model.blob import BlobRef, MissingRows
from ..model.chain import Chain, Documents, packs_of, segments_of
from ..model.manifest import Blobs, DatabaseEntry, DataFs, Pack, Segment, Stored
from ..model.source import Database
from ..policy.continuity import Decision, Facts, decide
from ..policy.halves import place
from .base import Earlier, Keeper, Progress, Resumed, Sink, Strategy, Verdict, Wishes, Workers, folder_of, unsupported
from .bucket import Bucket, require_client, wrapper_key
from .checking import DataFsCheck
from .datafile import DataFile
from .joining import is_sparse, join_segments, pack_all, reading_workers, rewrite_packs
from .locking import is_barred, storage_locks
from .missing import limit_missing, note_missing
from .packing import BlobDirectory, BlobPlace, Packer, reconcile, still_holds
from .segments import Copier, Cut, Range, Scanned
from .standing import Standing, newest_common

FRESH: Final = ("first", "forced", "parent-missing", "new-history")
# Of what may be wrong a million times so many are told one by one.
NAMED: Final = 20
NO_TID: Final = ""
HIGHEST_TID: Final = "0x" + 16 * "f"


class Base(msgspec.Struct):
    """Where a capture may start: the prefix of a chain that stands, and whose it is; ``stands`` when that is the whole chain.

    The blobs of the first ``known`` bytes are in the packs of ``earlier``; from there to the end of the prefix an interrupted run stored segments.
    """

    earlier: Earlier | None
    segments: Chain[Segment]
    stands: bool
    known: int
    adopted: Stored | None = None

    @property
    def end(self) -> int:
        """Return how many bytes of the file the prefix gives."""
        return end_of(self.segments)


class Predecessor(msgspec.Struct, frozen=True):
    """The newest backup that can be read, and what of it stands: this decides whether the file is its future, whatever older one is used again."""

    earlier: Earlier
    prefix: Chain[Segment]
    stands: bool


def end_of(segments: Chain[Segment]) -> int:
    """Return the position behind the last segment."""
    return next((segment.end for segment in reversed(segments)), 0)


class Survey:
    """Looks at a Data.fs and at what earlier backups have of it, and decides; writes nothing."""

    def __init__(self, database: Database, documents: Documents, wishes: Wishes, now: datetime) -> None:
        if database.data_fs is None:
            raise SourceError(f"the database {database.name} has no Data.fs")
        self.database, self.documents, self.wishes, self.now = database, documents, wishes, now
        self.place = _place_of_blobs(database)
        self.file = DataFile(Path(database.data_fs))
        self.problem: str | None = None
        self.base = Base(None, Chain(Segment, documents), stands=False, known=0)
        self.newest: Predecessor | None = None

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def find_base(self, earlier: Iterable[Earlier], resumed: Resumed | None) -> None:
        """Choose what to start from: the longest prefix that stands, of the newest backup when several are as long."""
        standing = Standing(self.file)
        unread: Earlier | None = None
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
        self.cut = Cut(self.file, self.base.end, tids.from_hex(kept.last_tid) if kept and kept.last_tid else None)
        self.previous_tid = kept.last_tid if kept else None

    def _consider(self, candidate: Earlier, standing: Standing) -> bool:
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
            self.base = Base(candidate, prefix, stands=whole, known=end)
        return whole

    def _consider_resumed(self, resumed: Resumed, standing: Standing) -> None:
        notes = resumed.stored
        known = Chain(Segment, self.documents)
        if resumed.parent is not None:
            known = segments_of(resumed.parent.entry, self.documents)
            known = known.first(sum(1 for segment in known if segment.end <= notes.keep))
        if end_of(known) != notes.keep:
            return
        stored = [segment for ref in notes.segments for segment in chain.load(Segment, self.documents, ref)]
        candidate = known.plus(stored)
        _stands, trusted = standing.count(candidate)
        prefix = candidate.first(trusted)
        if end_of(prefix) > self.base.end or (notes.packs and end_of(prefix) == self.base.end):
            same = resumed.parent is not None and self.base.earlier is not None and resumed.parent.id == self.base.earlier.id
            self.base = Base(resumed.parent, prefix, same and self.base.stands, min(notes.keep, end_of(prefix)), notes)

    @property
    def uses(self) -> list[Earlier]:
        """Return the backups that the new one goes on from, or takes content from."""
        return [one for one in (self.base.earlier, self.newest and self.newest.earlier) if one]

    def decide(self) -> Decision:
        """Return how this backup is made, and why."""
        base, newest = self.base, self.newest
        entry = newest.earlier.entry if newest else None
        chain_end = entry.data_fs.end if entry and entry.data_fs else 0
        common = self._common()
        self.decision = decide(
            Facts(
                parent=newest.earlier.id if newest else None,
                cut_end=self.cut.end,
                forced=self.wishes.forced,
                parent_problem=self.problem if not base.end or common is None else None,
                standing_end=chain_end if newest and newest.stands else end_of(newest.prefix) if newest else 0,
                chain_end=chain_end,
                reused_end=base.known,
                resumed_end=base.end - base.known if base.adopted else 0,
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
        return _hex((Cut(self.file, 0) if self.base.adopted else self.cut).pack_tid)

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


class FileStorageCapture(Survey):
    """Copies what the survey decided: ``copy_storage``, then ``copy_blobs``, then ``entry``."""

    def begin(self, sink: Sink, keeper: Keeper, progress: Progress) -> None:
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
            self.base = Base(self.base.earlier, Chain(Segment, self.documents), stands=False, known=0)
            self.cut = Cut(self.file, 0, until=self.cut.end)
            self.previous_tid = None
        self.segments = self.base.segments
        self.notes = self._first_notes()

    def _first_notes(self) -> Stored:
        """Return the notes to begin with: what the interrupted run left and still stands, or nothing."""
        base = self.base
        parent = base.earlier.id if base.earlier and base.known else None
        notes = Stored(database=self.database.name, parent=parent, keep=base.known)
        if base.adopted is None:
            return notes
        adopted = self._adopted()
        whole = len(adopted) == sum(ref.count for ref in base.adopted.segments)
        segments = base.adopted.segments if whole else [chain.store(self.sink, adopted)] if adopted else []
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
            for scanned in workers.in_order(self.copier.jobs(ranges, self.refs.add, store=self.wishes.storage)):
                self._take(scanned)
            self._look_again(workers)
            self._look_for_first_blobs(workers)
            if self.wishes.storage:
                self.segments = join_segments(self.segments, self.copier, workers, self.findings)

    def _require_no_blobs(self, workers: Workers, ranges: Sequence[Range]) -> None:
        def refuse(blobs: list[BlobRef]) -> None:
            if found := next((blob for blob in blobs if blob.sure), None):
                raise ConfigurationError(
                    [f"{self.file.path} refers to blobs (OID {tids.to_hex(found.oid)}, TID {tids.to_hex(found.tid)}), no blob directory is known"],
                    "name it with --blob-dir or in the configuration; `--only storage` leaves the blobs out",
                )

        for _scanned in workers.in_order(self.copier.jobs(ranges, refuse, store=False)):
            pass

    def _take(self, scanned: Scanned) -> None:
        named = scanned.defects[: max(0, NAMED - self._defects)]
        self._defects += len(scanned.defects)
        self.findings += [f"Data.fs at position {defect.pos}: {defect.why}" for defect in named]
        if scanned.segment is not None:
            self.segments = self.segments.plus([scanned.segment])
            self._unnoted[0].append(scanned.segment)
            self._note(scanned.size)

    def _look_again(self, workers: Workers) -> None:
        """Find the blobs of the segments that an interrupted run stored."""
        adopted = self._adopted()
        ranges = [Range(segment.start, segment.end, segment.tail_start) for segment in adopted]
        for segment, scanned in zip(adopted, workers.in_order(self.copier.jobs(ranges, self.refs.add, store=False)), strict=True):
            if scanned.sha256 != segment.sha256:
                raise SourceChanged(f"{self.file.path} no longer gives the bytes that the interrupted run stored")
            self._take(scanned)

    def _look_for_first_blobs(self, workers: Workers) -> None:
        """Ask for the blobs of what earlier backups stored when no place of them was known: only that tells which records are blobs."""
        earlier = self.base.earlier
        if earlier is None or earlier.entry.blob_mode != "none" or self.place is None or not self.wishes.blobs:
            return
        known = [Range(one.start, one.end, one.tail_start) for one in self.base.segments if one.end <= self.base.known]
        for _scanned in workers.in_order(self.copier.jobs(known, self.refs.add, store=False)):
            pass

    def _note(self, size: int) -> None:
        if self.keeper.due(size):
            self.keeper.keep(self._noted())

    def last_notes(self) -> Stored | None:
        """Return what this capture has stored so far for a run that continues it; None when it had not begun."""
        return self._noted() if hasattr(self, "notes") else None

    def _noted(self) -> Stored:
        segments, packs = self._unnoted
        self.notes = msgspec.structs.replace(
            self.notes,
            segments=self.notes.segments + ([chain.store(self.sink, segments)] if segments else []),
            packs=self.notes.packs + ([chain.store(self.sink, packs)] if packs else []),
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
            stored = [pack for ref in self.base.adopted.packs for pack in chain.load(Pack, self.documents, ref)]
            packs = packs.plus([kept for pack in stored if (kept := self._adopt(pack)) is not None])
        return packs

    def _untouched(self, entry: DatabaseEntry) -> bool:
        """Tell whether the file still begins with all that the earlier backup has: then so do its blobs, and no index need be read."""
        return self.base.stands and entry.data_fs is not None and self.base.known == entry.data_fs.end

    def _shared_with(self, earlier: Earlier, until: str) -> str:
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
        return next((s.last_tid for s in reversed(self.base.segments) if s.end <= self.base.known and s.last_tid), None) or NO_TID

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
        kept = reconcile(self.packer, self.refs, NO_TID, tids.to_hex(tids.from_datetime(self.now)), pack, holds)
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
        self.refs.add(BlobRef(tids.from_hex(oid), tids.from_hex(tid), True) for oid, tid, _path in rows if tid <= until)

    def _pack(self, workers: Workers, place: BlobPlace) -> int:
        """Pack the blobs that no pack has; return how many are not in their place."""
        gone = 0
        for packed in pack_all(workers, self.packer, place, self.refs.lacking()):
            gone += packed.gone
            self.refs.have(packed.keys)
            self.warnings += [f"{place.path(blob)} is empty" for blob in packed.empty[: max(0, NAMED - self._empty)]]
            self._empty += len(packed.empty)
            for pack in packed.packs:
                self.packs = self.packs.plus([pack])
                self.count, self.size = self.count + pack.count, self.size + pack.size
                self.blobs_added += pack.count
                self._unnoted[1].append(pack)
                self._note(pack.stored)
        return gone

    def _find(self, workers: Workers, place: BlobPlace) -> None:
        """Look for blobs that were not in their place: taken away by a pack, or lost by the source."""
        directory = place if isinstance(place, BlobDirectory) else None
        replaced, kept = self.file.replaced(), directory.kept() if directory else None
        if replaced and kept is not None:
            self._pack(workers, kept)
        gone = self._pack(workers, place)  # on NFS a second look may see more
        # a record of unknown encoding whose file the pack took away looks as one that never had a file: only starting over can tell
        if gone and (replaced or self.file.replaced()):
            raise SourceChanged(f"{self.file.path} was packed while it was backed up, and some of its blobs are gone")
        if gone and directory and detect(directory.root) != directory.layout:  # raises when there is no such directory any more
            raise SourceError(f"{directory.root} is not the blob directory any more that it was when the backup began", "check that it is mounted")
        self.missing = [blob for blob in self.refs.lacking() if blob.sure]

    def _rewritten(self, workers: Workers, place: BlobPlace) -> Chain[Pack]:
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
            name=self.database.name, folder=self.folder, mount_point=self.database.mount_point, backend=self.database.backend,
            method=self.database.method, history=self.database.history is not False,
            blob_mode=self.database.blob_mode if self.place else "none", layout=self.place.layout if isinstance(self.place, BlobDirectory) else None,
            first_tid=first, pack_tid=pack_tid, last_tid=last, last_time=tids.iso(tids.from_hex(last)) if last else None,
            storage=self._storage() if self.wishes.storage else None, blobs=self._blobs() if self.wishes.blobs else None,
            ordered=ordered, transactions_added=self.cut.transactions, blobs_added=self.blobs_added, warnings=self.warnings,
        )  # fmt: skip

    def _range(self, kept: DatabaseEntry | None) -> tuple[str | None, str | None, bool]:
        """Return the first TID, the TID of the last packed transaction and whether TIDs ascend, of the whole file."""
        if self.base.adopted:
            whole = Cut(self.file, 0, until=self.cut.end)
            return _hex(whole.first_tid), _hex(whole.pack_tid), whole.ascending
        pack_tid = _hex(self.cut.pack_tid)
        if kept is None:
            return _hex(self.cut.first_tid), pack_tid, self.cut.ascending
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
            self.warnings.append(f"Data.fs ends with a part of a transaction, from position {self.cut.end} on, which is not in the backup")
        if self.cut.strange:
            self.warnings.append(f"the transaction at position {self.cut.strange.pos} has the unknown status {self.cut.strange.status!r}")
        future = sum(1 for segment in self.segments.tail if segment.future)
        if future:
            self.warnings.append("the newest transactions are later than the clock here: every run reads them again until it has passed them")
        self.warnings += self.findings

    def _storage(self) -> DataFs:
        whole = self.base.earlier.entry.data_fs if self.base.earlier and self.base.stands and not self.base.adopted else None
        same = whole is not None and whole.end == self.base.end
        kept = whole.transactions if whole is not None and same else sum(segment.transactions for segment in self.base.segments)
        sealed = self.segments.sealed()
        return DataFs(end=self.cut.end, transactions=kept + self.cut.transactions, lists=sealed.lists, tail=sealed.tail)

    def _blobs(self) -> Blobs:
        sealed = self.packs.sealed()
        return Blobs(
            count=self.count, size=self.size, lists=sealed.lists, tail=sealed.tail,
            missing=note_missing(self.sink, self._lost()), sparse=getattr(self, "sparse_left", 0),
        )  # fmt: skip

    def _lost(self) -> Iterator[tuple[BlobRef, str]]:
        for blob in self.missing:
            assert self.place is not None
            yield blob, str(self.place.path(blob))


def _place_of_blobs(database: Database) -> BlobPlace | None:
    """Return where the blobs are, None when nobody has said it; those of a mirror are files, wherever those of its source are."""
    if database.blob_mode == "s3" and database.method != "portable":
        return Bucket(database, wrapper_key)
    return BlobDirectory(Path(database.blob_dir), detect(Path(database.blob_dir))) if database.blob_dir else None


def _hex(raw: bytes | None) -> str | None:
    return tids.to_hex(raw) if raw else None


class FileStorage:
    """The strategy for a Data.fs with or without a blob directory; see ``strategies/base.py``."""

    def require(self, database: Database) -> None:
        """Raise NothingToBackUp where the blobs are somewhere else, ConfigurationError where their bucket cannot be read."""
        if database.blob_mode not in ("directory", "none", "s3"):
            raise unsupported(database)
        if database.blob_mode == "s3":
            require_client(database)

    def exclusive(self, database: Database) -> AbstractContextManager[None]:
        """Hold the locks of the storage."""
        return storage_locks(Path(database.data_fs or ""))

    def location(self, database: Database) -> str:
        """Return the path of Data.fs; of a mirror, where what it mirrors is."""
        return place(database)

    def survey(self, database: Database, documents: Documents, wishes: Wishes, now: datetime) -> Survey:
        """Open Data.fs."""
        return Survey(database, documents, wishes, now)

    def capture(self, database: Database, documents: Documents, wishes: Wishes, now: datetime) -> FileStorageCapture:
        """Open Data.fs for a backup; raise InUse after an interrupted restore."""
        if is_barred(Path(database.data_fs or "")):
            raise InUse(
                f"a restore was interrupted, and {database.data_fs} may not fit the other databases", "run that restore again, or `restore --abort`"
            )
        return FileStorageCapture(database, documents, wishes, now)

    def check(self, entry: DatabaseEntry, sink: Sink, refs: BlobSet, verdict: Verdict, progress: Progress, workers: int) -> None:
        """Parse every transaction and follow every back-pointer."""
        if entry.data_fs is not None:
            DataFsCheck(entry, entry.data_fs, sink, refs, verdict, progress).run(workers)


STRATEGY: Final[Strategy] = FileStorage()
