"""The portable strategy.

Any storage that ZODB can open is copied into a mirror, transaction by transaction, and the mirror is backed
up.

The copy is as the storage gives it: TIDs, status, texts, records in their order, also one that comes twice in
a transaction (a ZEO client with a blob cache writes such), and a blob file for each revision of a blob. What
was written is read back and compared before it counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Container, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from ...datafs.records import BLOB_RECORD_LIMIT, TRANSACTION, is_blob
from ...datafs.tail import TransactionSpan, backwards, tail_digest
from ...errors import SourceChanged, SourceError, VaultError, WrongSource
from ...model import tid as tids
from ...runtime.durable import sync_file_system
from ...runtime.progress import Progress
from .mirror import Checked, Mirror, written
from .reader import Header, Record, Source

# As much is lost, at most, when a run is killed.
BATCH_BYTES: Final = 64 << 20
BATCH_SECONDS: Final = 30.0
# So many of the newest transactions have to be those of the source; of longer ones only the headers are
# compared.
COMPARED: Final = 20
COMPARED_BYTES: Final = 256 << 10
RESERVE: Final = 64 << 20
# Without history every change leaves a revision in the mirror that the source has no more; beyond this the
# mirror is made again.
FEW_RECORDS: Final = 10_000


Renew = Literal["records", "everything"] | None
# The OIDs and TIDs of the records of a transaction.
Keys = list[tuple[bytes, bytes]]


class MirrorState(NamedTuple):
    """Whether the source continues a mirror.

    If not, ``why``, and whether the copied blobs can be used again (``reuse``).
    """

    continues: bool
    why: str = ""
    reuse: bool = False


class Expected(NamedTuple):
    """A transaction as the source gave it: header without status, status, digest of the records."""

    header: tuple[bytes, bytes, bytes, dict[str, Any]]
    status: str
    records: str


class Update:
    """Brings one mirror up to date, once."""

    def __init__(self, mirror: Mirror, source: Source, machine: str, progress: Progress) -> None:
        self.mirror, self.source, self.progress = mirror, source, progress
        self._identity = (source.place, machine)
        self.checked = Checked(source=source.place, machine=machine)
        self.copied = 0

    def run(self, *, renew: Renew, take_over: bool) -> Checked:
        """Copy what is new, or everything when the mirror does not lead to where the source is.

        Return what is known to be right then.

        ``renew`` copies more than that: ``records``, as after a pack, or ``everything``. Raise SourceError,
        SourceChanged when a pack took blobs away meanwhile, WrongSource for a mirror of something else.
        """
        with written(self.mirror.directory):
            self._decide(renew, take_over)
            size = self.source.size()
            self._require_room(size)
            if not self.checked.begun:
                self.checked = msgspec.structs.replace(self.checked, size=size)
            copy = Copy(self.mirror, self.source, self.checked, self.progress)
            self.checked = copy.run()
            self.copied = copy.copied
            if self.checked.kept_until is not None:
                self.mirror.forget_kept()
            if not self.checked.whole or self.checked.kept_until is not None:
                self.checked = msgspec.structs.replace(self.checked, kept_until=None, whole=True)
                self.mirror.write(self.checked)
        return self.checked

    def _decide(self, renew: Renew, take_over: bool) -> None:
        """Decide what of the mirror is used again."""
        before = self.mirror.read()
        known = before is not None and (before.source, before.machine) == self._identity
        if before is None or not before.begun:
            self.checked = self.mirror.empty(
                self.checked, before.kept_until if before and known and renew != "everything" else None
            )
            return
        found = self._found(before, renew)
        if not known and not found.continues and not take_over:
            raise WrongSource(
                f"the mirror {self.mirror.directory} is of {before.source} (machine {before.machine}), "
                f"{self.source.place} does not continue it",
                "name another directory with --mirror; `--take-over` says that this is the source from now on",
            )
        self.checked = msgspec.structs.replace(before, source=self.source.place, machine=self._identity[1])
        if not found.continues:
            self.progress.note(f"{found.why}: the mirror {self.mirror.directory} is made again")
            self.checked = self.mirror.empty(self.checked, before.last_tid if found.reuse else None)

    def _found(self, before: Checked, renew: Renew) -> MirrorState:
        if renew == "everything":
            return MirrorState(continues=False, why="everything is copied again")
        if not self.mirror.truncate_to(before):
            return MirrorState(continues=False, why="its Data.fs is not as it was left")
        if renew == "records":
            return MirrorState(continues=False, why=f"{self.source.place} was packed", reuse=True)
        return self._compare_with_source(before)

    # does the source continue the mirror?

    def _compare_with_source(self, checked: Checked) -> MirrorState:
        if not checked.ordered:
            return MirrorState(continues=False, why=f"the TIDs of {self.source.place} do not ascend")
        compare = self._without_history if self.source.history is False else self._with_history
        found = compare(checked, self._newest(checked))
        if found.continues and self._outgrown(checked):
            return MirrorState(
                continues=False, why=f"{self.source.place} has superseded most of what was copied", reuse=True
            )
        return found

    def _outgrown(self, checked: Checked) -> bool:
        if self.source.history is not False or checked.records < FEW_RECORDS:
            return False
        from ZODB.fsIndex import fsIndex

        with contextlib.suppress(OSError, ValueError, EOFError):
            return checked.records > 2 * len(fsIndex.load(f"{self.mirror.data_fs}.index")["index"])
        return False

    def _newest(self, checked: Checked) -> list[tuple[Expected, Keys]]:
        """Return the last transactions of the mirror, oldest first."""
        with self.mirror.data_fs.open("rb") as file:
            hops = list(islice(backwards(file.fileno(), checked.end), COMPARED))
        self._long = {hop.tid for hop in hops if hop.end - hop.pos > COMPARED_BYTES}
        return list(mirrored_transactions(self.mirror.data_fs, hops[-1].pos, checked.end, self._long))

    def _theirs(self, start: bytes, checked: Checked) -> Iterator[tuple[Expected, Keys]]:
        """Yield what the source has from a transaction on, not beyond the last one of the mirror."""
        last = tids.from_hex(checked.last_tid or "")
        for header, records in self.source.transactions(start):
            if header.tid > last:
                return
            yield expected_of(header, () if header.tid in self._long else records)

    def _with_history(self, checked: Checked, ours: list[tuple[Expected, Keys]]) -> MirrorState:
        theirs = list(self._theirs(ours[0][0].header[0], checked))
        if theirs == ours and not self._packed_since(checked):
            return MirrorState(continues=True)
        last = ours[-1][0]
        if any((one.header, one.records) == (last.header, last.records) for one, _keys in theirs):
            return MirrorState(continues=False, why=f"{self.source.place} was packed", reuse=True)
        return MirrorState(continues=False, why=f"{self.source.place} is not what was copied before")

    def _packed_since(self, checked: Checked) -> bool:
        """Tell whether a pack has seen the first transaction that none had seen when it was copied, or the first one since."""
        unseen = checked.packed_end < checked.end
        if not unseen and not checked.whole:
            return self.source.size() < checked.size  # the next one may well have been packed all along
        if unseen:
            with self.mirror.data_fs.open("rb") as file:
                first: bytes = TRANSACTION.unpack(
                    os.pread(file.fileno(), TRANSACTION.size, checked.packed_end)
                )[0]
        else:
            first = _after(checked.last_tid)
        for header, _records in self.source.transactions(first):
            return header.status == "p" or (unseen and header.tid != first)
        return unseen

    def _without_history(self, checked: Checked, ours: list[tuple[Expected, Keys]]) -> MirrorState:
        """Compare current revisions.

        The source may have newer ones than the mirror, never older or other ones.
        """
        known = {key for _expected, keys in ours for key in keys}
        theirs = {key for _expected, keys in self._theirs(ours[0][0].header[0], checked) for key in keys}
        last = tids.from_hex(checked.last_tid or "")
        newest = {oid: tid for oid, tid in sorted(known, key=lambda key: key[1])}
        gone = [oid for oid, tid in newest.items() if (oid, tid) not in theirs]
        overtaken = all((current := self.source.current_tid(oid)) is None or current > last for oid in gone)
        return MirrorState(
            continues=theirs <= known and overtaken, why=f"{self.source.place} is not what was copied before"
        )

    def _require_room(self, size: int) -> None:
        """Raise when what the source has does not fit.

        Only a guess where its size includes what is not copied.
        """
        needed = size - self.checked.end
        free = shutil.disk_usage(self.mirror.directory).free
        self.progress.begin("mirror", max(0, needed))
        if needed + RESERVE <= free:
            return
        text = f"the mirror {self.mirror.directory} may need {needed} bytes more, and {free} are free"
        if self.source.exact_size:
            raise VaultError(text, "make room there or name another directory with --mirror")
        self.progress.note(text)


class Copy:
    """Copies the transactions after the checked ones into the mirror, in batches; checks each batch."""

    def __init__(self, mirror: Mirror, source: Source, checked: Checked, progress: Progress) -> None:
        self.mirror, self.source, self.checked, self.progress = mirror, source, checked, progress
        self.copied = 0
        self._storage: Any = None
        self._missing = [(tids.from_hex(oid), tids.from_hex(tid)) for oid, tid in checked.missing]
        self._begin_batch()

    def _begin_batch(self) -> None:
        self._expected: list[tuple[Expected, Keys]] = []
        self._blobs: dict[tuple[bytes, bytes], int] = {}
        self._size, self._since = 0, time.monotonic()

    def run(self) -> Checked:
        """Return what is known to be right afterwards."""
        start = _after(self.checked.last_tid) if self.checked.last_tid else None
        try:
            for header, records in self.source.transactions(start):
                self.take(header, records)
                if self._size >= BATCH_BYTES or time.monotonic() - self._since >= BATCH_SECONDS:
                    self.settle()
            if not self.mirror.data_fs.exists():
                self.open_storage()
            self._check_blobs_again()
            self.settle()
        except BaseException:
            # what is whole is kept for the next run; the cause is on its way to the user already
            with contextlib.suppress(VaultError, OSError):
                self.settle()
            raise
        finally:
            self._close()
        return self.checked

    def open_storage(self) -> Any:
        """Return the FileStorage of the mirror; it is opened at the first transaction."""
        if self._storage is None:
            from ZODB.FileStorage import FileStorage

            self._storage = FileStorage(str(self.mirror.data_fs), blob_dir=str(self.mirror.blob_dir))
        return self._storage

    def _close(self) -> None:
        if self._storage is not None:
            self._storage.close()

    # one transaction

    def take(self, header: Header, records: Iterator[Record]) -> None:
        """Write one transaction of the source to the mirror."""
        from ZODB.Connection import TransactionMetaData

        storage = self.open_storage()
        meta = TransactionMetaData(header.user, header.description, header.extension)
        storage.tpc_begin(meta, header.tid, header.status)
        try:
            expected = expected_of(header, self._restored(records, meta))
            storage.tpc_vote(meta)
            storage.tpc_finish(meta)
        except BaseException:
            storage.tpc_abort(meta)
            raise
        self._expected.append(expected)
        self.copied += 1

    def _restored(self, records: Iterable[Record], meta: Any) -> Iterator[Record]:
        """Restore the records of a transaction, and pass them on."""
        placed: set[bytes] = set()
        for record in records:
            blob = None if record.oid in placed else self.blob(record)
            if blob is None:
                self._storage.restore(record.oid, record.tid, record.data, "", record.same_as, meta)
            else:
                self._blobs[record.oid, record.tid] = blob.stat().st_size
                self._storage.restoreBlob(
                    record.oid, record.tid, record.data, str(blob), record.same_as, meta
                )
                placed.add(record.oid)
            size = len(record.data or b"")
            self._size += size
            self.progress.advance(size)
            yield record

    # blobs

    def blob(self, record: Record) -> Path | None:
        """Return a file of ours for the blob that a record is of.

        None when it is of none, or the source does not have it.
        """
        if record.data is None or len(record.data) > BLOB_RECORD_LIMIT:
            return None
        sure = is_blob(record.data)
        if sure is False:
            return None
        if kept := self.mirror.kept(self.checked, record.oid, record.tid):
            return kept
        found = self.source.blob(record.oid, record.tid)
        if found is not None:
            return self.own_file(found)
        if sure:
            self._missing.append((record.oid, record.tid))
        return None

    def own_file(self, found: Path) -> Path:
        """Return the file itself when it is only cached for us, else a copy of it."""
        if self.source.is_ours(found):
            return found
        copy = self.mirror.cache / "copied.blob"
        try:
            with found.open("rb") as original, copy.open("wb") as file:
                shutil.copyfileobj(original, file, 1 << 20)
                whole = os.fstat(original.fileno()).st_size == file.tell()
        except OSError as error:
            if error.filename == str(copy):
                raise
            raise SourceError(
                f"{found} cannot be read: {error.strerror}", "check the blob directory"
            ) from None
        if not whole:
            raise SourceChanged(f"{found} changed while it was copied")
        return copy

    def _check_blobs_again(self) -> None:
        """Look for blobs that were not there.

        Raise SourceChanged when a pack took them away together with their records.
        """
        missing = []
        for oid, tid in dict.fromkeys(self._missing):
            found = self.source.blob(oid, tid)
            if found is not None:
                own, target = self.own_file(found), self.mirror.blob(oid, tid)
                self._blobs[oid, tid] = own.stat().st_size
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                own.rename(target)
                target.chmod(0o444)
            elif self.source.has(oid, tid):
                missing.append((oid, tid))
            else:
                raise SourceChanged(
                    f"{self.source.place} was packed while it was copied, and some of its blobs are gone"
                )
        self._missing = missing

    # checking

    def settle(self) -> None:
        """Read back what was written since the last time, compare, make it durable, and only then say that it is right."""
        if not (self._expected or self._blobs):
            return
        start, end = self.checked.end, self.mirror.data_fs.stat().st_size
        self.compare(start, end)
        for (oid, tid), size in self._blobs.items():
            path = self.mirror.blob(oid, tid)
            if not path.is_file() or path.stat().st_size != size:
                raise VaultError(
                    f"the mirror {self.mirror.directory} does not have what was written to it: {path}",
                    "check the disk",
                )
        sync_file_system(self.mirror.directory)
        self.checked = self.advanced(end)
        self.mirror.write(self.checked)
        self._begin_batch()
        if shutil.disk_usage(self.mirror.directory).free < RESERVE:
            raise VaultError(
                f"the mirror {self.mirror.directory} is almost full",
                "make room there or name another directory with --mirror",
            )

    def compare(self, start: int, end: int) -> None:
        """Raise VaultError unless the Data.fs of the mirror gives back what was written between two positions."""
        expected = iter(self._expected)
        for one in mirrored_transactions(self.mirror.data_fs, start, end):
            if one != next(expected, None):
                break
        else:
            if next(expected, None) is None:
                return
        raise VaultError(
            f"the mirror {self.mirror.directory} does not give back what was written to it, from "
            f"position {start} of its Data.fs on",
            "check the disk; the next run goes on from that position",
        )

    def advanced(self, end: int) -> Checked:
        """Return what is known to be right once everything up to a position is."""
        missing = [(tids.to_hex(oid), tids.to_hex(tid)) for oid, tid in self._missing]
        if not self._expected:
            return msgspec.structs.replace(self.checked, missing=missing)
        with self.mirror.data_fs.open("rb") as file:
            hops = list(self._hops(file.fileno(), end))
            last = hops[0]
            digest = tail_digest(file.fileno(), last.pos, last.end)
        packed = next((hop.end for hop in hops if hop.status == b"p"), self.checked.packed_end)
        copied = [one.header[0] for one, _keys in self._expected]
        before = tids.from_hex(self.checked.last_tid) if self.checked.last_tid else b""
        return msgspec.structs.replace(
            self.checked,
            end=end,
            start=last.pos,
            digest=digest,
            packed_end=packed,
            missing=missing,
            first_tid=self.checked.first_tid or tids.to_hex(copied[0]),
            last_tid=tids.to_hex(copied[-1]),
            ordered=self.checked.ordered
            and all(a < b for a, b in zip([before, *copied], copied, strict=False)),
            records=self.checked.records + sum(len(keys) for _one, keys in self._expected),
        )

    def _hops(self, fd: int, end: int) -> Iterator[TransactionSpan]:
        for hop in backwards(fd, end):
            if hop.end <= self.checked.end:
                return
            yield hop


def expected_of(header: Header, records: Iterable[Record]) -> tuple[Expected, Keys]:
    """Return a transaction in the form that is compared, and the OIDs and TIDs of its records."""
    digest, keys = hashlib.sha256(), []
    for record in records:
        data = record.data
        digest.update(record.oid + record.tid + (b"-" if data is None else b"%d:" % len(data)))
        digest.update(data or b"")
        keys.append((record.oid, record.tid))
    return Expected(
        (header.tid, header.user, header.description, _unpickled(header.extension)),
        header.status,
        digest.hexdigest(),
    ), keys


def _unpickled(extension: dict[str, Any] | bytes) -> dict[str, Any]:
    from ZODB.Connection import TransactionMetaData

    found: dict[str, Any] = TransactionMetaData("", "", extension).extension
    return found


def mirrored_transactions(
    data_fs: Path, start: int, end: int, headers_only: Container[bytes] = ()
) -> Iterator[tuple[Expected, Keys]]:
    """Yield the transactions of a mirror between two positions, as ZODB reads them.

    Of some the headers only.
    """
    from ZODB.FileStorage.FileStorage import FileIterator

    if start >= end:
        return
    with contextlib.closing(FileIterator(str(data_fs), pos=start)) as found:
        for transaction in found:
            header = Header(
                transaction.tid,
                transaction.status,
                transaction.user,
                transaction.description,
                transaction.extension,
            )
            records = () if header.tid in headers_only else transaction
            yield expected_of(header, (Record(one.oid, one.tid, one.data, one.data_txn) for one in records))


def _after(tid: str | None) -> bytes:
    """Return the TID that follows one."""
    return (int(tid or "0", 16) + 1).to_bytes(8, "big")
