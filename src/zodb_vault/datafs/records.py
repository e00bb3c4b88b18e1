"""Transactions and data records of a Data.fs, parsed while its bytes pass by.

A file starts with 4 bytes of magic. A transaction is a header (``>8sQcHHH``: TID, length without the last 8
bytes, status, lengths of user, description and extension), these three texts, data records, and the length
again. A data record is a header (``>8s8sQQHQ``: OID, TID, previous position, position of its transaction, 0,
length) and its data; length 0 means that 8 bytes follow, the position of the record that holds the data (0:
object un-created).
"""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Callable
from struct import Struct
from typing import Any, Final, NamedTuple

from ..errors import SourceDamaged
from ..model.blob import BlobRef

MAGIC: Final = b"FS30"
PYTHON_2_MAGIC: Final = b"FS21"
TRANSACTION: Final = Struct(">8sQcHHH")
RECORD: Final = Struct(">8s8sQQHQ")
LENGTH: Final = Struct(">Q")
# Of a data record header only the position of its transaction and the length.
RECORD_POSITION: Final = Struct(">24xQ2xQ")
# What an index knows of a record: OID, position.
INDEX_ENTRY: Final = Struct(">8sQ")

# What ZODB 5 and 6 write for every blob; other pickles of the same are possible but not seen from ZODB
# itself.
BLOB_RECORD: Final = b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."
# No pickle of the class Blob and an empty state is longer, whatever its protocol.
BLOB_RECORD_LIMIT: Final = 512
# In none of them is the name of its module further behind; in objects that refer to a blob it is.
CLASS_NAME_LIMIT: Final = 32

ReadAt = Callable[[int, int], bytes]
"""Read (length, position) of the file; less than ``length`` bytes at its end."""


class Transaction(NamedTuple):
    """One transaction at ``pos``; ``size`` bytes with everything, ``blobs`` of its ``records`` are blobs."""

    tid: bytes
    pos: int
    size: int
    status: bytes
    records: int
    blobs: int
    user: bytes
    description: bytes
    extension: bytes


class Pointer(NamedTuple):
    """A record without data of its own: those at position ``back`` are meant."""

    oid: bytes
    tid: bytes
    back: int


class Defect(NamedTuple):
    """Something inside a transaction that is not as the format demands."""

    pos: int
    why: str


def is_blob(data: bytes) -> bool | None:
    """Tell whether a record is a blob's; None when its encoding is not known (an encrypting wrapper)."""
    if data == BLOB_RECORD:
        return True
    if data[:2] == b".z":
        return _is_compressed_blob(data[2:])
    if b"ZODB.blob" in data[:CLASS_NAME_LIMIT]:
        return _names_blob(data)
    if (
        len(data) > 2
        and data[-1:] == b"."
        and (data[:1] in b"(c" or (data[0] == 0x80 and data[1] <= pickle.HIGHEST_PROTOCOL))
    ):
        return False
    return None


def _is_compressed_blob(data: bytes) -> bool | None:
    try:
        return is_blob(zlib.decompressobj().decompress(data, 2 * BLOB_RECORD_LIMIT))
    except zlib.error:
        return None


class _Name(NamedTuple):
    module: str
    name: str


class _Names(pickle._Unpickler):
    """Loads the class part of a record without importing or calling anything.

    Of the two implementations the one in Python: three bytes of a pickle make the other one fill gigabytes
    (LONG_BINPUT).
    """

    def find_class(self, module: str, name: str, /) -> Any:
        return _Name(module, name)

    def persistent_load(self, pid: Any, /) -> Any:
        return None


def _names_blob(data: bytes) -> bool | None:
    try:
        what = _Names(io.BytesIO(data)).load()
    except Exception:  # noqa: BLE001  whatever hostile bytes raise: only the file can tell then
        return None
    blob = ("ZODB.blob", "Blob")
    return bool(what == blob or (isinstance(what, tuple) and what and what[0] == blob))


def follow_back_pointer(read_at: ReadAt, back: int) -> bool | None:
    """Tell whether the record that a back-pointer leads to is a blob's; an un-created object is not.

    Raise SourceDamaged when the chain of pointers does not descend to a record.
    """
    while back:
        head = read_at(RECORD.size, back)
        if len(head) < RECORD.size:
            raise SourceDamaged(f"the back-pointer to position {back} leads behind the end of the file")
        length = RECORD.unpack(head)[5]
        if length:
            return is_blob(read_at(length, back + RECORD.size)) if length <= BLOB_RECORD_LIMIT else False
        further = LENGTH.unpack(read_at(LENGTH.size, back + RECORD.size))[0]
        if further >= back:
            raise SourceDamaged(f"the back-pointer at position {back} leads forward")
        back = further
    return False


