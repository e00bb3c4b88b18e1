"""After a restore: put the old state back, or free what was kept of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ...blobs.layout import MARKER
from ...errors import TargetMissing, TargetRefused
from ...model.source import Database
from ...runtime import durable
from ...runtime.ownership import TEMPORARY as NEW
from ...strategies.blobs.kept import ADDED
from ...strategies.filestorage.lock import bar, storage_locks, unbar
from ...strategies.filestorage.restore import journal as journals
from ...strategies.filestorage.restore.journal import Journal
from ...strategies.filestorage.restore.kept import leftovers
from ...strategies.filestorage.restore.paths import DataFsPaths

Undoing = list[tuple[DataFsPaths, Journal]]


def require_together(places: Sequence[DataFsPaths], others: Sequence[Database], *, done: bool) -> None:
    """Raise TargetRefused when an interrupted restore of these databases was one of others too: all become valid, or are put back, together.

    ``done``: also when it is done with the others.
    """
    interrupted = (journals.read(journals.path_of(place.data_fs)) for place in places)
    for restore in {journal.restore for journal in interrupted if journal is not None}:
        for data_fs in (Path(other.data_fs).resolve() for other in others if other.data_fs is not None):
            journal = journals.read(journals.path_of(data_fs)) or (
                journals.read_record(data_fs, restore) if done else None
            )
            if journal is not None and journal.restore == restore:
                raise TargetRefused(
                    f"the interrupted restore {restore} was one of {journal.database} too, and only together they fit",
                    "leave --database out",
                )


def abort(places: Sequence[DataFsPaths]) -> list[Journal]:
    """Put the state back that an interrupted restore was about to replace, or had replaced already; can itself be run again.

    Raise TargetMissing when there is no interrupted restore, TargetRefused when the site has written to the restored file since, InUse.
    """
    with contextlib.ExitStack() as stack:
        for place, _journal in _interrupted(places):
            stack.enter_context(storage_locks(place.locked, barred=True))
        found = _interrupted(places)
        in_place = [_in_place(place, journal) for place, journal in found]
        for place, journal in found:
            _make_room(place, journal)
        found = [
            (place, journals.write(place.data_fs, msgspec.structs.replace(journal, phase="aborting")))
            for place, journal in found
        ]
        # the mirror of the restore: what the old file alone needs before it is back, what takes something from the new one afterwards
        for place, journal in found:
            _put_back_kept(place, journal, exchanged=False)
        for place, _journal in found if len(found) > 1 else []:
            bar(place.locked)
        for (place, journal), which in zip(found, in_place, strict=True):
            _put_back_storage(place, journal, which)
        for place, _journal in found:
            unbar(place.locked)
        for place, journal in found:
            _put_back_kept(place, journal, exchanged=True)
            _remove_added(place, journal)
        for place, journal in found:
            journals.remove(journals.record_of(place.data_fs, journal.restore))
            journals.remove(journals.path_of(place.data_fs))
        return [journal for _place, journal in found]


def _make_room(place: DataFsPaths, journal: Journal) -> None:
    """Remove a new Data.fs that was never in place, before anything is written: the disk that it has filled may be why all of this is undone."""
    if journal.phase == "building":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.data_fs.with_name(journal.building))


def _interrupted(places: Sequence[DataFsPaths]) -> Undoing:
    """Return the databases with an interrupted restore, and those that are done with the same one."""
    found = [(place, journals.read(journals.path_of(place.data_fs))) for place in places]
    restores = {journal.restore for _place, journal in found if journal is not None}
    if not restores:
        raise TargetMissing(
            f"no restore into {', '.join(str(place.data_fs) for place in places)} was interrupted",
            "nothing has to be put back",
        )
    done = (
        (place, journals.read_record(place.data_fs, restore))
        for place, journal in found
        if journal is None
        for restore in restores
    )
    return [(place, journal) for place, journal in [*found, *done] if journal is not None]


def _in_place(place: DataFsPaths, journal: Journal) -> Literal["new", "old", "nothing"]:
    """Tell what stands in place; raise TargetRefused when it is neither the restored file as it was nor the replaced one."""
    data_fs = place.data_fs
    if place.is_new(journal):
        if data_fs.stat().st_size != journal.end:
            raise _used(data_fs)
        return "new"
    if not data_fs.exists():
        return "nothing"
    replaced = data_fs.with_name(journal.replaced) if journal.replaced else None
    if replaced is not None and replaced.exists():
        if os.path.samefile(data_fs, replaced):
            return "old"
        raise _used(data_fs)
    if journal.only != "blobs" and _renamed(place, journal):
        raise _used(data_fs)
    return "old"


def _renamed(place: DataFsPaths, journal: Journal) -> bool:
    """Tell whether the new file was in place once, where nothing that was kept tells it."""
    if journal.phase == "aborting":
        return journal.replaced is None and journal.new_inode != 0
    return journal.phase in ("switched", "done") or (
        journal.phase == "switching" and not place.data_fs.with_name(journal.building).exists()
    )


def _used(data_fs: Path) -> TargetRefused:
    return TargetRefused(
        f"{data_fs} was written to since it was restored",
        "run the restore again to finish it; the replaced file is kept beside it",
    )


def _put_back_storage(place: DataFsPaths, journal: Journal, which: Literal["new", "old", "nothing"]) -> None:
    replaced = place.data_fs.with_name(journal.replaced) if journal.replaced else None
    kept = replaced is not None and replaced.exists()
    if which != "old":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.index)
        durable.sync_directory(place.index.parent)
    if replaced is not None and kept:
        if which == "old":
            os.unlink(replaced)
        else:
            os.rename(replaced, place.data_fs)
    elif which == "new":
        os.unlink(place.data_fs)
    for path in (place.data_fs.with_name(journal.building), place.new_index(journal)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    for leftover in leftovers(place, f".kept-{journal.restore}"):
        os.rename(leftover, str(leftover).removesuffix(f".kept-{journal.restore}"))
    durable.sync_directory(place.data_fs.parent)


def _blob_dir(place: DataFsPaths, journal: Journal) -> Path | None:
    """Return the blob directory that a restore has worked in; the one that is configured, if the command line still names it."""
    known = Path(journal.blob_dir) if journal.blob_dir else None
    if place.blob_dir is not None and (known is None or (place.blob_dir / journal.kept_dir).exists()):
        return place.blob_dir
    return known


def _put_back_kept(place: DataFsPaths, journal: Journal, *, exchanged: bool) -> None:
    """Move kept blobs to their places: those that nothing stands in the place of, or (``exchanged``) all."""
    blob_dir = _blob_dir(place, journal)
    kept = blob_dir / journal.kept_dir if blob_dir is not None else None
    if blob_dir is None or kept is None:
        return
    for path in sorted(kept.rglob("*.blob")):
        target = blob_dir / path.relative_to(kept)
        if exchanged or not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, target)
        if exchanged:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{target}{NEW}")


def _remove_added(place: DataFsPaths, journal: Journal) -> None:
    blob_dir = _blob_dir(place, journal)
    if blob_dir is None:
        return
    kept = blob_dir / journal.kept_dir
    lines = (kept / ADDED).read_text(encoding="ascii").splitlines() if (kept / ADDED).exists() else []
    # the last line of a run that a power failure ended may be part of a name
    for relative in (line for line in lines if line.endswith(".blob")):
        for path in (blob_dir / relative, blob_dir / f"{relative}{NEW}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(blob_dir / f"{MARKER}{NEW}")
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(f"{blob_dir}{NEW}")
    shutil.rmtree(kept, ignore_errors=True)


def discard_kept(places: Sequence[DataFsPaths], restore: str) -> list[str]:
    """Free what a finished restore kept of the state it replaced, and return the paths; raise TargetMissing."""
    records = [
        (place, one, path) for place in places for one, path in journals.records(place.data_fs).items()
    ]
    meant = [(place, one, path) for place, one, path in records if one.startswith(restore)]
    if len({one for _place, one, _path in meant}) != 1:
        known = ", ".join(path.name for _place, _one, path in records) or "none"
        raise TargetMissing(
            f"there is no restore {restore} whose old state is kept",
            f"records beside {', '.join(str(place.data_fs) for place in places)}: {known}",
        )
    removed = []
    for place, one, record in meant:
        journal = journals.read_record(place.data_fs, one)
        for path in kept_paths(place, journal) if journal else ():
            if path.exists():
                shutil.rmtree(path) if path.is_dir() else os.unlink(path)
                removed.append(str(path))
        journals.remove(record)
    return removed


def kept_paths(place: DataFsPaths, journal: Journal) -> list[Path]:
    """Return where a restore has kept what it replaced; not all of it need exist."""
    paths = [place.data_fs.with_name(journal.replaced)] if journal.replaced else []
    blob_dir = _blob_dir(place, journal)
    if blob_dir is not None:
        # a pack that keeps its old blobs hard-links the whole directory, what we kept included
        paths += [blob_dir / journal.kept_dir, Path(f"{blob_dir}.old") / journal.kept_dir]
    return paths + leftovers(place, f".kept-{journal.restore}")
