"""Write a ``Data.fs.index``, so that FileStorage does not scan the whole file at its next start.

It needs memory for each object, so callers run it in a process of its own: ``python -m
zodb_vault.datafs.index INDEX``. The process reads entries (``records.INDEX_ENTRY``) from its standard input.
For an OID with several entries, the last one counts. The final entry consists of ``END`` and the length of
the file; without it the parent process has died, and no index is written. Format: ZODB/fsIndex.py of ZODB 6
(``fsIndex.save``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO, Final

from .records import INDEX_ENTRY

READ: Final = INDEX_ENTRY.size << 12
END: Final = b"\xff" * 8


def write_index(entries: BinaryIO, index: Path) -> int:
    """Write the index durably to the file ``index``, and return its number of objects.

    Raise EOFError when the final entry is missing.
    """
    from ZODB.fsIndex import fsIndex

    positions, newest = fsIndex(), dict[bytes, int]()
    while chunk := entries.read(READ):
        positions.update(newest)
        newest = dict(INDEX_ENTRY.iter_unpack(chunk))
    if END not in newest:
        raise EOFError("the entries end early")
    size = newest.pop(END)
    positions.update(newest)
    positions.save(size, str(index))
    with index.open("rb") as written:
        os.fsync(written.fileno())
    return len(positions)


if __name__ == "__main__":
    write_index(sys.stdin.buffer, Path(sys.argv[1]))
