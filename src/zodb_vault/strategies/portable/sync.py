"""Copy any storage that ZODB can open into a mirror, transaction by transaction.

Everything is copied as the storage gives it: TIDs, status, texts, records in their order, and a blob file for
each revision of a blob. A record may occur twice in a transaction (a ZEO client with a blob cache writes such
transactions); both are copied. What was written is read back and compared before it counts as copied.
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

# A batch is checked after 64 MiB or 30 seconds. When a run is killed, only its last batch is lost.
BATCH_BYTES: Final = 64 << 20
BATCH_SECONDS: Final = 30.0
# The newest 20 transactions of the mirror are compared with those of the source. Of a transaction longer than
# 256 KiB, only the header is compared: to read many long ones again would take too long.
COMPARED: Final = 20
COMPARED_BYTES: Final = 256 << 10
# Free space that must be left in the file system of the mirror.
RESERVE: Final = 64 << 20
# In a source without history, each change leaves a revision in the mirror that the source no longer has. A
# mirror with more records than this is made again when most of them are such revisions.
FEW_RECORDS: Final = 10_000


# What is copied again although the mirror has it: after a pack the records, but not the blobs.
Renew = Literal["records", "everything"] | None
# The OIDs and TIDs of the records of a transaction.
Keys = list[tuple[bytes, bytes]]


class MirrorState(NamedTuple):
    """Whether the source continues a mirror.

    If not, ``why`` tells the reason, and ``reuse`` tells whether the blobs of the mirror can be used again.
    """

    continues: bool
    why: str = ""
    reuse: bool = False


class Expected(NamedTuple):
    """A transaction as the source gave it: header without status, status, digest of the records."""

    header: tuple[bytes, bytes, bytes, dict[str, Any]]
    status: str
    records: str


class Newest(NamedTuple):
    """The newest transactions of a mirror, oldest first; of those in ``long``, only the header."""

    transactions: list[tuple[Expected, Keys]]
    long: frozenset[bytes]

    @property
    def first_tid(self) -> bytes:
        """Return the TID of the oldest of these transactions."""
        return self.transactions[0][0].header[0]


class Updated(NamedTuple):
    """A mirror that was brought up to date: its checked part, and how many transactions were copied."""

    checked: Checked
    transactions: int


class Update:
    """Brings a mirror up to date."""

    def __init__(self, mirror: Mirror, source: Source, machine: str, progress: Progress) -> None:
        self.mirror, self.source, self.progress = mirror, source, progress
        self._identity = (source.place, machine)

    def run(self, *, renew: Renew, take_over: bool) -> Updated:
        """Copy what is new, or everything if the source does not continue the mirror.

        ``renew`` asks for a new copy in any case: of the ``records`` as after a pack, or of ``everything``.
        Raise SourceError, SourceChanged when a pack has removed blobs during the copy, WrongSource for the
        mirror of another source.
        """
        with written(self.mirror.directory):
            start = self._decide(renew, take_over)
            size = self.source.size()
            self._require_room(size, start)
            if not start.begun:
                start = msgspec.structs.replace(start, size=size)
            checked, transactions = Copy(self.mirror, self.source, start, self.progress).run()
            if checked.kept_until is not None:
                self.mirror.forget_kept()
            if not checked.whole or checked.kept_until is not None:
                checked = msgspec.structs.replace(checked, kept_until=None, whole=True)
                self.mirror.write(checked)
        return Updated(checked, transactions)

    def _decide(self, renew: Renew, take_over: bool) -> Checked:
        """Return the part of the mirror that is used again, and remove the rest."""
        before = self.mirror.read()
        source, machine = self._identity
        known = before is not None and (before.source, before.machine) == self._identity
        if before is None or not before.begun:
            kept_until = before.kept_until if before and known and renew != "everything" else None
            return self.mirror.empty(Checked(source=source, machine=machine), kept_until)
        state = self._state(before, renew)
        if not known and not state.continues and not take_over:
            raise WrongSource(
                f"the mirror {self.mirror.directory} is a copy of {before.source} (machine "
                f"{before.machine}), and {self.source.place} does not continue it",
                "name another directory with --mirror; or confirm with --take-over that this is the source "
                "from now on",
            )
        checked = msgspec.structs.replace(before, source=source, machine=machine)
        if state.continues:
            return checked
        self.progress.note(f"{state.why}: the mirror {self.mirror.directory} is made again")
        return self.mirror.empty(checked, before.last_tid if state.reuse else None)

    def _state(self, before: Checked, renew: Renew) -> MirrorState:
        if renew == "everything":
            return MirrorState(continues=False, why="everything is copied again")
        if not self.mirror.truncate_to(before):
            return MirrorState(continues=False, why="another process has changed its Data.fs")
        if renew == "records":
            return MirrorState(continues=False, why=f"{self.source.place} was packed", reuse=True)
        return self._compared(before)

    # does the source continue the mirror?

    def _compared(self, checked: Checked) -> MirrorState:
        if not checked.ordered:
            return MirrorState(continues=False, why=f"the TIDs of {self.source.place} do not ascend")
        compare = self._without_history if self.source.history is False else self._with_history
        state = compare(checked, self._newest(checked))
        if state.continues and self._is_outgrown(checked):
            return MirrorState(
                continues=False,
                why=f"{self.source.place} no longer has most of the copied revisions",
                reuse=True,
            )
        return state

    def _is_outgrown(self, checked: Checked) -> bool:
        """Tell whether more than half of the records of a mirror without history are old revisions."""
        if self.source.history is not False or checked.records < FEW_RECORDS:
            return False
        from ZODB.fsIndex import fsIndex

        with contextlib.suppress(OSError, ValueError, EOFError):
            return checked.records > 2 * len(fsIndex.load(f"{self.mirror.data_fs}.index")["index"])
        return False

    def _newest(self, checked: Checked) -> Newest:
        """Return the newest transactions of the mirror."""
        with self.mirror.data_fs.open("rb") as file:
            spans = list(islice(backwards(file.fileno(), checked.end), COMPARED))
        long = frozenset(span.tid for span in spans if span.end - span.pos > COMPARED_BYTES)
        return Newest(
            list(mirrored_transactions(self.mirror.data_fs, spans[-1].pos, checked.end, long)), long
        )

    def _theirs(self, ours: Newest, checked: Checked) -> Iterator[tuple[Expected, Keys]]:
        """Yield the transactions of the source in the range of the newest ones of the mirror."""
        last = tids.from_hex(checked.last_tid or "")
        for header, records in self.source.transactions(ours.first_tid):
            if header.tid > last:
                return
            yield expected_of(header, () if header.tid in ours.long else records)

    def _with_history(self, checked: Checked, ours: Newest) -> MirrorState:
        """Compare transactions; a source with the last one but not all of these was packed."""
        theirs = list(self._theirs(ours, checked))
        if theirs == ours.transactions and not self._packed_since(checked):
            return MirrorState(continues=True)
        last = ours.transactions[-1][0]
        if any((one.header, one.records) == (last.header, last.records) for one, _keys in theirs):
            return MirrorState(continues=False, why=f"{self.source.place} was packed", reuse=True)
        return MirrorState(continues=False, why=f"{self.source.place} is not what was copied before")

    def _packed_since(self, checked: Checked) -> bool:
        """Tell whether the source was packed since the last copy.

        The first transaction that no pack had seen when it was copied is read again. If it is gone or has the
        status of a packed transaction, there was a pack. If a pack had seen all copied transactions, the
        first transaction after them is read.
        """
        unseen = checked.packed_end < checked.end
        if not unseen and not checked.whole:
            # The next transaction may have been packed before the first copy began, so it tells nothing. A
            # pack makes the source smaller.
            return self.source.size() < checked.size
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

    def _without_history(self, checked: Checked, ours: Newest) -> MirrorState:
        """Compare current revisions.

        The source may have newer revisions than the mirror, but no older and no other ones.
        """
        known = {key for _expected, keys in ours.transactions for key in keys}
        theirs = {key for _expected, keys in self._theirs(ours, checked) for key in keys}
        last = tids.from_hex(checked.last_tid or "")
        newest = {oid: tid for oid, tid in sorted(known, key=lambda key: key[1])}
        gone = [oid for oid, tid in newest.items() if (oid, tid) not in theirs]
        superseded = all((current := self.source.current_tid(oid)) is None or current > last for oid in gone)
        return MirrorState(
            continues=theirs <= known and superseded, why=f"{self.source.place} is not what was copied before"
        )

    def _require_room(self, size: int, checked: Checked) -> None:
        """Raise VaultError when the source does not fit into the file system of the mirror.

        When the size of the source includes data that are not copied, only note it.
        """
        needed = size - checked.end
        free = shutil.disk_usage(self.mirror.directory).free
        self.progress.begin("mirror", max(0, needed))
        if needed + RESERVE <= free:
            return
        text = f"the mirror {self.mirror.directory} may need {needed} more bytes, and {free} bytes are free"
        if self.source.exact_size:
            raise VaultError(text, "make room there or name another directory with --mirror")
        self.progress.note(text)


class Batch:
    """The transactions and blobs that were written to a mirror and are not checked yet.

    ``blobs`` are the sizes of blobs by OID and TID, ``size`` is the number of bytes of records.
    """

    def __init__(self) -> None:
        self.expected: list[tuple[Expected, Keys]] = []
        self.blobs: dict[tuple[bytes, bytes], int] = {}
        self.size = 0
        self._started = time.monotonic()

    def is_full(self) -> bool:
        """Tell whether the batch has to be checked now."""
        return self.size >= BATCH_BYTES or time.monotonic() - self._started >= BATCH_SECONDS


class Copy:
    """Copies the transactions after the checked part of a mirror; each batch of them is checked."""

    def __init__(self, mirror: Mirror, source: Source, checked: Checked, progress: Progress) -> None:
        self.mirror, self.source, self.checked, self.progress = mirror, source, checked, progress
        self._transactions = 0
        self._storage: Any = None
        self._missing = [(tids.from_hex(oid), tids.from_hex(tid)) for oid, tid in checked.missing]
        self._batch = Batch()

    def run(self) -> Updated:
        """Copy everything that is new."""
        start = _after(self.checked.last_tid) if self.checked.last_tid else None
        try:
            for header, records in self.source.transactions(start):
                self.take(header, records)
                if self._batch.is_full():
                    self.settle()
            if not self.mirror.data_fs.exists():
                self.open_storage()
            self._check_blobs_again()
            self.settle()
        except BaseException:
            # Complete transactions are kept for the next run. An error here must not hide the first one.
            with contextlib.suppress(VaultError, OSError):
                self.settle()
            raise
        finally:
            self._close()
        return Updated(self.checked, self._transactions)

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
        self._batch.expected.append(expected)
        self._transactions += 1

    def _restored(self, records: Iterable[Record], meta: Any) -> Iterator[Record]:
        """Write the records of a transaction, and yield each."""
        placed: set[bytes] = set()
        for record in records:
            blob = None if record.oid in placed else self.blob(record)
            if blob is None:
                self._storage.restore(record.oid, record.tid, record.data, "", record.same_as, meta)
            else:
                self._batch.blobs[record.oid, record.tid] = blob.stat().st_size
                self._storage.restoreBlob(
                    record.oid, record.tid, record.data, str(blob), record.same_as, meta
                )
                placed.add(record.oid)
            size = len(record.data or b"")
            self._batch.size += size
            self.progress.advance(size)
            yield record

    # blobs

    def blob(self, record: Record) -> Path | None:
        """Return a file with the blob of a record, which may be moved away.

        None when the record has no blob, or when the source does not have the file.
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
        """Return the file itself when it is in our cache, else a copy of it."""
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
        """Look again for missing blobs.

        Raise SourceChanged when a pack has removed them together with their records.
        """
        missing = []
        for oid, tid in dict.fromkeys(self._missing):
            found = self.source.blob(oid, tid)
            if found is not None:
                own, target = self.own_file(found), self.mirror.blob(oid, tid)
                self._batch.blobs[oid, tid] = own.stat().st_size
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
        """Read back the batch, compare it, make it durable, and only then count it as checked."""
        if not (self._batch.expected or self._batch.blobs):
            return
        start, end = self.checked.end, self.mirror.data_fs.stat().st_size
        self.compare(start, end)
        for (oid, tid), size in self._batch.blobs.items():
            path = self.mirror.blob(oid, tid)
            if not path.is_file() or path.stat().st_size != size:
                raise VaultError(
                    f"a blob that was written to the mirror {self.mirror.directory} is not there, or has "
                    f"another size: {path}",
                    "check the disk",
                )
        sync_file_system(self.mirror.directory)
        self.checked = self.advanced(end)
        self.mirror.write(self.checked)
        self._batch = Batch()
        if shutil.disk_usage(self.mirror.directory).free < RESERVE:
            raise VaultError(
                f"the mirror {self.mirror.directory} is almost full",
                "make room there or name another directory with --mirror",
            )

    def compare(self, start: int, end: int) -> None:
        """Raise VaultError when the Data.fs of the mirror does not have the batch between two positions."""
        expected = iter(self._batch.expected)
        for one in mirrored_transactions(self.mirror.data_fs, start, end):
            if one != next(expected, None):
                break
        else:
            if next(expected, None) is None:
                return
        raise VaultError(
            f"the Data.fs of the mirror {self.mirror.directory} does not have what was written to it from "
            f"position {start} on",
            "check the disk; the next run continues from that position",
        )

    def advanced(self, end: int) -> Checked:
        """Return the checked part with the batch added, which ends at ``end``."""
        missing = [(tids.to_hex(oid), tids.to_hex(tid)) for oid, tid in self._missing]
        if not self._batch.expected:
            return msgspec.structs.replace(self.checked, missing=missing)
        with self.mirror.data_fs.open("rb") as file:
            spans = list(self._new_spans(file.fileno(), end))
            last = spans[0]
            digest = tail_digest(file.fileno(), last.pos, last.end)
        packed = next((span.end for span in spans if span.status == b"p"), self.checked.packed_end)
        copied = [one.header[0] for one, _keys in self._batch.expected]
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
            records=self.checked.records + sum(len(keys) for _one, keys in self._batch.expected),
        )

    def _new_spans(self, fd: int, end: int) -> Iterator[TransactionSpan]:
        """Yield the transactions after the checked part, newest first."""
        for span in backwards(fd, end):
            if span.end <= self.checked.end:
                return
            yield span


def expected_of(header: Header, records: Iterable[Record]) -> tuple[Expected, Keys]:
    """Return a transaction in the form for comparison, and the OIDs and TIDs of its records."""
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

    Transactions with a TID in ``headers_only`` are yielded without records.
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
    """Return the next possible TID after one."""
    return (int(tid or "0", 16) + 1).to_bytes(8, "big")
