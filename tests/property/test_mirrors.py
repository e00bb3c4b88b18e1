"""Random histories with a mirror: mirror and source hold the same after undo, pack, return and interruption.

The source is read like any other, by a configuration. As it is a FileStorage, thousands of runs are cheap.
``ZODB_VAULT_MIRRORS=1000`` runs that many.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import filestorage_vault
import independent_reader
import pytest
import random_histories

from zodb_vault.model.source import Database
from zodb_vault.strategies.backend_lookup import backend_of
from zodb_vault.strategies.portable import sync
from zodb_vault.strategies.portable.mirror import held
from zodb_vault.strategies.portable.reader import Source

MIRRORS = int(os.environ.get("ZODB_VAULT_MIRRORS", "25"))
STEPS = 40
MOMENTS = ("take", "blob", "settle", "compare", "advanced", "own_file")


class Killed(BaseException):
    """Represents the end of a process: nothing catches it."""


class Following:
    """One history and its mirror."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory, self.random = directory, random.Random(seed)
        (directory / "site").mkdir(parents=True)
        self.history = random_histories.History(directory / "site", seed)
        self.mirror = directory / "mirror"
        self.older: tuple[Path, bytes] | None = None
        self.happened: Counter[str] = Counter()

    def step(self) -> None:
        what = self.random.random()
        if what < 0.65:
            self.history.step()
        elif what < 0.70:
            self.keep()
        elif what < 0.75:
            self.put_back()
        elif what < 0.85:
            self.update(killed=True)
        else:
            self.update()
            self.compare()

    def keep(self) -> None:
        """Copy the site as it is now."""
        self.history.close()
        kept = self.directory / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.history.data_fs.parent, kept)
        self.older = kept, independent_reader.headers(self.history.data_fs)[-1].tid
        self.history.open(self.history.data_fs, self.history.blob_dir)

    def put_back(self) -> None:
        """Put an older state in its place, if there is one that the model still knows."""
        if self.older is None or self.older[1] not in self.history.snapshots:
            return
        kept, tid = self.older
        self.history.close()
        shutil.rmtree(self.history.data_fs.parent)
        shutil.copytree(kept, self.history.data_fs.parent)
        self.history.reset_to(self.history.data_fs, self.history.blob_dir, tid)
        self.happened["put back"] += 1

    def update(self, *, killed: bool = False) -> None:
        files = self.history.data_fs, self.history.blob_dir
        text = "<filestorage>\npath {}\nblob-dir {}\nread-only true\n</filestorage>\n".format(*files)
        database = Database(name="main", backend="zeo", options={"server": "nowhere"})
        progress = filestorage_vault.Quiet()
        done = False
        with (
            held(self.mirror) as mirror,
            contextlib.closing(Source(database, backend_of(database), text, mirror.cache)) as source,
            self.killing(killed),
        ):
            update = sync.Update(mirror, source, "machine", progress)
            self.happened["copied"] += update.run(renew=None, take_over=False).transactions
            self.happened["again"] += any("is made again" in note for note in progress.notes)
            done = True
        if not done:
            self.happened["killed"] += 1
            self.spoil()

    @contextlib.contextmanager
    def killing(self, wanted: bool) -> Any:
        """End at a random call, if there are so many, without any cleanup."""
        if not wanted:
            yield
            return
        name, left = self.random.choice(MOMENTS), self.random.randrange(1, 6)
        real = getattr(sync.Copy, name)

        def dying(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left <= 0:
                patch.setattr(sync.Copy, "settle", lambda _self: None)
                raise Killed
            return real(*arguments)

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(sync, "BATCH_BYTES", 3000)
            patch.setattr(sync.Copy, name, dying)
            yield

    def spoil(self) -> None:
        """Leave what a power failure may leave of what was not known to be right."""
        with held(self.mirror) as mirror:
            checked = mirror.read()
            known = (checked and checked.last_tid) or "0x"
            with mirror.data_fs.open("ab") if mirror.data_fs.exists() else contextlib.nullcontext() as file:
                if file:
                    file.write(self.random.randbytes(self.random.randrange(200)))
            for path in mirror.blob_dir.rglob("*.blob"):
                if f"0x{int(path.stem, 16):016x}" > known and (
                    checked is None or f"0x{int(path.stem, 16):016x}" > (checked.kept_until or "0x")
                ):
                    path.chmod(0o600)
                    path.write_bytes(b"")

    def compare(self) -> None:
        ours = independent_reader.transactions(self.mirror / "Data.fs", self.mirror / "blobs")
        theirs = independent_reader.transactions(self.history.data_fs, self.history.blob_dir)
        if ours != theirs and any("without_collection" in line for line in self.history.journal):
            # a pack that collected garbage and nothing else, to a time before the last one, leaves no sign
            self.happened["garbage"] += 1
            known = {(one.tid, *record) for one in ours for record in one.records}
            assert known >= {(one.tid, *record) for one in theirs for record in one.records}
        else:
            assert ours == theirs
        assert (
            random_histories.read_state(self.mirror / "Data.fs", self.mirror / "blobs") == self.history.state
        )


def run(directory: Path, seed: int) -> Counter[str]:
    following = Following(directory, seed)
    try:
        for _ in range(STEPS):
            following.step()
        following.update()
        following.compare()
    except BaseException:
        print(f"seed {seed}", *following.history.journal, sep="\n")
        raise
    finally:
        following.history.close()
    return following.happened


def test_a_mirror_follows_its_source(tmp_path: Path) -> None:
    happened: Counter[str] = Counter()
    for seed in range(MIRRORS):
        happened += run(tmp_path / str(seed), seed)
        shutil.rmtree(tmp_path / str(seed))
    assert min(happened[what] for what in ("copied", "again", "killed", "put back")) > 0, happened
    assert happened["garbage"] <= MIRRORS
