"""After a restore: put the old state back, or free what was kept of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import msgspec

from ..errors import TargetMissing, TargetRefused
from ..stores import durable
from ..strategies.locking import storage_locks
from . import journal as journals
from .journal import Journal
from .switch import ADDED, Place


def abort(place: Place) -> Journal:
    """Put the state back that an interrupted restore was about to replace, or had replaced already; can itself be run again.

    Raise TargetMissing when there is no interrupted restore, TargetRefused when the site has written to the restored file since, InUse.
    """
    _unfinished(place)
    with storage_locks(place.locked):
        journal = _unfinished(place)
        _require_unused(place, journal)
        journal = journals.write(place.data_fs, msgspec.structs.replace(journal, phase="aborting"))
        if place.blob_dir is not None:
            _blobs_back(place.blob_dir, place.blob_dir / journal.kept_dir)
        _storage_back(place, journal)
        if place.blob_dir is not None:
            _remove_added(place.blob_dir, place.blob_dir / journal.kept_dir)
        journals.remove(journals.path_of(place.data_fs))
        return journal


def _unfinished(place: Place) -> Journal:
    journal = journals.read(journals.path_of(place.data_fs))
    if journal is None:
        raise TargetMissing(f"no restore into {place.data_fs} was interrupted", "nothing has to be put back")
    return journal


def _require_unused(place: Place, journal: Journal) -> None:
    if _is_new(place, journal) and place.data_fs.stat().st_size != journal.end:
        raise TargetRefused(
            f"{place.data_fs} was written to since it was restored", "run the restore again to finish it; the replaced file is kept beside it"
        )


def _is_new(place: Place, journal: Journal) -> bool:
    return journal.new_inode != 0 and place.data_fs.exists() and place.data_fs.stat().st_ino == journal.new_inode


def _storage_back(place: Place, journal: Journal) -> None:
    replaced = place.data_fs.with_name(journal.replaced) if journal.replaced else None
    if _is_new(place, journal):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.index)
        if replaced is not None:
            os.rename(replaced, place.data_fs)
        else:
            os.unlink(place.data_fs)
    elif replaced is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(replaced)
    for name in (journal.building, f"{journal.building}.index"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.data_fs.with_name(name))
    for leftover in place.data_fs.parent.glob(f"{place.data_fs.name}.*.kept-{journal.restore}"):
        os.rename(leftover, str(leftover).removesuffix(f".kept-{journal.restore}"))
    durable.sync_directory(place.data_fs.parent)


def _blobs_back(blob_dir: Path, kept: Path) -> None:
    """Move every kept blob to its place; one that was added in its place was listed as exchanged, not as added."""
    for path in sorted(kept.rglob("*.blob")):
        target = blob_dir / path.relative_to(kept)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, target)


def _remove_added(blob_dir: Path, kept: Path) -> None:
    added = kept / ADDED
    for relative in added.read_text(encoding="ascii").splitlines() if added.exists() else []:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(blob_dir / relative)
    shutil.rmtree(kept, ignore_errors=True)


def discard_kept(place: Place, restore: str) -> list[str]:
    """Free what a finished restore kept of the state it replaced, and return the paths; raise TargetMissing."""
    records = sorted(place.data_fs.parent.glob(f"{place.data_fs.name}.restored-{restore}*.json"))
    if len(records) != 1:
        known = ", ".join(path.name for path in sorted(place.data_fs.parent.glob(f"{place.data_fs.name}.restored-*.json"))) or "none"
        raise TargetMissing(f"there is no restore {restore} whose old state is kept", f"records beside {place.data_fs}: {known}")
    journal = journals.read(records[0])
    assert journal is not None
    removed = [path for path in _kept_paths(place, journal) if path.exists()]
    for path in removed:
        shutil.rmtree(path) if path.is_dir() else os.unlink(path)
    journals.remove(records[0])
    return [str(path) for path in removed]


def _kept_paths(place: Place, journal: Journal) -> list[Path]:
    paths = [place.data_fs.with_name(journal.replaced)] if journal.replaced else []
    paths += sorted(place.data_fs.parent.glob(f"{place.data_fs.name}.*.kept-{journal.restore}"))
    if place.blob_dir is not None:
        # a pack that keeps its old blobs hard-links the whole directory, what we kept included
        paths += [place.blob_dir / journal.kept_dir, Path(f"{place.blob_dir}.old") / journal.kept_dir]
    return paths
