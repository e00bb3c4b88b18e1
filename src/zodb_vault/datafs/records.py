"""Parse the transactions and data records of a Data.fs while it is read in chunks.

A file starts with 4 bytes of magic. A transaction is a header (``>8sQcHHH``: TID, length without the last 8
bytes, status, lengths of user, description and extension), these three texts, data records, and the length
again. A data record is a header (``>8s8sQQHQ``: OID, TID, previous position, position of its transaction, 0,
length) and its data. If the length is 0, 8 bytes follow: the position of the record with the data (a
back-pointer), or 0 when the creation of the object was undone.
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
# Only two fields of the header of a data record: the position of its transaction, and the length.
RECORD_POSITION: Final = Struct(">24xQ2xQ")
# The entry of a record in an index: OID, position.
INDEX_ENTRY: Final = Struct(">8sQ")

# The data that ZODB 5 and 6 write for every blob. Other pickles with the same meaning are possible, but ZODB
# itself does not write them.
BLOB_RECORD: Final = b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."
# A pickle of the class Blob and an empty state is not longer than this in any protocol.
BLOB_RECORD_LIMIT: Final = 512
# The name of the module begins within this many bytes in such a pickle; in an object that references a blob,
# it comes later.
CLASS_NAME_LIMIT: Final = 32

ReadAt = Callable[[int, int], bytes]
"""Read (length, position) of the file; less than ``length`` bytes at its end."""


class Transaction(NamedTuple):
    """One transaction at ``pos`` with ``size`` bytes in all; ``blobs`` of its ``records`` are blobs."""

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
    """A record without data of its own: its data are those of the record at position ``back``."""

    oid: bytes
    tid: bytes
    back: int


class Defect(NamedTuple):
    """A violation of the format inside a transaction."""

    pos: int
    why: str


def is_blob(data: bytes) -> bool | None:
    """Return whether a record is that of a blob; None for an unknown encoding (an encrypting wrapper)."""
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

    This is the implementation of pickle in Python. In the one in C, a few bytes of a hostile pickle allocate
    gigabytes (LONG_BINPUT).
    """

    def find_class(self, module: str, name: str, /) -> Any:
        return _Name(module, name)

    def persistent_load(self, pid: Any, /) -> Any:
        return None


def _names_blob(data: bytes) -> bool | None:
    try:
        what = _Names(io.BytesIO(data)).load()
    except Exception:  # noqa: BLE001  hostile bytes may raise anything; then the caller looks for a blob file
        return None
    blob = ("ZODB.blob", "Blob")
    return bool(what == blob or (isinstance(what, tuple) and what and what[0] == blob))


def follow_back_pointer(read_at: ReadAt, back: int) -> bool | None:
    """Return whether a back-pointer leads to the record of a blob; an undone creation is no blob.

    Raise SourceDamaged when the chain of pointers does not lead to an earlier record.
    """
    while back:
        head = read_at(RECORD.size, back)
        if len(head) < RECORD.size:
            raise SourceDamaged(f"the back-pointer to position {back} leads beyond the end of the file")
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

    The range starts at ``start`` (0 for the beginning of the file, else the start of a transaction). Chunks
    may have any size. ``on_transaction`` is called for each finished transaction. ``blobs``, ``pointers`` and
    ``defects`` grow until ``drain`` takes them. With ``read_at``, back-pointers are followed at once,
    otherwise they are added to ``pointers``. ``entries`` grows by an ``INDEX_ENTRY`` for every record, in
    file order.
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
        self._rest = b""  # the bytes of the last chunk that are not parsed yet; they start at _base
        self._short = False  # set by a step that needs more bytes
        self._base = start
        self._next = start or len(MAGIC)
        # a function, not a bound method: that would make a cycle and keep this object until the next garbage
        # collection
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
        """Raise SourceDamaged unless the range ended exactly at the end of a transaction."""
        if self._step is not Scanner._header or self._rest or self._next != self._base:
            raise SourceDamaged(f"the range ends inside the transaction at position {self._transaction}")

    def drain(self) -> tuple[list[BlobRef], list[Pointer], list[Defect]]:
        """Return the blobs, pointers and defects found so far, and clear them."""
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
            raise SourceDamaged(f"there is no valid transaction header at position {pos}")
        if texts > len(data):
            return self._wait(offset)
        self._header_fields = (
            tid, length, status, data[body : body + user],
            data[body + user : body + user + description], data[body + user + description : texts],
        )  # fmt: skip
        self._transaction, self._end = pos, pos + length
        self._records = self._blobs = 0
        if status == b"u":  # undone in place by very old versions of ZODB: its records do not count
            self._step = Scanner._trailer
            return offset + int(length)
        self._step = Scanner._record
        return int(texts)

    def _record(self, data: bytes, offset: int) -> int:
        # This loop runs for every record of a database. For speed it uses locals instead of attributes, and
        # creates no objects for records that cannot be blobs.
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
