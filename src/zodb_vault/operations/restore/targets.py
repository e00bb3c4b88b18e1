"""From what a user asks for to a backup and, for each database, the position up to which its Data.fs is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from ...errors import TargetMissing, UsageError
from ...model.chain import Chain, Documents, log_of, segments_of, transaction_rows
from ...model.manifest import DatabaseEntry, DataFs, Segment, Transactions
from ...model.restore import DatabaseCut
from ...model.tid import from_datetime, from_hex, to_datetime, to_hex
from ...policy.commits import SPAN, CommitPart, consistent_cuts
from ...policy.recovery import (
    AtTimestamp,
    BeforeTid,
    Request,
    SearchResult,
    ToTid,
    cut_point_within,
    find_cut,
    search,
)
from ...policy.recovery import CutPoint as FoundCut
from ...repository.objects import Objects
from ..catalog import Backup, Catalog

B = TypeVar("B", Segment, Transactions)


class RestoreTarget(msgspec.Struct, frozen=True):
    """What is to be restored."""

    backup: Backup
    cuts: list[DatabaseCut]


def resolve(
    catalog: Catalog, backup: str | None, request: Request | None, databases: tuple[str, ...] = ()
) -> RestoreTarget:
    """Return what an id (prefix, name, ``latest``, None) and a request mean together.

    Of several databases a TID names one; where the others are cut, ``policy/commits.py`` decides.
    Raise BackupMissing, UsageError, TargetMissing; reads only.
    """
    if request is None:
        chosen = catalog.select("latest" if backup is None else backup)
        return RestoreTarget(chosen, [_whole(entry) for entry in _entries(chosen, databases)])
    explicit = catalog.select(backup).manifest.id if backup not in (None, "latest") else None
    resolving = _Resolving(catalog, explicit, request, databases)
    return resolving.alone(resolving.names[0]) if len(resolving.names) == 1 else resolving.together()


def _entries(backup: Backup, databases: tuple[str, ...]) -> list[DatabaseEntry]:
    known = [entry.name for entry in backup.manifest.databases]
    if unknown := [name for name in databases if name not in known]:
        raise UsageError(
            f"backup {backup.manifest.id} has no database {', '.join(unknown)}", f"it has {', '.join(known)}"
        )
    return [entry for entry in backup.manifest.databases if not databases or entry.name in databases]


class _Resolving:
    """Looks for the backup, and the cuts of it, that a request means."""

    def __init__(
        self, catalog: Catalog, explicit: str | None, request: Request, databases: tuple[str, ...]
    ) -> None:
        self._catalog, self._explicit, self._request = catalog, explicit, request
        self._documents = catalog.repository.objects("")
        backups = list(catalog.newest_first())
        self._reaches = [one.searchable for one in backups]
        among = [catalog.backup(explicit)] if explicit else backups
        known = list(dict.fromkeys(entry.name for backup in among for entry in backup.manifest.databases))
        if unknown := [name for name in databases if name not in known]:
            raise UsageError(
                f"there is no database {', '.join(unknown)} in the backups",
                f"the databases are: {', '.join(known)}",
            )
        self.names = [name for name in known if not databases or name in databases] or ["main"]

    def alone(self, name: str) -> RestoreTarget:
        """Return the backup and the cut of a request about one database."""
        try:
            found = find_cut(
                self._search(name, self._request), lambda one: self._read(one, name, self._request)
            )
        except TargetMissing as error:
            raise self._without_history(name, error) from None
        chosen = self._catalog.backup(found.backup_id)
        entry = next(entry for entry in chosen.manifest.databases if entry.name == name)
        return RestoreTarget(chosen, [self._cut(entry, found.cut) if found.cut else _whole(entry)])

    def together(self) -> RestoreTarget:
        """Return the newest backup that has all its databases at what is requested, with a cut for each that halves no commit."""
        refusals: list[TargetMissing] = []
        for backup_id, named in self._candidates():
            try:
                return self._in_backup(backup_id, named)
            except TargetMissing as refusal:
                refusals.append(refusal)
        raise refusals[0] if refusals else self._missing()

    def _without_history(self, name: str, error: TargetMissing) -> TargetMissing:
        """Say of dumps that have one state only that this is why the wanted one is not there."""
        entries = [
            entry
            for backup in self._catalog.newest_first()
            for entry in backup.manifest.databases
            if entry.name == name
        ]
        newest = entries[0] if entries else None
        if newest is None or newest.dump is None or len(log_of(newest, self._documents)):
            return error
        why = (
            "keeps no history"
            if newest.history is False
            else "is backed up without the list of its transactions"
        )
        hint = (
            "restore one of its backups as a whole: `zodb-vault list` shows them, with the last "
            "transaction of each in its --json"
        )
        return TargetMissing(
            f"{error.message}; {name} {why}: what can be restored is the last state of each of its backups",
            hint,
        )

    def _search(self, name: str, request: Request) -> SearchResult:
        return search(self._reaches, name, request, self._explicit)

    def _read(self, backup_id: str, name: str, request: Request) -> Iterator[tuple[str, int]]:
        return _transactions(self._catalog.backup(backup_id), name, self._documents, request)

    def _cut(self, entry: DatabaseEntry, cut: FoundCut) -> DatabaseCut:
        if entry.dump is not None:
            return DatabaseCut(
                entry, entry.dump.size, cut.tid, _later_in_dump(entry, self._documents, cut.tid)
            )
        return DatabaseCut(entry, cut.end, cut.tid, _later(entry, self._documents, cut.end))

    def _candidates(self) -> Iterator[tuple[str, str | None]]:
        """Yield the backups to look into, newest first, each with the database that the TID is one of (None.

        A request that names none).
        """
        choices = [
            (choice, name) for name in self.names for choice in self._search(name, self._request).choices
        ]
        choices.sort(key=lambda one: one[0].backup_id, reverse=True)
        if not isinstance(self._request, ToTid):
            yield from dict.fromkeys((choice.backup_id, None) for choice, _name in choices)
            return
        for choice, name in choices:
            if isinstance(
                cut_point_within(self._read(choice.backup_id, name, self._request), choice), FoundCut
            ):
                yield choice.backup_id, name

    def _in_backup(self, backup_id: str, named: str | None) -> RestoreTarget:
        backup = self._catalog.backup(backup_id)
        entries = [entry for entry in backup.manifest.databases if entry.name in self.names]
        if unordered := next(
            (entry.name for entry in entries if not entry.ordered and len(entries) > 1), None
        ):
            raise TargetMissing(
                f"the TIDs of {unordered} in backup {backup_id} do not ascend, so nothing says what "
                "belongs together in several databases",
                "restore one database at a time, with --database NAME",
            )
        wanted = {
            entry.name: self._wanted(backup_id, entry, named)
            for entry in entries
            if entry.first_tid is not None
        }
        rows = {entry.name: list(self._rows(entry, wanted)) for entry in entries if entry.name in wanted}
        counts = consistent_cuts(
            {name: [row.part for row in some] for name, some in rows.items()},
            {name: sum(row.end <= wanted[name].end for row in some) for name, some in rows.items()},
            named if len(entries) > 1 else None,
        )
        cuts = [
            self._cut(entry, _kept(backup_id, entry, rows[entry.name], counts[entry.name]))
            if entry.name in wanted
            else _whole(entry)
            for entry in entries
        ]
        return RestoreTarget(backup, cuts)

    def _wanted(self, backup_id: str, entry: DatabaseEntry, named: str | None) -> FoundCut:
        """Return the cut of a database that the request by itself means, whatever it does to commits.

        Raise TargetMissing.
        """
        request = self._request if entry.name == named else _before(self._request)
        end = _data_fs(backup_id, entry).end
        if isinstance(request, BeforeTid) and entry.last_tid is not None and entry.last_tid < request.tid:
            # all cuts were taken together: what reaches beyond the end of this one is in another database
            return FoundCut(entry.last_tid, end)
        choice = next(
            (one for one in self._search(entry.name, request).choices if one.backup_id == backup_id), None
        )
        cut = cut_point_within(self._read(backup_id, entry.name, request), choice) if choice else None
        if not isinstance(cut, FoundCut):
            raise _no_state_of(backup_id, entry)
        return cut

    def _rows(self, entry: DatabaseEntry, wanted: Mapping[str, FoundCut]) -> Iterator[_Row]:
        """Yield the transactions around the wanted cuts.

        What is far away shares no commit with what is there.
        """
        moments = [to_datetime(from_hex(cut.tid)) for cut in wanted.values()]
        first, last = (
            to_hex(from_datetime(moment)) for moment in (min(moments) - 3 * SPAN, max(moments) + 3 * SPAN)
        )
        before: Segment | None = None
        for segment in segments_of(entry, self._documents):
            if (segment.last_tid or "") < first:
                before = segment
            elif segment.first_tid is not None and segment.first_tid <= last:
                yield from _rows_of(self._documents, before) if before is not None else ()
                yield from _rows_of(self._documents, segment)
                before = None
        if before is not None:
            yield from _rows_of(self._documents, before)

    def _missing(self) -> TargetMissing:
        """Return the error that says of each database why it has no such target."""
        found: list[TargetMissing] = []
        for name in self.names:
            try:
                self.alone(name)
            except TargetMissing as error:
                found.append(error)
        if not found:
            return TargetMissing(
                "no backup holds all databases as they were then",
                "restore one database at a time, with --database NAME",
            )
        return TargetMissing(
            "; ".join(f"{name}: {error.message}" for name, error in zip(self.names, found, strict=False)),
            found[0].hint,
        )


class _Row(NamedTuple):
    """One transaction with the position at which it ends."""

    part: CommitPart
    end: int


def _rows_of(documents: Objects, segment: Segment) -> Iterator[_Row]:
    """Yield the rows of a segment.

    Where nothing tells what a transaction looks like, it looks like no other.
    """
    rows = transaction_rows(documents, segment)
    texts = (
        msgspec.json.decode(b"".join(documents.read(segment.log)))["rows"]
        if segment.log
        else [[row[0], row[0]] for row in rows]
    )
    for (tid, pos, size, *_), (_tid, *mark) in zip(rows, texts, strict=True):
        yield _Row(CommitPart(tid, tuple(mark)), pos + size)


def _kept(backup_id: str, entry: DatabaseEntry, rows: list[_Row], count: int) -> FoundCut:
    if not count or rows[count - 1].part.tid < (entry.pack_tid or ""):
        raise _no_state_of(backup_id, entry)
    return FoundCut(rows[count - 1].part.tid, rows[count - 1].end)


def _data_fs(backup_id: str, entry: DatabaseEntry) -> DataFs:
    """Return the Data.fs that is cut together with others; raise TargetMissing when it is none."""
    _require_storage(backup_id, entry)
    if entry.data_fs is None:
        raise TargetMissing(
            f"backup {backup_id} holds {entry.name} as a dump, and only databases that are a Data.fs can "
            "be cut together",
            "restore one database at a time, with --database NAME, or all of them by the id of the "
            f"backup: {backup_id}",
        )
    return entry.data_fs


def _require_storage(backup_id: str, entry: DatabaseEntry) -> None:
    if entry.storage is None:
        raise TargetMissing(
            f"backup {backup_id} does not hold the storage of {entry.name}", "choose another backup"
        )


def _before(request: Request) -> BeforeTid:
    """Return what a request means for a database that it does not name."""
    if isinstance(request, BeforeTid):
        return request
    last = from_datetime(request.moment) if isinstance(request, AtTimestamp) else from_hex(request.tid)
    return BeforeTid(to_hex(min(int.from_bytes(last, "big") + 1, 2**64 - 1).to_bytes(8, "big")))


def _no_state_of(backup_id: str, entry: DatabaseEntry) -> TargetMissing:
    start = entry.pack_tid or entry.first_tid
    what = "the last packed transaction" if entry.pack_tid else "the first transaction"
    return TargetMissing(
        f"{entry.name} cannot be restored to that state: {what} of it in backup {backup_id} is {start}",
        "restore the other databases without it, with --database NAME",
    )


def _whole(entry: DatabaseEntry) -> DatabaseCut:
    return DatabaseCut(entry, entry.storage.size if entry.storage else 0, entry.last_tid, 0)


def _transactions(
    backup: Backup, database: str, documents: Documents, request: Request
) -> Iterator[tuple[str, int]]:
    """Yield (TID, end) of a database's transactions, from shortly before the wanted one on when TIDs ascend."""
    entry = next((entry for entry in backup.manifest.databases if entry.name == database), None)
    if entry is None:
        raise TargetMissing(f"backup {backup.manifest.id} does not hold {database}", "choose another backup")
    _require_storage(backup.manifest.id, entry)
    log = log_of(entry, documents)
    if entry.dump is not None and not len(log) and entry.last_tid is not None:
        yield entry.last_tid, entry.dump.size
    blocks = (
        _near(entry, log, request)
        if entry.dump is not None
        else _near(entry, segments_of(entry, documents), request)
    )
    for block in blocks:
        for tid, pos, size, *_ in transaction_rows(documents, block):
            yield tid, pos + size


def _near(entry: DatabaseEntry, blocks: Chain[B], request: Request) -> Iterator[B]:
    bound = (
        to_hex(from_datetime(request.moment))
        if isinstance(request, AtTimestamp)
        else to_hex(from_hex(request.tid))
    )
    before: B | None = None
    for segment in blocks:
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
        count += sum(1 for row in transaction_rows(documents, segment) if row[1] + row[2] > end)
    return count


def _later_in_dump(entry: DatabaseEntry, documents: Documents, tid: str) -> int:
    blocks = [block for block in log_of(entry, documents) if block.last_tid > tid]
    return sum(block.count for block in blocks[1:]) + sum(
        1 for block in blocks[:1] for row in transaction_rows(documents, block) if row[0] > tid
    )


def request_of(tid: str | None, before_tid: str | None, moment: AtTimestamp | None) -> Request | None:
    """Return the request that at most one of three options makes; raise UsageError for several."""
    wanted = (
        None if tid is None else ToTid(tid),
        None if before_tid is None else BeforeTid(before_tid),
        moment,
    )
    given: list[Request] = [one for one in wanted if one is not None]
    if len(given) > 1:
        raise UsageError("--tid, --before-tid and --at exclude each other", "give one of them")
    return given[0] if given else None
