"""Find the end of a Data.fs while a writer is running, and identify its last transaction.

Headers are read with pread, never through mmap: a writer that aborts truncates the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from ..errors import SourceDamaged
from .records import LENGTH, MAGIC, PYTHON_2_MAGIC, RECORD, TRANSACTION

DIGESTED_TAIL: Final = 64 * 1024
READ: Final = 1 << 20


class TransactionSpan(NamedTuple):
    """A finished transaction: its TID, position, end (with the trailing length) and status."""

    tid: bytes
    pos: int
    end: int
    status: bytes


class Tail(NamedTuple):
    """The end of the last finished transaction, and the state of the bytes after it.

    ``clean``: there are none. ``pending``: a writer is finishing a transaction (status ``c``). ``torn``: a
    part of an unfinished transaction.
    """

    end: int
    state: str


def check_magic(fd: int, name: str) -> None:
    """Raise SourceDamaged, with advice, unless the file is a Data.fs of Python 3."""
    magic = os.pread(fd, 4, 0)
    if magic == MAGIC:
        return
    if magic == PYTHON_2_MAGIC:
        raise SourceDamaged(
            f"{name} was written by Python 2 (FS21)",
            "migrate a copy with `zodbupdate --convert-py3` and back up the result; "
            "until then, back up this file by other means",
        )
    what = "is empty" if not magic else "is not a Data.fs (it does not start with FS30)"
    raise SourceDamaged(f"{name} {what}", "check the path given with --data-fs or in zope.conf")


class TransactionWalker:
    """Walks over the finished transactions of an open Data.fs, up to the length that it has at first."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd, self._name = fd, name
        self._size = os.fstat(fd).st_size

    def walk(self, start: int, visit: Callable[[TransactionSpan], object], until: int | None = None) -> Tail:
        """Call ``visit`` for each finished transaction from ``start`` on, and return where they end.

        With ``until``, the walk stops before a transaction that ends after this position.

        A transaction that a writer is still writing ends the walk: it has the status ``c``, or all bytes up
        to the end of the file belong to it. Anything else that cannot be parsed raises SourceDamaged, so that
        no transaction after it is dropped silently.
        """
        pos, size, fd = start or len(MAGIC), self._size, self._fd
        unpack, width = TRANSACTION.unpack, TRANSACTION.size
        head = os.pread(fd, width, pos)
        while len(head) == width:
            tid, length, status, user, description, extension = unpack(head)
            end = pos + length + 8
            if status == b"c" or end > size or length < width + user + description + extension:
                break
            block = os.pread(fd, 8 + width, end - 8)
            if len(block) < 8 or LENGTH.unpack_from(block)[0] != length:
                raise SourceDamaged(*self._broken(pos, "does not repeat its length at its end"))
            if until is not None and end > until:
                return Tail(pos, "clean")
            visit(TransactionSpan(tid, pos, end, status))
            pos, head = end, block[8:]
        return Tail(pos, self._state_after(pos, head))

    def _broken(self, pos: int, what: str) -> tuple[str, str]:
        return (
            f"{self._name} is damaged: the transaction at position {pos} {what}; {self._size - pos} "
            "bytes from there on cannot be trusted",
            "check it with `python -m ZODB.FileStorage.fstest`, "
            "then repair a copy with fsrecover, or restore a backup",
        )

    def _state_after(self, pos: int, head: bytes) -> str:
        """Return the state of the bytes from ``pos`` on, which begin with ``head``; raise SourceDamaged."""
        size = os.fstat(self._fd).st_size
        if pos >= size or not head:
            return "clean"
        if len(head) < TRANSACTION.size:
            return "torn"
        _tid, length, status, *texts = TRANSACTION.unpack(head)
        if status == b"c":
            self._require_last(pos, head, pos + length + LENGTH.size)
            return "pending"
        if length < TRANSACTION.size + sum(texts):
            if self._only_zeros(pos + TRANSACTION.size):
                return "torn"
            raise SourceDamaged(*self._broken(pos, "has an impossible header"))
        if pos + length + LENGTH.size <= size:
            return "clean"  # finished since the walk began: the next walk finds it
        self._require_unfinished(pos, pos + TRANSACTION.size + sum(texts))
        self._require_last(pos, head, size)
        return "torn"

    def _require_last(self, pos: int, head: bytes, end: int) -> None:
        """Raise SourceDamaged when there are bytes after an unfinished transaction.

        A writer finishes or removes the transaction before it writes the next one.
        """
        beyond = os.fstat(self._fd).st_size > end and not self._only_zeros(end)
        # read the header again: the transaction may have been finished in between
        if (beyond or self._ends_finished(pos, head)) and os.pread(self._fd, TRANSACTION.size, pos) == head:
            raise SourceDamaged(
                *self._broken(
                    pos, "looks unfinished, but finished data follow its header: the header is wrong"
                )
            )

    def _ends_finished(self, pos: int, head: bytes) -> bool:
        """Return whether the file ends with the length of a transaction that begins at ``pos`` or later.

        Then the transaction at ``pos`` is complete, although its header says that it is unfinished.
        """
        size = os.fstat(self._fd).st_size
        length = int.from_bytes(os.pread(self._fd, LENGTH.size, size - LENGTH.size))
        start = size - LENGTH.size - length
        if start == pos:
            return head[16:17] != b"c"
        other = os.pread(self._fd, TRANSACTION.size, start) if start > pos else b""
        return len(other) == TRANSACTION.size and bool(TRANSACTION.unpack(other)[1] == length)

    def _require_unfinished(self, transaction: int, pos: int) -> None:
        """Raise SourceDamaged unless the records reach the end of the file, as unfinished ones do."""
        while True:
            head = os.pread(self._fd, RECORD.size, pos)
            if len(head) == RECORD.size and RECORD.unpack(head)[3] == transaction:
                pos += RECORD.size + (RECORD.unpack(head)[5] or 8)
            elif head[: LENGTH.size] == LENGTH.pack(pos - transaction) or not self._only_zeros(
                pos + RECORD.size
            ):
                raise SourceDamaged(*self._broken(transaction, "has a wrong length in its header"))
            else:
                return

    def _only_zeros(self, pos: int) -> bool:
        # a power loss can leave a tail that was allocated and never written
        while chunk := os.pread(self._fd, READ, pos):
            if chunk.count(0) != len(chunk):
                return False
            pos += len(chunk)
        return True


