"""Writes the ``Data.fs.index`` that spares FileStorage the scan of the whole file at its next start.

Needs memory for an entry per object; callers run it in a process of its own: ``python -m
zodb_vault.datafs.index INDEX`` reads entries (see ``records``) from its standard input, later ones instead of
earlier ones of the same OID, and at their end one of ``END`` and the length of the file; without that whoever
knows the entries has died, and nothing is written. Format: ZODB/fsIndex.py of ZODB 6 (``fsIndex.save``).
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
    """Write the index durably under the name ``index``; return how many objects it names.

    Raise EOFError when the end of the entries is missing.
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
