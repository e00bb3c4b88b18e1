"""The site of the demo: a process that keeps committing pages with images.

An append-only log says what must be visible after each commit.

Run as ``python site_writer.py SITE LOG STOP``; it ends when the file STOP appears.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import transaction
from persistent.mapping import PersistentMapping
from ZODB import DB
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage

PAGES = 100
INTERVAL = 0.06
EDITORS = ("anna", "ben", "chris")
# name of a page -> SHA-256 of its text and its image
Pages = dict[str, str]


def recorded(log: Path) -> dict[str, Pages]:
    """Return what was visible after each transaction, by TID; an unfinished last line is left out."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return {entry["tid"]: entry["pages"] for entry in entries}


def pages_of(directory: Path) -> tuple[str, Pages]:
    """Return the last TID of a site and its pages, read with plain ZODB."""
    with opened(directory) as (storage, root):
        pages = {name: digest(root[name]["text"], root[name]["image"].open("r").read()) for name in root}
        return f"0x{storage.lastTransaction().hex()}", pages


def an_image(directory: Path) -> Path:
    """Return the file of an image that a page of a site shows."""
    with opened(directory) as (_storage, root):
        return Path(root[max(root)]["image"].committed())


@contextmanager
def opened(directory: Path) -> Iterator[tuple[FileStorage, Any]]:
    """Give a site's storage and root object, read-only."""
    database = DB(FileStorage(str(directory / "Data.fs"), blob_dir=str(directory / "blobs"), read_only=True))
    connection = database.open()
    try:
        yield database.storage, connection.root()
    finally:
        connection.close()
        database.close()


def digest(text: str, image: bytes) -> str:
    """Return the SHA-256 of a page."""
    return hashlib.sha256(text.encode() + b"\0" + image).hexdigest()


class Writer:
    """Adds, changes and removes pages at random."""

    def __init__(self, site: Path, log: Path) -> None:
        self.random, self.pages = random.Random(1), Pages()
        self.storage = FileStorage(str(site / "Data.fs"), blob_dir=str(site / "blobs"))
        self.database = DB(self.storage)
        self.connection = self.database.open()
        self.log = log.open("a")
        for number in range(0, PAGES, 2):
            self.put(f"page-{number}", "The first text. " * 40, self.random.randbytes(100_000))
        transaction.commit()
        self.note()

    def step(self) -> None:
        """Commit one transaction, then write down what is there."""
        root, name = self.connection.root(), f"page-{self.random.randrange(PAGES)}"
        if name in root and self.random.random() < 0.15:
            del root[name], self.pages[name]
            what = f"remove {name}"
        else:
            what = f"{'change' if name in root else 'add'} {name}"
            self.put(
                name,
                f"text {self.random.random()} " * 40,
                self.random.randbytes(self.random.randrange(100, 20_000)),
            )
        current = transaction.get()
        current.note(what)
        current.user = self.random.choice(EDITORS)
        transaction.commit()
        self.note()

    def put(self, name: str, text: str, image: bytes) -> None:
        """Add or change a page."""
        root = self.connection.root()
        if name not in root:
            root[name] = PersistentMapping(image=Blob())
        page = root[name]
        page["text"] = text
        with page["image"].open("w") as stream:
            stream.write(image)
        self.pages[name] = digest(text, image)

    def note(self) -> None:
        """Append to the log what is visible now."""
        self.log.write(
            json.dumps({"tid": f"0x{self.storage.lastTransaction().hex()}", "pages": self.pages}) + "\n"
        )
        self.log.flush()

    def close(self) -> None:
        """Close the site."""
        self.connection.close()
        self.database.close()
        self.log.close()


def main(site: Path, log: Path, stop: Path) -> None:
    """Write until told to stop."""
    with closing(Writer(site, log)) as writer:
        while not stop.exists() and log.parent.exists():
            writer.step()
            time.sleep(INTERVAL)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
