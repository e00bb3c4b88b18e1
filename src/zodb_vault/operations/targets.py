"""From what a user asks for to a backup and, for each database, the position up to which its Data.fs is kept."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ..errors import TargetMissing, UsageError
from ..model.chain import Documents, segments_of
from ..model.manifest import DatabaseEntry, Segment
from ..policy.recovery import AtMoment, BeforeTid, Request, ToTid, search, settle
from ..strategies.standing import segment_tids
from .catalog import Backup, Catalog


class Cut(msgspec.Struct, frozen=True):
    """One database of a backup, kept up to the transaction ``last_tid``, which ends at ``end``; ``dropped`` follow it in the backup."""

    entry: DatabaseEntry
    end: int
    last_tid: str | None
    dropped: int


class Target(msgspec.Struct, frozen=True):
    """What is to be restored."""

    backup: Backup
    cuts: list[Cut]


def resolve(catalog: Catalog, backup: str | None, request: Request | None, databases: tuple[str, ...] = ()) -> Target:
    """Return what an id (prefix, name, ``latest``, None) and a request mean together.

    Raise BackupMissing, UsageError, TargetMissing; reads only.
    """
    if request is None:
        chosen = catalog.select("latest" if backup is None else backup)
        return Target(chosen, [_whole(entry) for entry in _entries(chosen, databases)])
    explicit = catalog.select(backup).manifest.id if backup not in (None, "latest") else None
    reaches = [one.reach for one in catalog.newest_first()]
    name = databases[0] if databases else _only_database(catalog)
    documents = catalog.repository.objects("")
    found = settle(search(reaches, name, request, explicit), lambda one: _transactions(catalog.backup(one), name, documents, request))
    chosen = catalog.backup(found.backup_id)
    entry = next(entry for entry in chosen.manifest.databases if entry.name == name)
    if found.cut is None:
        return Target(chosen, [_whole(entry)])
    dropped = _later(entry, documents, found.cut.end)
    return Target(chosen, [Cut(entry, found.cut.end, found.cut.tid, dropped)])


def _entries(backup: Backup, databases: tuple[str, ...]) -> list[DatabaseEntry]:
    entries = [entry for entry in backup.manifest.databases if not databases or entry.name in databases]
    if not entries:
        known = ", ".join(entry.name for entry in backup.manifest.databases)
        raise UsageError(f"backup {backup.manifest.id} has no database {', '.join(databases)}", f"it has {known}")
    return entries


def _only_database(catalog: Catalog) -> str:
    names = {entry.name for backup in catalog.newest_first() for entry in backup.manifest.databases}
    if len(names) > 1:
        raise UsageError(f"the site has the databases {', '.join(sorted(names))}", "say with --database which one is meant")
    return next(iter(names), "main")


def _whole(entry: DatabaseEntry) -> Cut:
    return Cut(entry, entry.storage.size if entry.storage else 0, entry.last_tid, 0)


def _transactions(backup: Backup, database: str, documents: Documents, request: Request) -> Iterator[tuple[str, int]]:
    """Yield (TID, end) of a database's transactions, from shortly before the wanted one on when TIDs ascend."""
    entry = next((entry for entry in backup.manifest.databases if entry.name == database), None)
    if entry is None or entry.storage is None:
        raise TargetMissing(f"backup {backup.manifest.id} does not hold the storage of {database}", "choose another backup")
    if entry.data_fs is None:
        raise TargetMissing(
            f"backup {backup.manifest.id} holds {database} as a dump, which can be restored as a whole only",
            f"restore it by its id: {backup.manifest.id}",
        )
    for segment in _near(entry, documents, request):
        for tid, pos, size, *_ in segment_tids(documents, segment):
            yield tid, pos + size


def _near(entry: DatabaseEntry, documents: Documents, request: Request) -> Iterator[Segment]:
    from ..model.tid import from_datetime, from_hex, to_hex

    bound = to_hex(from_datetime(request.moment)) if isinstance(request, AtMoment) else to_hex(from_hex(request.tid))
    before: Segment | None = None
    for segment in segments_of(entry, documents):
        if not entry.ordered or (segment.last_tid or "") >= bound:
            if before is not None:
                yield before
            yield segment
            before = None
        else:
            before = segment
    if before is not None:
        yield before


def _later(entry: DatabaseEntry, documents: Documents, end: int) -> int:
    """Return how many transactions of a backup end behind a position."""
    count = 0
    for segment in reversed(segments_of(entry, documents)):
        if segment.end <= end:
            break
        count += sum(1 for row in segment_tids(documents, segment) if row[1] + row[2] > end)
    return count


def request_of(tid: str | None, before_tid: str | None, moment: AtMoment | None) -> Request | None:
    """Return the request that at most one of three options makes; raise UsageError for several."""
    wanted = (None if tid is None else ToTid(tid), None if before_tid is None else BeforeTid(before_tid), moment)
    given: list[Request] = [one for one in wanted if one is not None]
    if len(given) > 1:
        raise UsageError("--tid, --before-tid and --at exclude each other", "give one of them")
    return given[0] if given else None


