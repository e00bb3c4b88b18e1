"""What is asked of a restore, where each database goes then, and what stands against it: other files, another site, an interrupted restore."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

import msgspec

from ...blobs.layout import MARKER
from ...datafs.tail import TransactionWalker, backwards
from ...errors import SourceDamaged, TargetRefused, UsageError, VaultError
from ...model import tid as tids
from ...model.chain import segments_of
from ...model.manifest import DatabaseEntry
from ...model.source import Database, Site
from ...policy.recovery import Request
from ...repository.objects import Objects
from ...repository.repository import Repository
from ...runtime.ownership import require_owner
from ...strategies.filestorage.datafile import DataFile
from ...strategies.filestorage.matching import newest_common
from ...strategies.filestorage.restore import journal as journals
from ...strategies.filestorage.restore.journal import Journal
from ...strategies.filestorage.restore.paths import DataFsPaths, paths_for, paths_of_database
from .targets import DatabaseCut, RestoreTarget


class RestoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks of one restore; without ``output`` it goes into the site itself, or (``elsewhere``) into that of another configuration.

    ``clients`` are those of the ZEO server that serves it: their caches are of the state that is replaced.
    """

    backup: str | None = None
    request: Request | None = None
    databases: tuple[str, ...] = ()
    output: Path | None = None
    elsewhere: bool = False
    only: Literal["storage", "blobs"] | None = None
    allow_incomplete: bool = False
    safety_backup: bool = True
    replace_blobs: bool = False
    clients: tuple[Site, ...] = ()
    replace: bool = False
    role: str | None = None
    workers: int = 2


def refuse_within(repository: Repository, place: DataFsPaths) -> None:
    """Raise TargetRefused where a restored file would lie among those of a repository or of a blob directory."""
    store, ours = repository.store.location, place.blob_dir.resolve() if place.blob_dir else None
    root = Path(store).resolve() if "://" not in store else None
    for path in filter(None, (place.data_fs, ours)):
        for parent in (path, *path.parents):
            if parent == root:
                raise TargetRefused(f"{path} lies in the repository {root}", "choose another place")
            if parent not in (path, ours) and (parent / MARKER).exists():
                raise TargetRefused(f"{path} lies in the blob directory {parent}", "choose another place")


def paths_for_cut(
    cut: DatabaseCut, site: Site | None, options: RestoreOptions, target: RestoreTarget
) -> DataFsPaths:
    """Return where a Data.fs and its blobs go; raise UsageError, or TargetRefused when the backup or the site lacks a half that is wanted."""
    place = _paths_of(cut.entry, site, options, target)
    _require_content(cut, place.blobs, options)
    return place


def _paths_of(
    entry: DatabaseEntry, site: Site | None, options: RestoreOptions, target: RestoreTarget
) -> DataFsPaths:
    if options.output is not None:
        root = options.output.absolute() / (entry.folder if len(target.cuts) > 1 else "")
        return paths_for(
            root / "Data.fs",
            root / "blobs" if entry.blobs and options.only != "storage" else None,
            entry.layout,
        )
    database = database_for(entry, site, target)
    if database.backend != "filestorage" or database.data_fs is None:
        raise UsageError(
            f"this version cannot restore into {database.backend}",
            "restore into a directory with --output DIR",
        )
    return paths_of_database(database, entry.layout)


def database_for(entry: DatabaseEntry, site: Site | None, target: RestoreTarget) -> Database:
    """Return the database of the site that one of a backup goes into: that of the same name, or the only one where there is only one."""
    databases = site.databases if site else ()
    manifest = target.backup.manifest
    alone = databases[0] if manifest.whole and len(manifest.databases) == len(databases) == 1 else None
    database = next((one for one in databases if one.name == entry.name), alone)
    if database is None:
        raise UsageError(
            f"the site has no database {entry.name} to restore into, it has {', '.join(one.name for one in databases) or 'none'}",
            "restore into a directory with --output DIR, or only what the site has with --database NAME",
        )
    return database


def _require_content(cut: DatabaseCut, blobs: Path | str | None, options: RestoreOptions) -> None:
    if cut.entry.storage is None:
        raise TargetRefused(
            f"the backup holds no storage of {cut.entry.name}, only blobs", "choose a whole backup"
        )
    if options.only != "storage" and cut.entry.blobs is None:
        raise TargetRefused(
            f"the backup holds no blobs of {cut.entry.name}", "`--only storage` restores the rest"
        )
    if options.only != "storage" and blobs is None and cut.entry.blobs and cut.entry.blobs.count:
        raise TargetRefused(
            f"the site has no blob directory for {cut.entry.name}",
            "name it with --blob-dir, or use --only storage",
        )


def unfinished_of(
    places: list[DataFsPaths], target: RestoreTarget, options: RestoreOptions
) -> list[Journal | None]:
    """Return what an interrupted run of the same restore left for each database; raise TargetRefused when it was another one."""
    found = [journals.read(journals.path_of(place.data_fs)) for place in places]
    restores = {journal.restore for journal in found if journal is not None}
    for n, (place, cut) in enumerate(zip(places, target.cuts, strict=True)):
        if found[n] is None:
            known = list(journals.records(place.data_fs)) if options.output else sorted(restores)
            done = (one for restore in known if (one := journals.read_record(place.data_fs, restore)))
            found[n] = next(
                (one for one in done if not options.output or _stands(place, cut, one, target, options)), None
            )
    for place, cut, journal in zip(places, target.cuts, found, strict=True):
        if journal is not None:
            _require_same(place, cut, journal, target, options)
    return found


