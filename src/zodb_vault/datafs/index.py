"""Writes the ``Data.fs.index`` that spares FileStorage the scan of the whole file at its next start.

Needs memory for an entry per object; callers run it in a process of its own: ``python -m zodb_vault.datafs.index DATA_FS INDEX``.
Format: ZODB/fsIndex.py of ZODB 6 (``fsIndex.save``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .records import LENGTH, MAGIC, RECORD, TRANSACTION

READ = 4 << 20


def write_index(data_fs: Path, index: Path) -> int:
    """Write the index of a whole, checked Data.fs durably under the name ``index``; return how many objects it names."""
    from ZODB.fsIndex import fsIndex

    positions = fsIndex()
    with data_fs.open("rb", buffering=READ) as file:
        size = os.fstat(file.fileno()).st_size
        pos = len(MAGIC)
        while pos < size:
            file.seek(pos)
            _tid, length, status, *texts = TRANSACTION.unpack(file.read(TRANSACTION.size))
            if status != b"u":
                _add_records(file.fileno(), positions, pos + TRANSACTION.size + sum(texts), pos + length)
            pos += length + LENGTH.size
    positions.save(pos, str(index))
    with index.open("rb") as written:
        os.fsync(written.fileno())
    return len(positions)


def _add_records(fd: int, positions: object, pos: int, end: int) -> None:
    while pos < end:
        fields = RECORD.unpack(os.pread(fd, RECORD.size, pos))
        positions[fields[0]] = pos  # type: ignore[index]
        pos += RECORD.size + (fields[5] or 8)


if __name__ == "__main__":
    write_index(Path(sys.argv[1]), Path(sys.argv[2]))
