"""Random walks of a site: texts and blobs that come, change and go, undone transactions and packs."""

from __future__ import annotations

import random

from persistent.TimeStamp import TimeStamp
from relstorage_sites import OpenRelSite, content
from relstorage_vault import NOISE
from ZODB.POSException import UndoError
from ZODB.serialize import referencesf

STEPS = ("text", "text", "blob", "blob", "remove", "undo", "undo", "pack")


class Walk:
    """A random walk of a site: its commits ``tids``, the content ``states`` of each, the pack ``packed``."""

    def __init__(self, opened: OpenRelSite, seed: int, *, blobs_undone: bool = True) -> None:
        self.opened, self.random = opened, random.Random(seed)
        self.tids: list[bytes] = []
        self.blobs_undone = blobs_undone
        self.packed = bytes(8)
        self.states: dict[bytes, dict[str, str]] = {}

    def step(self, what: str) -> None:
        key = f"k{self.random.randrange(4)}"
        if what == "pack":
            self.pack()
        elif what == "undo":
            self.undo()
        elif what == "remove":
            self.put(**({key: None} if key in self.opened.root else {key: "made to be removed"}))
        elif what == "text":
            self.put(**{f"t{key}": f"text {self.random.random()}"})
        else:
            self.put(**{f"b{key}": self.random.choice(NOISE) + bytes([self.random.randrange(256)])})

    def put(self, **values: str | bytes | None) -> None:
        self.opened.put(**values)
        self.note()

    def note(self) -> None:
        self.opened.manager.begin()
        self.tids.append(self.opened.storage.lastTransaction())
        self.states[self.tids[-1]] = {key: content(value) for key, value in self.opened.root.items()}

    def undo(self) -> None:
        for one in self.opened.db.undoLog(0, 3):
            if " b" in str(one["description"]) and not self.blobs_undone:
                return
            if "put" in str(one["description"]) or "undo" in str(one["description"]):
                try:
                    self.opened.db.undo(one["id"], self.opened.manager.get())
                    self.opened.manager.get().note("undo")
                    self.opened.manager.commit()
                    self.note()
                except UndoError:
                    self.opened.manager.abort()
                return

    def pack(self) -> None:
        if len(self.tids) > 2:
            tid = self.random.choice(self.tids[:-1])
            self.opened.storage.pack(TimeStamp(tid).timeTime(), referencesf)
            self.packed = max(self.packed, tid)
            self.opened.manager.begin()
