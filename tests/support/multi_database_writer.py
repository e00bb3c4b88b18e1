"""A process that commits to all databases of a configuration in one transaction, and between to one of them.

Run as ``python multi_database_writer.py CONF``: a zope.conf, or a file of ``<zodb>`` sections, of a
FileStorage
site or of ZEO clients. After commit n
every database holds n and a blob of n; ``state_of`` reads that from files. The finish of a commit to several
takes a while, as
it does on a busy machine: so a look at one database after the other may find it in one of them only.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import transaction
import ZODB.config
from persistent.mapping import PersistentMapping
from ZODB import DB
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage

NOT_OF_ZODB = re.compile(r"^\s*(mount-point|instancehome)\b.*$", re.MULTILINE)


class State(NamedTuple):
    """What one database holds: the last common commit, its own last commit, and the content of its blob."""

    shared: int
    own: int
    blob: bytes


def content(number: int) -> bytes:
    """Return what the blob holds after a commit to all."""
    return f"{number} ".encode() * 500


def databases(conf: Path) -> dict[str, DB]:
    """Open the databases of a configuration; what only Zope knows in it is left out."""
    text = (
        NOT_OF_ZODB.sub("", conf.read_text())
        .replace("zodb_db", "zodb")
        .replace("temporarystorage", "mappingstorage")
    )
    opened: dict[str, DB] = ZODB.config.databaseFromString(text).databases
    return opened


@contextlib.contextmanager
def reading(data_fs: Path, blob_dir: Path) -> Iterator[Any]:
    """Give the root of a FileStorage that is only read."""
    db = DB(FileStorage(str(data_fs), blob_dir=str(blob_dir), read_only=True))
    connection = db.open(transaction.TransactionManager())
    try:
        yield connection.root()
    finally:
        connection.close()
        db.close()


def state_of(data_fs: Path, blob_dir: Path) -> State:
    """Return what files hold."""
    with reading(data_fs, blob_dir) as root, root["blob"].open("r") as stream:
        return State(root["shared"], root["own"], stream.read())


class Slow:
    """Takes part in a commit between two databases and does something when the first of them has finished."""

    def __init__(self, manager: Any, key: str, between: Callable[[], object]) -> None:
        self.transaction_manager, self._key, self._between = manager, key, between

    def sortKey(self) -> str:
        return self._key

    def tpc_begin(self, _transaction: Any) -> None: ...
    def commit(self, _transaction: Any) -> None: ...
    def tpc_vote(self, _transaction: Any) -> None: ...
    def tpc_abort(self, _transaction: Any) -> None: ...
    def abort(self, _transaction: Any) -> None: ...

    def tpc_finish(self, _transaction: Any) -> None:
        self._between()


class Together:
    """Writes to the databases."""

    def __init__(
        self, dbs: dict[str, DB], names: Sequence[str], between: Callable[[], object] | None = None
    ) -> None:
        self.names, self.between = names, between
        self.manager = transaction.TransactionManager()
        first = dbs[names[0]].open(self.manager)
        self.connections = {name: first if name == names[0] else first.get_connection(name) for name in names}
        self.number = self.connections[names[0]].root().get("shared", 0)

    def shared(self, description: str = "") -> int:
        """Commit to all of them."""
        self.manager.begin()
        self.number += 1
        for connection in self.connections.values():
            root = connection.root()
            root["shared"] = self.number
            root.setdefault("own", 0)
            root.setdefault(f"text-{self.number % 20}", PersistentMapping())["text"] = f"{self.number} " * 100
            if "blob" not in root:
                root["blob"] = Blob()
            with root["blob"].open("w") as stream:
                stream.write(content(self.number))
        if self.between:
            keys = sorted(connection.sortKey() for connection in self.connections.values())
            self.manager.get().join(Slow(self.manager, f"{keys[0]}~", self.between))
        self.manager.get().note(description or f"commit {self.number}")
        self.manager.commit()
        return int(self.number)

    def own(self, name: str) -> None:
        """Commit to one of them."""
        self.manager.begin()
        self.connections[name].root()["own"] += 1
        self.manager.get().note("one alone")
        self.manager.commit()

    def close(self) -> None:
        """Close the connections."""
        self.manager.abort()
        next(iter(self.connections.values())).close()


def write(options: argparse.Namespace) -> None:
    """Commit until the time is up or the stop file appears."""
    dbs = databases(options.conf)
    together = Together(dbs, options.names.split(","), lambda: time.sleep(options.finish))
    end, packed = time.monotonic() + options.seconds, time.monotonic()
    while time.monotonic() < end and not (options.stop and options.stop.exists()):
        number = together.shared()
        if number % 3 == 0:
            together.own(together.names[number % len(together.names)])
        if options.pack_every and time.monotonic() > packed + options.pack_every:
            dbs[together.names[0]].pack()
            packed = time.monotonic()
        time.sleep(options.interval)
    together.close()
    for db in dbs.values():
        db.close()


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("conf", type=Path)
    parser.add_argument("--names", default="main,catalog")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--interval", type=float, default=0.005)
    parser.add_argument("--finish", type=float, default=0.01, help="how long the finish of a commit takes")
    parser.add_argument(
        "--pack-every", type=float, default=0.0, help="seconds between two packs of the first one, 0 for none"
    )
    parser.add_argument("--stop", type=Path, help="stop when this file exists")
    return parser.parse_args()


if __name__ == "__main__":
    write(parse())
