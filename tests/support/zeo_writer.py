"""A process that keeps committing through a ZEO server, with a log like that of ``filestorage_writer``.

It writes texts and blobs, undoes, and lets the server pack.

Run as ``python zeowriter.py SOCKET CACHE LOG STOP_FILE PACK_EVERY``.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path

from filestorage_writer import Digests, Log, Packer, Writer
from ZEO.ClientStorage import ClientStorage
from ZEO.Exceptions import ServerException
from ZODB.POSException import POSError

SECONDS = 300.0


class UndoingWriter(Writer):
    """Now and then undoes its last transaction at once."""

    undone = 0

    def step(self) -> None:
        """Commit or abort a transaction, and undo one of ten."""
        before: Digests = dict(self.state)
        last = self.storage.lastTransaction()
        super().step()
        if self.random.random() < 0.1 and self.storage.lastTransaction() != last:
            self._undo(before)

    def _undo(self, before: Digests) -> None:
        self.manager.begin()
        try:
            (newest,) = self.db.undoLog(0, 1)
            self.db.undo(newest["id"], self.manager.get())
            self.manager.commit()
        except (POSError, ServerException, ValueError):  # a pack came first, or is under way
            self.manager.abort()
            return
        self.state = before
        self._note()
        self.undone += 1


def main(socket: str, cache: str, log: str, stop_file: str, pack_every: str) -> None:
    """Commit until the stop file appears."""
    end = time.monotonic() + SECONDS
    with (
        closing(Log(Path(log))) as lines,
        closing(UndoingWriter(ClientStorage(socket, blob_dir=cache), lines, 1)) as writer,
    ):
        packer = Packer(writer.storage, lines, float(pack_every))
        packer.start()
        try:
            while time.monotonic() < end and packer.is_alive() and not Path(stop_file).exists():
                writer.step()
                time.sleep(0.01)
        finally:
            packer.finish()
        lines.write({"undone": writer.undone})


if __name__ == "__main__":
    main(*sys.argv[1:])