def _stands(
    place: DataFsPaths, cut: DatabaseCut, record: Journal, target: RestoreTarget, options: RestoreOptions
) -> bool:
    """Tell whether a directory holds exactly what a finished restore of the same made: that one only had to clean up after itself."""
    whole = record.only == "blobs" or (place.is_new(record) and place.data_fs.stat().st_size == record.end)
    return whole and _same(place, cut, record, target, options)


def _same(
    place: DataFsPaths, cut: DatabaseCut, journal: Journal, target: RestoreTarget, options: RestoreOptions
) -> bool:
    ours = (
        target.backup.manifest.id,
        cut.end,
        cut.last_tid,
        options.only,
        str(place.blobs) if place.blobs else None,
    )
    return ours == (
        journal.backup,
        journal.end,
        journal.last_tid,
        journal.only,
        journal.bucket or journal.blob_dir,
    )


def _require_same(
    place: DataFsPaths, cut: DatabaseCut, journal: Journal, target: RestoreTarget, options: RestoreOptions
) -> None:
    aborting = journal.phase == "aborting" and not place.is_new(journal)
    if aborting or not _same(place, cut, journal, target, options):
        raise TargetRefused(
            f"a restore of backup {journal.backup} up to {journal.last_tid} into {place.data_fs} was interrupted",
            "run `restore --abort` again to put the old state back"
            if aborting
            else "run that one again to finish it, or `restore --abort` to put the old state back",
        )


def present_of(place: DataFsPaths, cut: DatabaseCut) -> tuple[str | None, int]:
    """Return the last TID of the file in place and how many of its transactions are later than the cut."""
    if not place.data_fs.exists():
        return None, cut.dropped
    limit = tids.from_hex(cut.last_tid) if cut.last_tid else b""
    last, count = None, 0
    try:
        with contextlib.closing(DataFile(place.data_fs)) as file:
            hopper = TransactionWalker(file.fd, 0, str(place.data_fs))
            for _hop in hopper:
                pass
            for hop in backwards(file.fd, hopper.tail.end):
                last = last or tids.to_hex(hop.tid)
                if hop.tid <= limit:
                    break
                count += 1
    except (SourceDamaged, VaultError):
        return last, count  # a damaged file is what restores are for
    return last, count


def refuse(place: DataFsPaths, cut: DatabaseCut, documents: Objects, options: RestoreOptions) -> None:
    """Raise TargetRefused where something of others stands in the way."""
    if options.output is not None:
        require_empty(place)
    for path in (place.data_fs, place.blob_dir):
        if path is not None:
            require_owner(path, ours=options.output is not None)
    if (
        options.output is None
        and place.data_fs.exists()
        and not options.replace_blobs
        and options.only != "storage"
    ):
        _require_same_site(place, cut, documents)


def require_empty(place: DataFsPaths) -> None:
    """Raise TargetRefused when something is there."""
    for path in (place.data_fs, place.blob_dir):
        if path is not None and path.exists() and (path.is_file() or any(path.iterdir())):
            # a restore that was killed behind its last step has left no journal
            hint = "choose an empty directory with --output; if a restore went here before, it had finished: nothing says that it was interrupted"
            raise TargetRefused(f"{path} exists already", hint)


def _require_same_site(place: DataFsPaths, cut: DatabaseCut, documents: Objects) -> None:
    """Blobs of two sites must not be mixed: files of one would be taken for leftovers of the other."""
    if place.bucket is None and (place.blob_dir is None or not place.blob_dir.exists()):
        return
    try:
        if newest_common_of(place.data_fs, cut, documents) is not None:
            return
    except VaultError:
        return
    raise TargetRefused(
        f"{place.data_fs} shares no transaction with the backup: {place.blobs} belongs to another site",
        "check --site and the paths; `--replace-blobs` puts the backup in its place all the same",
    )


def newest_common_of(data_fs: Path, cut: DatabaseCut, documents: Objects) -> bytes | None:
    """Return the newest TID that a file and a backup share; raise SourceError."""
    with contextlib.closing(DataFile(data_fs)) as file:
        hopper = TransactionWalker(file.fd, 0, str(data_fs))
        for _hop in hopper:
            pass
        return newest_common(file, hopper.tail.end, segments_of(cut.entry, documents), 0)


def require_links(place: DataFsPaths) -> None:
    """Raise TargetRefused where the old file could not be kept beside the new one."""
    probe = place.data_fs.with_name(f"{place.data_fs.name}.restore.probe")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(probe)
        os.link(place.data_fs, probe)
        os.unlink(probe)
    except OSError as error:
        raise TargetRefused(
            f"{place.data_fs} cannot be hard-linked: {error.strerror}",
            "in place the replaced file is kept by a hard link; restore into a directory of another file system with --output DIR",
        ) from None
