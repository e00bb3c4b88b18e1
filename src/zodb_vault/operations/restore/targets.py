"""Find the backup that a request means, and for each of its databases the transaction at which it ends."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ...errors import Damage, TargetMissing, UsageError
from ...model.chain import log_of
from ...model.manifest import DatabaseEntry, DataFs
from ...model.restore import DatabaseCut
from ...model.tid import from_hex, to_datetime, to_hex
from ...policy.commits import consistent_cuts
from ...policy.recovery import (
    AtTimestamp,
    BeforeTid,
    Request,
    SearchResult,
    ToTid,
    cut_point_within,
    find_cut,
    highest_tid,
    search,
)
from ...policy.recovery import CutPoint as FoundCut
from ...policy.selection import LATEST
from ...policy.timelines import Answer, agree, ambiguous, answer_of, rivals
from ..catalog import Backup, Catalog
from ..findings import require_clear_latest
from .backup_transactions import (
    TransactionEnd,
    later_in_data_fs,
    later_in_dump,
    require_storage,
    transactions_around,
    transactions_near,
)

LAST_TID = 2**64 - 1


class RestoreTarget(msgspec.Struct, frozen=True):
    """What is restored: a backup, and which part of each of its databases.

    ``notes`` are what the user has to know of the choice.
    """

    backup: Backup
    cuts: list[DatabaseCut]
    notes: tuple[str, ...] = ()


def resolve(
    catalog: Catalog, backup: str | None, request: Request | None, databases: tuple[str, ...] = ()
) -> RestoreTarget:
    """Return what an id (prefix, name, ``latest``, None) and a request mean together.

    Of several databases, a TID names one transaction in one of them. ``policy/commits.py`` decides where
    the others end. Raise BackupMissing, UsageError, TargetMissing, and TargetAmbiguous when another timeline
    has another state for the request; reads only.
    """
    if request is None:
        if backup in (None, LATEST):
            require_clear_latest(catalog)
        chosen = catalog.select(LATEST if backup is None else backup)
        return RestoreTarget(chosen, [_whole(entry) for entry in _entries(chosen, databases)])
    explicit = catalog.select(backup).manifest.id if backup not in (None, LATEST) else None
    resolver = TargetResolver(catalog, explicit, request, databases)
    target = resolver.resolve()
    if explicit is not None:
        return target
    return msgspec.structs.replace(target, notes=resolver.require_agreement(target))


def request_of(tid: str | None, before_tid: str | None, timestamp: AtTimestamp | None) -> Request | None:
    """Return the request that at most one of three options makes; raise UsageError for several."""
    wanted = (
        None if tid is None else ToTid(tid),
        None if before_tid is None else BeforeTid(before_tid),
        timestamp,
    )
    given: list[Request] = [one for one in wanted if one is not None]
    if len(given) > 1:
        raise UsageError("--tid, --before-tid and --at exclude each other", "give one of them")
    return given[0] if given else None


def _entries(backup: Backup, databases: tuple[str, ...]) -> list[DatabaseEntry]:
    known = [entry.name for entry in backup.manifest.databases]
    if unknown := [name for name in databases if name not in known]:
        raise UsageError(
            f"backup {backup.manifest.id} has no database {', '.join(unknown)}", f"it has {', '.join(known)}"
        )
    return [entry for entry in backup.manifest.databases if not databases or entry.name in databases]


class TargetResolver:
    """Looks for the backup that a request means. ``explicit`` is its id if the user gave one.

    ``names`` are the databases that are restored.
    """

    def __init__(
        self, catalog: Catalog, explicit: str | None, request: Request, databases: tuple[str, ...]
    ) -> None:
        self._catalog, self._explicit, self._request = catalog, explicit, request
        self._databases = databases
        self._documents = catalog.repository.objects("")
        backups = list(catalog.newest_first())
        self._searchable = [one.searchable for one in backups]
        among = [catalog.backup(explicit)] if explicit else backups
        known = list(dict.fromkeys(entry.name for backup in among for entry in backup.manifest.databases))
        if unknown := [name for name in databases if name not in known]:
            raise UsageError(
                f"there is no database {', '.join(unknown)} in the backups",
                f"the databases are: {', '.join(known)}",
            )
        self.names = [name for name in known if not databases or name in databases] or ["main"]

    def resolve(self) -> RestoreTarget:
        """Return the backup for the request, from the current timeline or the given backup."""
        return self.resolve_one(self.names[0]) if len(self.names) == 1 else self.resolve_together()

    def require_agreement(self, target: RestoreTarget) -> tuple[str, ...]:
        """Raise TargetAmbiguous when another timeline answers the request with another state than ``target``.

        Return a note for each backup that could not be searched.
        """
        answers = [self._answer(target)]
        notes = []
        for group in rivals(self._searchable, self.names, self._request):
            for backup_id in group:
                try:
                    answer = self._answer_of(backup_id)
                except Damage as error:
                    notes.append(
                        f"backup {backup_id} of another timeline could not be searched: {error.message}"
                    )
                    continue
                if answer is not None:
                    answers += [] if any(agree(answer, one) for one in answers) else [answer]
                    break
        if len(answers) > 1:
            raise ambiguous(self._request, answers)
        return tuple(notes)

    def _answer(self, target: RestoreTarget, *, whole: bool = False) -> Answer:
        tids = {cut.entry.name: cut.last_tid for cut in target.cuts}
        return answer_of(target.backup.manifest.id, self._searchable, tids, whole=whole)

    def _answer_of(self, backup_id: str) -> Answer | None:
        """Return what the request means in one backup, None when it has no answer.

        A time in the second in which the backup began may be later than all that it is known to cover. Then
        the answer is its end.
        """
        backup = self._catalog.backup(backup_id)
        if not set(self._databases) <= {one.name for one in backup.manifest.databases}:
            return None
        resolver = TargetResolver(self._catalog, backup_id, self._request, self._databases)
        try:
            return self._answer(resolver.resolve())
        except TargetMissing:
            entries = [one for one in backup.manifest.databases if one.name in resolver.names]
            highest = highest_tid(self._request)
            if isinstance(self._request, ToTid) or any((one.last_tid or "") > highest for one in entries):
                return None
            return self._answer(RestoreTarget(backup, [_whole(one) for one in entries]), whole=True)

    def resolve_one(self, name: str) -> RestoreTarget:
        """Return the backup for a request about one database; raise TargetMissing."""
        try:
            found = find_cut(
                self._search(name, self._request), lambda one: self._read(one, name, self._request)
            )
        except TargetMissing as error:
            raise self._without_history(name, error) from None
        chosen = self._catalog.backup(found.backup_id)
        entry = next(entry for entry in chosen.manifest.databases if entry.name == name)
        return RestoreTarget(chosen, [self._cut(entry, found.cut) if found.cut else _whole(entry)])

    def resolve_together(self) -> RestoreTarget:
        """Return the newest backup in which all databases reach the requested state; raise TargetMissing.

        No commit that spans databases is restored in only some of them.
        """
        refusals: list[TargetMissing] = []
        for backup_id, named in self._candidates():
            try:
                return self._in_backup(backup_id, named)
            except TargetMissing as refusal:
                refusals.append(refusal)
        raise refusals[0] if refusals else self._missing()

    def _without_history(self, name: str, error: TargetMissing) -> TargetMissing:
        """Add the reason for a dump of which only the last state can be restored."""
        backups = self._catalog.newest_first()
        entries = (entry for backup in backups for entry in backup.manifest.databases if entry.name == name)
        newest = next(entries, None)
        if newest is None or newest.dump is None or len(log_of(newest, self._documents)):
            return error
        why = "keeps no history"
        if newest.history is not False:
            why = "is backed up without the list of its transactions"
        return TargetMissing(
            f"{error.message}; {name} {why}: what can be restored is the last state of each of its backups",
            "restore one of its backups as a whole: `zodb-vault list` shows them, "
            "with the last transaction of each in its --json",
        )

    def _search(self, name: str, request: Request) -> SearchResult:
        return search(self._searchable, name, request, self._explicit)

    def _read(self, backup_id: str, name: str, request: Request) -> Iterator[tuple[str, int]]:
        return transactions_near(self._catalog.backup(backup_id), name, self._documents, request)

    def _cut(self, entry: DatabaseEntry, cut: FoundCut) -> DatabaseCut:
        if entry.dump is not None:
            dropped = later_in_dump(entry, self._documents, cut.tid)
            return DatabaseCut(entry, entry.dump.size, cut.tid, dropped)
        dropped = later_in_data_fs(entry, self._documents, cut.end)
        return DatabaseCut(entry, cut.end, cut.tid, dropped)

    def _candidates(self) -> Iterator[tuple[str, str | None]]:
        """Yield the backups to look into, newest first, each with the database that has the requested TID.

        None instead of a database: the request is a time, or everything before a TID.
        """
        choices = [
            (choice, name) for name in self.names for choice in self._search(name, self._request).choices
        ]
        choices.sort(key=lambda one: one[0].backup_id, reverse=True)
        if not isinstance(self._request, ToTid):
            yield from dict.fromkeys((choice.backup_id, None) for choice, _name in choices)
            return
        for choice, name in choices:
            found = cut_point_within(self._read(choice.backup_id, name, self._request), choice)
            if isinstance(found, FoundCut):
                yield choice.backup_id, name

    def _in_backup(self, backup_id: str, named: str | None) -> RestoreTarget:
        """Return the cut point of each database in one backup; raise TargetMissing.

        ``named`` is the database that has the requested TID.
        """
        backup = self._catalog.backup(backup_id)
        entries = [entry for entry in backup.manifest.databases if entry.name in self.names]
        _require_ordered(backup_id, entries)
        wanted = {
            entry.name: self._wanted(backup_id, entry, named)
            for entry in entries
            if entry.first_tid is not None
        }
        times = [to_datetime(from_hex(cut.tid)) for cut in wanted.values()]
        ends = {
            entry.name: list(transactions_around(entry, self._documents, min(times), max(times)))
            for entry in entries
            if entry.name in wanted
        }
        counts = consistent_cuts(
            {name: [one.part for one in some] for name, some in ends.items()},
            {name: sum(one.end <= wanted[name].end for one in some) for name, some in ends.items()},
            named if len(entries) > 1 else None,
        )
        cuts = []
        for entry in entries:
            if entry.name in wanted:
                last = _last_kept(backup_id, entry, ends[entry.name], counts[entry.name])
                cuts.append(self._cut(entry, last))
            else:  # an empty database
                cuts.append(_whole(entry))
        return RestoreTarget(backup, cuts)

    def _wanted(self, backup_id: str, entry: DatabaseEntry, named: str | None) -> FoundCut:
        """Return the cut point that the request means for one database, even where it splits a commit.

        Raise TargetMissing.
        """
        request = self._request if entry.name == named else _before(self._request)
        end = _require_data_fs(backup_id, entry).end
        if isinstance(request, BeforeTid) and entry.last_tid is not None and entry.last_tid < request.tid:
            # The backup has one cut point for all databases: what is later is in another database.
            return FoundCut(entry.last_tid, end)
        choices = self._search(entry.name, request).choices
        choice = next((one for one in choices if one.backup_id == backup_id), None)
        cut = cut_point_within(self._read(backup_id, entry.name, request), choice) if choice else None
        if not isinstance(cut, FoundCut):
            raise _no_state_of(backup_id, entry)
        return cut

    def _missing(self) -> TargetMissing:
        """Return the error that says of each database why it has no such target."""
        found: list[tuple[str, TargetMissing]] = []
        for name in self.names:
            try:
                self.resolve_one(name)
            except TargetMissing as error:
                found.append((name, error))
        if not found:
            return TargetMissing(
                "no backup holds all databases as they were then",
                "restore one database at a time, with --database NAME",
            )
        return TargetMissing("; ".join(f"{name}: {error.message}" for name, error in found), found[0][1].hint)


def _require_ordered(backup_id: str, entries: list[DatabaseEntry]) -> None:
    """Raise TargetMissing when the TIDs of one of several databases do not ascend."""
    unordered = next((entry.name for entry in entries if not entry.ordered), None)
    if unordered is not None and len(entries) > 1:
        raise TargetMissing(
            f"the TIDs of {unordered} in backup {backup_id} do not ascend, so it is not known which "
            "transactions of several databases belong together",
            "restore one database at a time, with --database NAME",
        )


def _last_kept(backup_id: str, entry: DatabaseEntry, ends: list[TransactionEnd], count: int) -> FoundCut:
    """Return where the first ``count`` of some transactions end; raise TargetMissing for a packed one."""
    if not count or ends[count - 1].part.tid < (entry.pack_tid or ""):
        raise _no_state_of(backup_id, entry)
    last = ends[count - 1]
    return FoundCut(last.part.tid, last.end)


def _require_data_fs(backup_id: str, entry: DatabaseEntry) -> DataFs:
    """Return the Data.fs that is restored to one state together with others.

    Raise TargetMissing for a dump.
    """
    require_storage(backup_id, entry)
    if entry.data_fs is None:
        raise TargetMissing(
            f"backup {backup_id} holds {entry.name} as a dump, and only databases that are a Data.fs can be "
            "restored together to one transaction",
            "restore one database at a time, with --database NAME, "
            f"or all of them by the id of the backup: {backup_id}",
        )
    return entry.data_fs


def _before(request: Request) -> BeforeTid:
    """Return what a request means for a database that does not have the requested TID."""
    if isinstance(request, BeforeTid):
        return request
    last = from_hex(highest_tid(request))
    return BeforeTid(to_hex(min(int.from_bytes(last, "big") + 1, LAST_TID).to_bytes(8, "big")))


def _no_state_of(backup_id: str, entry: DatabaseEntry) -> TargetMissing:
    start = entry.pack_tid or entry.first_tid
    what = "the last packed transaction" if entry.pack_tid else "the first transaction"
    return TargetMissing(
        f"{entry.name} cannot be restored to that state: {what} of it in backup {backup_id} is {start}",
        "restore the other databases without it, with --database NAME",
    )


def _whole(entry: DatabaseEntry) -> DatabaseCut:
    return DatabaseCut(entry, entry.storage.size if entry.storage else 0, entry.last_tid, 0)
