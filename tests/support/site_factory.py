"""Small FileStorage sites with known content and TIDs: the same bytes on every run.

``Site`` writes one, commit by commit, one minute apart from 2026-01-01 on; the functions below make the sites
that tests need. All return ``SiteFiles`` and leave the storage closed.
"""

from __future__ import annotations

import pickle
import random
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import transaction
from persistent.mapping import PersistentMapping
from persistent.TimeStamp import TimeStamp
from ZODB import DB
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.serialize import referencesf
from ZODB.utils import p64, z64

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BLOB_RECORD = b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."
TRANSACTION = struct.Struct(">8sQcHHH")
RECORD = struct.Struct(">8s8sQQHQ")


class SiteFiles(NamedTuple):
    """The paths of a site."""

    data_fs: Path
    blob_dir: Path


class RawRecord(NamedTuple):
    """A record for ``Site.write``: ``data`` None un-creates the object, ``blob`` becomes a blob file."""

    oid: int
    data: bytes | None
    blob: bytes | None = None


def tid_at(moment: datetime) -> bytes:
    """Return the TID of a time."""
    utc = moment.astimezone(UTC)
    raw: bytes = TimeStamp(
        utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second + utc.microsecond / 1e6
    ).raw()
    return raw


def time_of(tid: bytes) -> datetime:
    """Return the time of a TID."""
    return datetime.fromtimestamp(TimeStamp(tid).timeTime(), UTC)


class DatedStorage(FileStorage):  # type: ignore[misc, unused-ignore]
    """A FileStorage whose TIDs come from ``next_moment``, not from the clock."""

    def __init__(self, files: SiteFiles, start: datetime, **options: Any) -> None:
        super().__init__(str(files.data_fs), blob_dir=str(files.blob_dir), **options)
        last = self.lastTransaction()
        self.next_moment = start if last == z64 else time_of(last) + MINUTE

    def tpc_begin(self, transaction: Any, tid: bytes | None = None, status: str = " ") -> None:
        """Begin with the next TID unless one is given."""
        if tid is None:
            tid = tid_at(self.next_moment)
            self.next_moment += MINUTE
        super().tpc_begin(transaction, tid, status)