def tail_digest(fd: int, pos: int, end: int) -> str:
    """Return the digest that identifies the transaction from ``pos`` to ``end``.

    It is the SHA-256 of the header, the last 64 KiB and the length. If ``pos`` is ``end``, there is no
    transaction, and it is the digest of the magic alone.
    """
    if pos == end:
        return hashlib.sha256(os.pread(fd, len(MAGIC), 0)).hexdigest()
    digest = hashlib.sha256(os.pread(fd, TRANSACTION.size, pos))
    start = max(pos, end - DIGESTED_TAIL)
    digest.update(os.pread(fd, end - start, start))
    digest.update(LENGTH.pack(end - pos))
    return digest.hexdigest()


def backwards(fd: int, end: int) -> Iterator[TransactionSpan]:
    """Yield the finished transactions before ``end``, newest first, by the lengths at their ends."""
    while end > len(MAGIC):
        length = LENGTH.unpack(os.pread(fd, 8, end - 8))[0]
        pos = end - 8 - length
        head = os.pread(fd, TRANSACTION.size, pos) if pos >= len(MAGIC) else b""
        if len(head) < TRANSACTION.size or TRANSACTION.unpack(head)[1] != length:
            raise SourceDamaged(
                f"the transaction that ends at position {end} has no header where its length says"
            )
        tid, _length, status, *_ = TRANSACTION.unpack(head)
        yield TransactionSpan(tid, pos, end, status)
        end = pos
