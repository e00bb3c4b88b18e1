"""Receive what ``COPY ... TO STDOUT`` writes: rows in the binary format of PostgreSQL, or as text.

A set of OIDs is stored as rows of a number and 1024 bits, in files of 4096 rows: a file stays the same as
long as no object comes or goes in it, so that the next backup can use it again.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable
from typing import Final

from ...errors import VaultError
from ...model.manifest import Part, RowFile
from ..base import ContentSink
from ..sql.snapshot import PIECE

HEARTBEAT_SECONDS: Final = 2.0
# The binary format of COPY: signature, flags, length of an extension; and what follows the last row.
HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER: Final = b"\xff\xff"
BITS: Final = 1024
SET_ROW: Final = struct.Struct(f">hiqii{BITS // 8}s")
SET_COLUMNS: Final = ("base", "bits")
ROWS_OF_FILE: Final = 4096


class RowReceiver:
    """What ``COPY`` writes into.

    Content of up to ``held`` bytes is held back until it is known whether it is wanted.
    """

    def __init__(
        self, begin: Callable[[], ContentSink], heartbeat: Callable[[], None], held: int = 0
    ) -> None:
        self._begin, self._heartbeat, self._held = begin, heartbeat, held
        self._content: ContentSink | None = None
        self._buffer = bytearray()
        self._next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Take the next bytes; psycopg2 calls this."""
        self._buffer += data
        if len(self._buffer) >= max(PIECE, self._held):
            self._flush()
        return len(data)

    def _flush(self) -> None:
        self._held = 0
        self._content = self._content or self._begin()
        self.digest.update(self._buffer)
        self._content.write(bytes(self._buffer))
        self._buffer.clear()
        if time.monotonic() > self._next_heartbeat:
            self._heartbeat()
            self._next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS

    def digest_of_all(self) -> str:
        """Return the digest of everything that was written."""
        self._flush()
        return self.digest.hexdigest()

    def same_as(self, digest: str) -> bool:
        """Tell whether everything was held back and has this digest."""
        return self._content is None and hashlib.sha256(self._buffer).hexdigest() == digest

    def close(self) -> list[Part]:
        """Store the rest, and return the parts of all."""
        self._flush()
        assert self._content is not None
        return self._content.close()


class SetReceiver:
    """Splits the rows of a set, which all have the same length, into files by their numbers."""

    def __init__(self, store: Callable[[int, bytes], RowFile], heartbeat: Callable[[], None]) -> None:
        self._store, self._heartbeat = store, heartbeat
        self._buffer = bytearray()
        self._begun = False
        self._file: tuple[int, bytearray] | None = None
        self._files: list[RowFile] = []

    def write(self, data: bytes) -> int:
        """Take the next bytes; psycopg2 calls this."""
        self._buffer += data
        if not self._begun and len(self._buffer) >= len(HEADER):
            self._begun = True
            del self._buffer[: len(HEADER)]
        while self._begun and len(self._buffer) >= SET_ROW.size:
            self._row(bytes(self._buffer[: SET_ROW.size]))
            del self._buffer[: SET_ROW.size]
        return len(data)

    def _row(self, row: bytes) -> None:
        number = int(SET_ROW.unpack(row)[2]) // ROWS_OF_FILE
        if self._file is not None and self._file[0] != number:
            self._end()
        if self._file is None:
            self._file = number, bytearray()
            self._heartbeat()
        self._file[1].extend(row)

    def _end(self) -> None:
        if self._file is not None:
            self._files.append(self._store(self._file[0], bytes(self._file[1])))
        self._file = None

    def finish(self) -> list[RowFile]:
        """Return all files."""
        if bytes(self._buffer) != TRAILER:
            raise VaultError(
                "the server did not give the keys in the requested form",
                "tell the developers of zodb-vault",
            )
        self._end()
        return self._files