class Site:
    """A site that is open for writing; an existing one is continued."""

    def __init__(
        self, directory: Path, layout: str = "bushy", start: datetime = START, keep_old: bool = True
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.files = SiteFiles(directory / "Data.fs", directory / "blobs")
        _choose_layout(self.files, layout)
        self.storage = DatedStorage(self.files, start, pack_keep_old=keep_old)
        self.db = DB(self.storage)
        self.manager = transaction.TransactionManager()
        self.connection = self.db.open(self.manager)

    @property
    def root(self) -> Any:
        """Return the root mapping."""
        return self.connection.root()

    def commit(self, description: str = "", user: str = "", **extension: Any) -> bytes:
        """Commit what was changed; return the TID."""
        current = self.manager.get()
        current.note(description)
        current.user = user
        for name, value in extension.items():
            current.setExtendedInfo(name, value)
        self.manager.commit()
        return self._last_tid()

    def put(self, **values: str | bytes) -> bytes:
        """Commit texts (as objects) and bytes (as blobs) under the root in one transaction; return TID."""
        for key, value in values.items():
            set_value(self.root, key, value)
        return self.commit(f"put {', '.join(values)}", "editor")

    def undo(self, *tids: bytes) -> bytes:
        """Undo transactions, in this order, in one; return the TID."""
        self.manager.begin()
        self.db.undoMultiple([undo_id(tid) for tid in tids], self.manager.get())
        tid = self.commit("undo", "manager")
        self.manager.begin()
        return tid

    def pack(self, until: bytes | None = None, gc: bool = True) -> None:
        """Pack to the time of a transaction (the last one if not given), which is then packed too."""
        moment = TimeStamp(until or self._last_tid()).timeTime() + 1
        self.storage.pack(moment, referencesf, gc=gc)
        self.manager.begin()

    def write(
        self, records: Iterable[RawRecord], tid: bytes | None = None, user: str = "", description: str = ""
    ) -> bytes:
        """Write a transaction through the storage: any record, any TID, also an earlier one or none."""
        metadata = TransactionMetaData(user, description)
        self.storage.tpc_begin(metadata, tid)
        written: bytes = self.storage._tid
        for record in records:
            self._restore(record, written, metadata)
        self.storage.tpc_vote(metadata)
        self.storage.tpc_finish(metadata)
        return written

    def _restore(self, record: RawRecord, tid: bytes, metadata: TransactionMetaData) -> None:
        self.storage.restore(p64(record.oid), tid, record.data, "", None, metadata)
        if record.blob is not None:
            path = Path(self.storage.fshelper.getBlobFilename(p64(record.oid), tid))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(record.blob)
            path.chmod(0o444)

    def _last_tid(self) -> bytes:
        tid: bytes = self.storage.lastTransaction()
        return tid

    def close(self) -> SiteFiles:
        """Close the storage; return the paths of its files."""
        self.manager.abort()
        self.connection.close()
        self.db.close()
        return self.files

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def set_value(root: Any, key: str, value: str | bytes | None) -> None:
    """Put a text (as an object) or bytes (as a blob) under a root, or remove what is there (None)."""
    if value is None:
        del root[key]
    elif isinstance(value, str):
        root.setdefault(key, PersistentMapping())["text"] = value
    elif key not in root:
        root[key] = Blob(value)
    else:
        with root[key].open("w") as stream:
            stream.write(value)


def undo_id(tid: bytes) -> bytes:
    """Return what FileStorage calls a transaction in its undo log."""
    return b64encode(tid)


def _choose_layout(files: SiteFiles, layout: str) -> None:
    """Make a blob directory with a layout, after Data.fs, at whose creation FileStorage empties it."""
    if not files.blob_dir.exists():
        files.data_fs.write_bytes(b"FS30")
        files.blob_dir.mkdir()
        (files.blob_dir / ".layout").write_text(layout)


def noise(size: int, seed: int = 1) -> bytes:
    """Return bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def text_record(text: str) -> bytes:
    """Return the record of a PersistentMapping with one text, as ZODB writes it."""
    state = {"data": {"text": text}}
    return pickle.dumps(PersistentMapping, 2) + pickle.dumps(state, 2)


# Complete sites


def populate(directory: Path, layout: str = "bushy") -> SiteFiles:
    """A bit of everything: texts, 200 small objects, blobs, one overwritten, an undo, a pack, metadata."""
    with Site(directory, layout) as site:
        site.put(welcome="Welcome to the site. " * 40, about="Ünïcödé 日本 \n text")
        site.root["folder"] = PersistentMapping(
            {f"item-{number}": PersistentMapping({"number": number}) for number in range(200)}
        )
        site.commit("many objects", "admin", path="/Plone/folder", numbers=[1, 2, 3])
        site.put(logo=noise(5000), manual=b"page\n" * 3000, icon=noise(30, 2))
        before_pack = site.put(logo=noise(6000, 3))
        site.pack(before_pack)
        site.put(manual=b"page two\n" * 2000, news="First news")
        undone = site.put(logo=noise(7000, 4), news="Mistake")
        site.undo(undone)
        site.put(report=noise(20000, 5), news="Second news")
        del site.root["icon"]
        site.commit("remove icon", "Ädmin Ümlaut", ip="127.0.0.1")
        return site.files


def lawn(directory: Path) -> SiteFiles:
    """The site of ``populate`` with the old flat layout of the blob directory."""
    return populate(directory, "lawn")


def only_root(directory: Path) -> SiteFiles:
    """A new site: one transaction, no blob."""
    return Site(directory).close()


def without_transactions(directory: Path) -> SiteFiles:
    """A Data.fs that no database was ever opened on: four bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    files = SiteFiles(directory / "Data.fs", directory / "blobs")
    FileStorage(str(files.data_fs), blob_dir=str(files.blob_dir)).close()
    return files


def packed(directory: Path, keep_old: bool = True) -> SiteFiles:
    """Packed in the middle: old revisions and a removed blob are gone, two transactions follow."""
    with Site(directory, keep_old=keep_old) as site:
        site.put(text="one", blob=noise(1000, 1), garbage=noise(1000, 2))
        site.put(text="two", blob=noise(1000, 3))
        del site.root["garbage"]
        until = site.commit("remove garbage")
        site.put(text="three")
        site.put(blob=noise(1000, 4))
        site.pack(until)
        return site.files


def undone_blob_change(directory: Path) -> SiteFiles:
    """A blob change was undone: a back-pointer record with a blob file of its own."""
    with Site(directory) as site:
        site.put(blob=noise(1000, 1))
        site.undo(site.put(blob=noise(1000, 2)))
        return site.files


def undone_undo(directory: Path) -> SiteFiles:
    """The undo of a blob change was undone: a back-pointer to the changed blob."""
    with Site(directory) as site:
        site.put(blob=noise(1000, 1))
        site.undo(site.undo(site.put(blob=noise(1000, 2))))
        return site.files


def uncreated(directory: Path) -> SiteFiles:
    """The creation of a text and a blob was undone: records with back-pointer 0 and no blob file."""
    with Site(directory) as site:
        site.put(kept="kept")
        site.undo(site.put(text="gone", blob=noise(1000)))
        return site.files


def recreated(directory: Path) -> SiteFiles:
    """The undo of a creation was undone: back-pointers through an un-creation, the blob is back."""
    with Site(directory) as site:
        site.undo(site.undo(site.put(text="back", blob=noise(1000))))
        return site.files


def undone_into_packed(directory: Path) -> SiteFiles:
    """A blob change after a pack was undone: a back-pointer into the packed part."""
    with Site(directory) as site:
        until = site.put(text="one", blob=noise(1000, 1))
        site.put(text="packed")
        site.pack(until)
        site.undo(site.put(text="two", blob=noise(1000, 2)))
        return site.files


def twice_in_one_transaction(directory: Path) -> SiteFiles:
    """Two changes of a blob undone in one transaction: two records with the same OID and TID."""
    with Site(directory) as site:
        site.put(text="one", blob=noise(1000, 1))
        first, second = site.put(text="two", blob=noise(1000, 2)), site.put(text="three", blob=noise(1000, 3))
        site.undo(second, first)
        return site.files


def empty_transactions(directory: Path) -> SiteFiles:
    """Transactions without records, in the middle and at the end."""
    with Site(directory) as site:
        site.put(text="one")
        site.write([], user="nobody", description="nothing")
        site.put(blob=noise(1000))
        site.write([])
        return site.files


def long_texts(directory: Path) -> SiteFiles:
    """User, description and extension near the 65535 bytes that fit into a transaction header."""
    with Site(directory) as site:
        site.root["text"] = "text"
        site.commit("d" * 65535, "ü" * 30000, request="e" * 60000)
        return site.files


def big_transaction(directory: Path, size: int = 2_000_000, record: int = 250_000) -> SiteFiles:
    """One transaction of more than ``size`` bytes, in records of ``record`` random bytes, and a small one."""
    with Site(directory) as site:
        for number in range(size // record + 1):
            site.root[f"part-{number}"] = PersistentMapping({"data": noise(record, number)})
        site.commit("big")
        site.put(text="after", blob=noise(1000))
        return site.files


def future_tids(
    directory: Path, ahead: timedelta = timedelta(days=1), now: datetime | None = None
) -> SiteFiles:
    """The last three of four transactions are in the future of ``now`` (default: the clock).

    So the bytes differ between runs.
    """
    with Site(directory) as site:
        site.put(text="past", blob=noise(1000, 1))
    with Site(directory) as site:
        site.storage.next_moment = (now or datetime.now(UTC)) + ahead
        site.put(text="future", blob=noise(1000, 2))
        site.put(other=noise(1000, 3))
        site.put(text="far future")
        return site.files


def unordered_tids(directory: Path) -> SiteFiles:
    """The clock stepped back: the third transaction has an earlier TID than the one before it."""
    return _with_tids(directory, [START + 10 * MINUTE, START + 5 * MINUTE, START + 20 * MINUTE])


def equal_tids(directory: Path) -> SiteFiles:
    """Two transactions share one TID."""
    return _with_tids(directory, [START + 10 * MINUTE, START + 10 * MINUTE, START + 20 * MINUTE])


def _with_tids(directory: Path, moments: list[datetime]) -> SiteFiles:
    with Site(directory) as site:
        for number, moment in enumerate(moments, 1):
            records = [
                RawRecord(number, text_record(f"text {number}")),
                RawRecord(100 + number, BLOB_RECORD, noise(500, number)),
            ]
            site.write(records, tid_at(moment), description=f"number {number}")
        return site.files


# Blob records in other forms


def protocol_4_blob(directory: Path) -> SiteFiles:
    """A Blob record in pickle protocol 4, which ``ZODB.blob.is_blob_record`` and zodbpickle cannot read."""
    return _with_blob_record(directory, pickle.dumps(Blob, 4) + pickle.dumps(None, 4))


def tuple_blob(directory: Path) -> SiteFiles:
    """Blob records with the class as a tuple of module and name, without and with arguments.

    Old ZODB records and those of zodb-pgjsonb have this form.
    """
    flat, nested = ("ZODB.blob", "Blob"), (("ZODB.blob", "Blob"), None)
    return _with_blob_record(
        directory, *(pickle.dumps(form, 2) + pickle.dumps(None, 2) for form in (flat, nested))
    )


def zlib_wrapped(directory: Path) -> SiteFiles:
    """Records compressed like in zc.zlibstorage, the long ones with ``.z`` in front, the Blob record not."""
    return _transformed(directory, _compress)


def zlib_wrapped_blob(directory: Path) -> SiteFiles:
    """A compressed Blob record (zc.zlibstorage would not, as it does not get shorter)."""
    return _with_blob_record(directory, b".z" + zlib.compress(BLOB_RECORD))


def opaque(directory: Path) -> SiteFiles:
    """Records that only a wrapper with a key could read; the blob files show which belong to blobs."""
    return _transformed(directory, _encrypt)


def class_reference(directory: Path) -> SiteFiles:
    """Records that name ``ZODB.blob.Blob`` but are no blobs: a reference to a blob, a text about it."""
    with Site(directory) as site:
        site.root["holder"] = PersistentMapping({"blob": Blob(noise(1000)), "text": "ZODB.blob\nBlob\n"})
        site.commit("holder")
        site.put(text=BLOB_RECORD.decode("latin-1"))
        return site.files


def _with_blob_record(directory: Path, *forms: bytes) -> SiteFiles:
    with Site(directory) as site:
        site.put(text="one")
        site.write([RawRecord(101, forms[0], noise(1000, 1))])
        site.write([RawRecord(101, forms[-1], noise(1000, 2)), RawRecord(102, text_record("beside"))])
        return site.files


def _transformed(directory: Path, transform: Callable[[bytes], bytes]) -> SiteFiles:
    directory.mkdir(parents=True, exist_ok=True)
    files = SiteFiles(directory / "Data.fs", directory / "blobs")
    _choose_layout(files, "bushy")
    site = Site.__new__(Site)
    site.files, site.storage = files, DatedStorage(files, START)
    try:
        site.write([RawRecord(0, transform(text_record("root " * 50)))])
        for seed in (1, 2):
            site.write(
                [
                    RawRecord(1, transform(BLOB_RECORD), noise(1000, seed)),
                    RawRecord(2, transform(text_record("text " * 50))),
                ]
            )
    finally:
        site.storage.close()
    return files


def _compress(record: bytes) -> bytes:
    compressed = b".z" + zlib.compress(record)
    return compressed if len(compressed) < len(record) else record


def _encrypt(record: bytes) -> bytes:
    key = noise(len(record), 99)
    return b".e" + bytes(one ^ two for one, two in zip(record, key, strict=True))


# Files that are incomplete or not readable


def pending_bytes(tid: bytes, position: int, status: bytes = b"c") -> bytes:
    """Return a transaction with one record as ``tpc_vote`` writes it at a position."""
    head = b"user" + b"description" + pickle.dumps({}, 3)
    data = text_record("never committed")
    length = TRANSACTION.size + len(head) + RECORD.size + len(data)
    header = TRANSACTION.pack(tid, length, status, 4, 11, len(head) - 15)
    record = RECORD.pack(p64(1), tid, 0, position, 0, len(data))
    return header + head + record + data + length.to_bytes(8, "big")


def tear(data_fs: Path, tail: str) -> int:
    """Append an unfinished transaction; return the position where the finished ones end.

    ``header``: half a header; ``head``: the header alone; ``record``: half of the record; ``length``: without
    the closing length, status ``c``; ``pending``: complete with status ``c``; ``short``: status is a space
    but the end is missing; ``closing``: a wrong closing length.
    """
    end = data_fs.stat().st_size
    tid = tid_at(START + timedelta(days=30))
    with data_fs.open("ab") as stream:
        stream.write(_torn(tail, tid, end))
    return end


def _torn(tail: str, tid: bytes, position: int) -> bytes:
    pending, finished = pending_bytes(tid, position), pending_bytes(tid, position, b" ")
    return {
        "header": pending[:10],
        "head": pending[: TRANSACTION.size],
        "record": pending[: len(pending) // 2],
        "length": pending[:-8],
        "pending": pending,
        "short": finished[:-20],
        "closing": finished[:-8] + bytes(8),
    }[tail]


TAILS = ("header", "head", "record", "length", "pending", "short")


def torn(directory: Path, tail: str = "pending") -> SiteFiles:
    """The site of ``populate`` with an unfinished transaction at the end, see ``tear``."""
    files = populate(directory)
    tear(files.data_fs, tail)
    return files


def python_2(directory: Path) -> SiteFiles:
    """A Data.fs with the magic of Python 2, which no current ZODB opens."""
    files = populate(directory)
    with files.data_fs.open("r+b") as stream:
        stream.write(b"FS21")
    return files


BUILDERS: dict[str, Callable[[Path], SiteFiles]] = {
    builder.__name__: builder
    for builder in (
        populate,
        lawn,
        only_root,
        packed,
        undone_blob_change,
        undone_undo,
        uncreated,
        recreated,
        undone_into_packed,
        twice_in_one_transaction,
        empty_transactions,
        long_texts,
        big_transaction,
        future_tids,
        class_reference,
        protocol_4_blob,
        tuple_blob,
        zlib_wrapped_blob,
        zlib_wrapped,
        opaque,
    )
}
UNUSUAL: dict[str, Callable[[Path], SiteFiles]] = {
    builder.__name__: builder
    for builder in (without_transactions, unordered_tids, equal_tids, torn, python_2)
}
UNREADABLE = ("protocol_4_blob", "tuple_blob", "zlib_wrapped_blob", "zlib_wrapped", "opaque")