class Scanner:
    """Finds transactions, blob references and back-pointers in a range of a Data.fs that is fed in order.

    The range starts at ``start`` (0 for the head of the file, else the start of a transaction) and may be fed
    in chunks of any size. ``on_transaction`` is called for each finished one; ``blobs``, ``pointers`` and
    ``defects`` grow until ``drain`` takes them. With ``read_at`` back-pointers are followed at once, without
    it they are left in ``pointers``. ``entries`` grows by an ``ENTRY`` for every record, in their order.
    """

    def __init__(
        self,
        start: int,
        on_transaction: Callable[[Transaction], None],
        read_at: ReadAt | None = None,
        entries: bytearray | None = None,
    ) -> None:
        self.blobs: list[BlobRef] = []
        self.pointers: list[Pointer] = []
        self.defects: list[Defect] = []
        self._emit = on_transaction
        self._read_at = read_at
        self._entries = entries
        self._rest = b""  # bytes of the last chunk that are not parsed yet, they start at _base
        self._short = False  # a step sets it when it needs more bytes than there are
        self._base = start
        self._next = start or len(MAGIC)
        # a function and no method of this object, which would keep it, and all that it leads to, until a
        # garbage collection
        self._step: Callable[[Scanner, bytes, int], int] = Scanner._header
        self._header_fields: tuple[bytes, int, bytes, bytes, bytes, bytes] = (b"", 0, b"", b"", b"", b"")
        self._transaction = 0
        self._end = 0
        self._records = 0
        self._blobs = 0

    def feed(self, chunk: bytes) -> None:
        """Parse as far as the bytes reach; raise SourceDamaged when the chain of transactions breaks."""
        data = self._rest + chunk if self._rest else chunk
        base, limit = self._base, len(data)
        offset = self._next - base
        self._short = False
        while offset < limit and not self._short:
            offset = self._step(self, data, offset)
        self._next = base + offset
        self._rest = data[offset:] if offset < limit else b""
        self._base = base + min(offset, limit)

    def finish(self) -> None:
        """Raise SourceDamaged unless the range ended exactly behind a transaction."""
        if self._step is not Scanner._header or self._rest or self._next != self._base:
            raise SourceDamaged(f"the range ends inside the transaction at position {self._transaction}")

    def drain(self) -> tuple[list[BlobRef], list[Pointer], list[Defect]]:
        """Return and forget what was found so far."""
        found = self.blobs, self.pointers, self.defects
        self.blobs, self.pointers, self.defects = [], [], []
        return found

    def _header(self, data: bytes, offset: int) -> int:
        if offset + TRANSACTION.size > len(data):
            return self._wait(offset)
        tid, length, status, user, description, extension = TRANSACTION.unpack_from(data, offset)
        pos = self._base + offset
        body = offset + TRANSACTION.size
        texts = body + user + description + extension
        if length < texts - offset:
            raise SourceDamaged(f"the transaction header at position {pos} is not one")
        if texts > len(data):
            return self._wait(offset)
        self._header_fields = (
            tid, length, status, data[body : body + user],
            data[body + user : body + user + description], data[body + user + description : texts],
        )  # fmt: skip
        self._transaction, self._end = pos, pos + length
        self._records = self._blobs = 0
        if status == b"u":  # undone in place by ancient versions: its records do not count
            self._step = Scanner._trailer
            return offset + int(length)
        self._step = Scanner._record
        return int(texts)

    def _record(self, data: bytes, offset: int) -> int:
        # the loop that sees every record of a database: no attributes and no objects for those that cannot be
        # blobs
        base, limit, transaction = self._base, len(data), self._transaction
        place, size, stop = RECORD_POSITION.unpack_from, RECORD.size, self._end - self._base
        records, entries, entry = self._records, self._entries, INDEX_ENTRY.pack
        while offset < stop:
            if offset + size > limit:
                self._records = records
                if offset + size > stop:
                    return self._defective(base + offset)
                return self._wait(offset) if offset < limit else offset
            owner, length = place(data, offset)
            after = offset + size + (length or 8)
            if owner != transaction or after > stop:
                self._records = records
                return self._defective(base + offset)
            if length <= BLOB_RECORD_LIMIT:
                if after > limit:
                    self._records = records
                    return self._wait(offset)
                self._may_be_blob(data, offset, after, length)
            if entries is not None:
                entries += entry(data[offset : offset + 8], base + offset)
            records += 1
            offset = after
        self._records, self._step = records, Scanner._trailer
        return offset

    def _may_be_blob(self, data: bytes, offset: int, after: int, length: int) -> None:
        body = offset + RECORD.size
        if length:
            found = is_blob(data[body:after])
            if found is not False:
                self._found(data[offset : offset + 8], data[offset + 8 : offset + 16], bool(found))
        elif back := LENGTH.unpack_from(data, body)[0]:
            self._pointer(
                data[offset : offset + 8], data[offset + 8 : offset + 16], back, self._base + offset
            )

    def _wait(self, offset: int) -> int:
        self._short = True
        return offset

    def _found(self, oid: bytes, tid: bytes, sure: bool) -> None:
        self.blobs.append(BlobRef(oid, tid, sure))
        self._blobs += 1

    def _pointer(self, oid: bytes, tid: bytes, back: int, pos: int) -> None:
        if back >= pos:
            self.defects.append(Defect(pos, "back-pointer leads forward"))
        elif self._read_at is None:
            self.pointers.append(Pointer(oid, tid, back))
        else:
            try:
                found = follow_back_pointer(self._read_at, back)
            except SourceDamaged as error:
                self.defects.append(Defect(pos, error.message))
                return
            if found is not False:
                self._found(oid, tid, bool(found))

    def _defective(self, pos: int) -> int:
        self.defects.append(
            Defect(pos, f"data record does not belong to the transaction at position {self._transaction}")
        )
        self._step = Scanner._trailer
        return self._end - self._base

    def _trailer(self, data: bytes, offset: int) -> int:
        if offset + LENGTH.size > len(data):
            return self._wait(offset)
        tid, length, status, user, description, extension = self._header_fields
        if LENGTH.unpack_from(data, offset)[0] != length:
            raise SourceDamaged(
                f"the transaction at position {self._transaction} does not repeat its length at its end"
            )
        self._step = Scanner._header
        self._emit(
            Transaction(
                tid,
                self._transaction,
                length + 8,
                status,
                self._records,
                self._blobs,
                user,
                description,
                extension,
            )
        )
        return offset + LENGTH.size
