"""Undo an interrupted restore of a Data.fs, or remove the old state that a finished restore kept."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Literal

from ....blobs.layout import MARKER
from ....errors import TargetRefused
from ....model.restore import UnfinishedRestore
from ....runtime import durable
from ....runtime.ownership import TEMPORARY as NEW
from ...blobs.kept import ADDED
from ...destination import UndoneRestore
from ..lock import bar, unbar
from . import journal as journals
from .journal import Journal
from .old_data_fs import blob_dir_of, kept_paths, kept_suffix, leftovers
from .paths import DataFsPaths

InPlace = Literal["new", "old", "nothing"]


class DataFsUndo(UndoneRestore):
    """Puts the replaced state back; the caller holds the lock of the storage.

    The steps are those of a restore in reverse. First comes back what only the old file needs, then the old
    file becomes valid, then everything goes away that only the new file needs. Raise TargetRefused when the
    site has written to the restored file.
    """

    def __init__(self, paths: DataFsPaths, journal: Journal) -> None:
        self._paths, self._journal = paths, journal
        self._in_place = what_is_in_place(paths, journal)

    @property
    def unfinished(self) -> UnfinishedRestore:
        """Return the restore that is undone."""
        return journals.unfinished(self._journal)

    def free_space(self) -> None:
        """Remove a new Data.fs that never became valid."""
        if self._journal.phase == "building":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._paths.building(self._journal))

    def begin(self) -> None:
        """Write in the journal that the old state is being put back."""
        self._journal = journals.advance(self._paths.data_fs, self._journal, phase="aborting")

    def prepare(self) -> None:
        """Put back the blobs of the old state that the restore moved away."""
        _put_back_blobs(self._paths, self._journal, replaced=False)

    def bar(self) -> None:
        """Prevent every process from opening the storage for writing."""
        bar(self._paths.configured)

    def put_back(self) -> None:
        """Rename the replaced file back to its old name; if there was none, remove the new file."""
        paths, replaced = self._paths, self._paths.replaced(self._journal)
        if self._in_place != "old":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(paths.index)
            durable.sync_directory(paths.index.parent)
        if replaced is not None and replaced.exists():
            if self._in_place == "old":
                os.unlink(replaced)
            else:
                os.rename(replaced, paths.data_fs)
        elif self._in_place == "new":
            os.unlink(paths.data_fs)
        for path in (paths.building(self._journal), paths.new_index(self._journal)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        suffix = kept_suffix(self._journal.restore)
        for leftover in leftovers(paths, suffix):
            os.rename(leftover, str(leftover).removesuffix(suffix))
        durable.sync_directory(paths.data_fs.parent)

    def unbar(self) -> None:
        """Let processes open the storage again."""
        unbar(self._paths.configured)

    def tidy(self) -> None:
        """Put back the blobs that the restore replaced, and remove those that it added."""
        _put_back_blobs(self._paths, self._journal, replaced=True)
        _remove_added(self._paths, self._journal)

    def unmark(self) -> None:
        """Remove the journal, or the record when this database was done already."""
        journals.remove(journals.record_of(self._paths.data_fs, self._journal.restore))
        journals.remove(journals.path_of(self._paths.data_fs))


def what_is_in_place(paths: DataFsPaths, journal: Journal) -> InPlace:
    """Tell which Data.fs is in place.

    Raise TargetRefused when it is neither the unchanged restored file nor the replaced file.
    """
    data_fs, replaced = paths.data_fs, paths.replaced(journal)
    if paths.is_new(journal):
        if not paths.is_as_restored(journal):
            raise _written_to(data_fs)
        return "new"
    if not data_fs.exists():
        return "nothing"
    if replaced is not None and replaced.exists():
        if os.path.samefile(data_fs, replaced):
            return "old"
        raise _written_to(data_fs)
    if journal.only != "blobs" and _was_renamed(paths, journal):
        raise _written_to(data_fs)
    return "old"


def _was_renamed(paths: DataFsPaths, journal: Journal) -> bool:
    """Tell whether the new file was in place before; called when no kept replaced file tells it."""
    if journal.phase == "aborting":
        return journal.replaced is None and journal.new_inode != 0
    if journal.phase == "switching":
        return not paths.building(journal).exists()
    return journal.phase in ("switched", "done")


def _written_to(data_fs: Path) -> TargetRefused:
    return TargetRefused(
        f"{data_fs} has changed since it was restored",
        "run the restore again to finish it; the replaced file is kept beside it",
    )


def _put_back_blobs(paths: DataFsPaths, journal: Journal, *, replaced: bool) -> None:
    """Move kept blobs back to their paths; without ``replaced``, only those whose path is free."""
    blob_dir = blob_dir_of(paths, journal)
    if blob_dir is None:
        return
    kept = blob_dir / journal.kept_dir
    for path in sorted(kept.rglob("*.blob")):
        target = blob_dir / path.relative_to(kept)
        if replaced or not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, target)
        if replaced:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{target}{NEW}")


def _remove_added(paths: DataFsPaths, journal: Journal) -> None:
    """Remove the blobs that the restore added, complete or not, and the folder of kept blobs."""
    blob_dir = blob_dir_of(paths, journal)
    if blob_dir is None:
        return
    kept = blob_dir / journal.kept_dir
    for relative in _added(kept / ADDED):
        for path in (blob_dir / relative, blob_dir / f"{relative}{NEW}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(blob_dir / f"{MARKER}{NEW}")
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(f"{blob_dir}{NEW}")
    shutil.rmtree(kept, ignore_errors=True)


def _added(noted: Path) -> list[str]:
    """Return the relative paths that a restore noted.

    After a power failure, the last line may be cut off.
    """
    lines = noted.read_text(encoding="ascii").splitlines() if noted.exists() else []
    return [line for line in lines if line.endswith(".blob")]


def discarded_paths(paths: DataFsPaths, restore: str) -> list[Path]:
    """Return the paths that exist of the old state that a finished restore kept."""
    record = journals.read_record(paths.data_fs, restore)
    return [path for path in kept_paths(paths, record) if path.exists()] if record else []


def discard(paths: DataFsPaths, restore: str) -> list[str]:
    """Remove the old state that a finished restore kept, then its record; return the paths."""
    removed = discarded_paths(paths, restore)
    for path in removed:
        shutil.rmtree(path) if path.is_dir() else os.unlink(path)
    journals.remove(journals.record_of(paths.data_fs, restore))
    return [str(path) for path in removed]
