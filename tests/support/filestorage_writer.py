"""A process that keeps committing to a FileStorage, and writes down what must be visible after every commit.

Run as ``python filestorage_writer.py DATA_FS BLOB_DIR LOG``. Each line of the log is JSON: ``{"tid": "0x...",
"state": {key: sha256}}`` after a commit, ``{"aborted": 1}``, ``{"packed": seconds}``. Packs run in a thread
beside the commits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import random_histories
import transaction
from persistent.mapping import PersistentMapping
from ZODB import DB
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage
from ZODB.serialize import referencesf

KEYS = 30
Digests = dict[str, str]


def read_log(log: Path) -> dict[bytes, Digests]:
    """Return TID to what must be visible then; a torn last line is left out."""
    lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return {bytes.fromhex(line["tid"][2:]): line["state"] for line in lines if "tid" in line}


def digests(data_fs: Path, blob_dir: Path) -> Digests:
    """Return what files show through a read-only Connection, in the form of the log."""
    return {key: digest(value) for key, value in random_histories.read_state(data_fs, blob_dir).items()}


def digest(value: str | bytes) -> str:
    """Return the SHA-256 of a text or a blob."""
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


class Log:
    """The append-only log, flushed after every line, shared by two threads."""

    def __init__(self, path: Path) -> None:
        self.stream = path.open("a")
        self.lock = threading.Lock()

    def write(self, line: dict[str, Any]) -> None:
        """Append one line."""
        with self.lock:
            self.stream.write(json.dumps(line) + "\n")
            self.stream.flush()

    def close(self) -> None:
        """Close the file."""
        self.stream.close()


class Writer:
    """Commits texts and blobs, new and changed, and aborts now and then."""

    def __init__(self, storage: FileStorage, log: Log, seed: int) -> None:
        self.storage, self.log = storage, log
        self.random = random.Random(seed)
        self.db = DB(storage)
        self.manager = transaction.TransactionManager()
        self.connection = self.db.open(self.manager)
        self.state: Digests = {
            key: digest(value) for key, value in random_histories.walk_connection(self.connection.root())
        }
        self._note()

    def step(self) -> None:
        """Commit or abort one transaction."""
        self.manager.begin()
        state = dict(self.state)
        for _ in range(self.random.randrange(1, 4)):
            self._edit(state)
        if self.random.random() < 0.15:
            self._abort()
        else:
            self.manager.get().note(f"{len(state)} keys")
            self.manager.commit()
            self.state = state
            self._note()

    def _note(self) -> None:
        self.log.write({"tid": "0x" + self.storage.lastTransaction().hex(), "state": self.state})

    def _abort(self) -> None:
        fail_in = self.random.choice(["", "commit", "vote"])
        if fail_in:
            self.manager.get().join(random_histories.Saboteur(self.manager, fail_in))
            try:
                self.manager.commit()
            except random_histories.Sabotage:
                self.log.write({"aborted": 1})
        self.manager.abort()

    def _edit(self, state: Digests) -> None:
        root, number = self.connection.root(), self.random.randrange(KEYS)
        kind = self.random.choice(["text", "text", "blob", "remove"])
        if kind == "text":
            self._write_text(root, f"text-{number}", state)
        elif kind == "blob":
            self._write_blob(root, f"blob-{number}", state)
        elif f"blob-{number}" in root:
            del root[f"blob-{number}"], state[f"blob-{number}"]

    def _write_text(self, root: Any, key: str, state: Digests) -> None:
        text = f"{self.random.random()} " * self.random.randrange(1, 300)
        root.setdefault(key, PersistentMapping())["value"] = text
        state[f"{key}/value"] = digest(text)

    def _write_blob(self, root: Any, key: str, state: Digests) -> None:
        data = self.random.randbytes(self.random.choice([10, 1000, 50_000]))
        if key not in root:
            root[key] = Blob(data)
        else:
            with root[key].open("w") as stream:
                stream.write(data)
        state[key] = digest(data)

    def close(self) -> None:
        """Close the database."""
        self.manager.abort()
        self.connection.close()
        self.db.close()


class Packer(threading.Thread):
    """Packs to now at an interval; keeps the error that ended it."""

    def __init__(self, storage: FileStorage, log: Log, interval: float) -> None:
        super().__init__()
        self.storage, self.log, self.interval = storage, log, interval
        self.stop = threading.Event()
        self.failure: Exception | None = None

    def run(self) -> None:
        """Pack until the stop event is set."""
        try:
            while self.interval and not self.stop.wait(self.interval):
                begin = time.monotonic()
                self.storage.pack(time.time(), referencesf)
                self.log.write({"packed": round(time.monotonic() - begin, 3)})
        except Exception as error:  # noqa: BLE001 a thread cannot raise to its starter; ``finish`` raises it
            self.failure = error

    def finish(self) -> None:
        """Stop, and raise what went wrong."""
        self.stop.set()
        self.join()
        if self.failure is not None:
            raise self.failure


def write(options: argparse.Namespace) -> None:
    """Commit until the time is up or the stop file appears."""
    end = time.monotonic() + options.seconds
    storage = FileStorage(
        str(options.data_fs), blob_dir=str(options.blob_dir), pack_keep_old=options.keep_old
    )
    with closing(Log(options.log)) as log, closing(Writer(storage, log, options.seed)) as writer:
        packer = Packer(storage, log, options.pack_every)
        packer.start()
        try:
            while time.monotonic() < end and packer.is_alive() and not _stopped(options.stop_file):
                writer.step()
                time.sleep(options.interval)
        finally:
            packer.finish()


def _stopped(stop_file: Path | None) -> bool:
    return stop_file is not None and stop_file.exists()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_fs", type=Path)
    parser.add_argument("blob_dir", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long")
    parser.add_argument("--interval", type=float, default=0.01, help="seconds between two commits")
    parser.add_argument("--pack-every", type=float, default=0.0, help="seconds between two packs, 0 for none")
    parser.add_argument(
        "--keep-old",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep Data.fs.old and blobs.old after a pack",
    )
    parser.add_argument("--stop-file", type=Path, help="stop when this file exists")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    write(parse())
