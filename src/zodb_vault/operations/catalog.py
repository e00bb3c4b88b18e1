"""What backups a site has, read once for a command: manifests, facts, runs in progress."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import msgspec

from ..errors import BackupMissing, Damage, KeyMissing
from ..model.capture import PreviousBackup
from ..model.manifest import DatabaseEntry, Label, Manifest, Marker, PgTransactions, Timeline
from ..policy import retention
from ..policy.recovery import SearchableBackup, TidRange
from ..policy.selection import SelectableBackup, select
from ..repository import markers
from ..repository.ids import ID_TIME
from ..repository.labels import LabelFacts
from ..repository.repository import Listing, Repository
from ..runtime import clock


def parents(catalog: Catalog) -> Iterator[Backup]:
    """Yield the backups that a whole one may continue, newest first; one that lacks blobs may, its child looks for them again."""
    return (
        backup
        for backup in catalog.readable()
        if backup.manifest.whole and backup.manifest.trigger != "safety"
    )


def previous_backups_of(catalog: Catalog, database: str) -> Iterator[PreviousBackup]:
    """Yield what these backups have of one database."""
    for backup in parents(catalog):
        for entry in backup.manifest.databases:
            if entry.name == database and entry.storage is not None:
                yield PreviousBackup(
                    id=backup.manifest.id, captured=clock.parse(backup.manifest.created_at), entry=entry
                )


class Backup(msgspec.Struct):
    """One backup with what its labels say."""

    manifest: Manifest
    facts: LabelFacts

    @property
    def complete(self) -> bool:
        """Tell whether nothing is missing, or what is was accepted as lost."""
        return self.manifest.status == "complete" or self.facts.accept_missing

    @property
    def counts(self) -> bool:
        """Tell whether it can be the last one that must not go."""
        return self.complete and self.manifest.whole and self.manifest.trigger != "safety"

    @property
    def new_history(self) -> bool:
        """Tell whether it shares no transaction with the backups before it, and nobody has accepted that.

        Of several databases only one may be new: the line says it even where the reason is that of another one.
        """
        m = self.manifest
        begins = m.timeline == [Timeline(m.id, None)] and not (
            m.reason.code in ("first", "resumed") and m.parent is None
        )
        return (begins or m.reason.code == "new-history") and not self.facts.accept_history

    def retained(self, in_use: str | None = None) -> retention.RetainedBackup:
        """Return what deciding whether it stays needs."""
        m = self.manifest
        return retention.RetainedBackup(
            id=m.id,
            created_at=clock.parse(m.created_at),
            trigger=m.trigger,
            complete=self.complete,
            whole=m.whole,
            pinned=self.facts.pinned,
            in_use=in_use,
            failed=self.facts.failed,
            new_history=self.new_history,
        )

    @property
    def candidate(self) -> SelectableBackup:
        """Return what choosing by id or name needs."""
        m = self.manifest
        return SelectableBackup(
            id=m.id,
            name=self.facts.name,
            status="complete" if self.complete else "incomplete",
            whole=m.whole,
            trigger=m.trigger,
        )

    @property
    def reach(self) -> SearchableBackup:
        """Return what choosing by transaction or moment needs."""
        m = self.manifest
        return SearchableBackup(
            id=m.id,
            created_at=clock.parse(m.created_at),
            complete=self.complete,
            whole=m.whole,
            trigger=m.trigger,
            timeline=tuple(m.timeline),
            ordered=all(entry.ordered for entry in m.databases),
            databases={
                entry.name: TidRange(entry.first_tid, entry.pack_tid, entry.last_tid) for entry in m.databases
            },
        )


class Catalog:
    """The backups of one site as they are listed now."""

    def __init__(self, repository: Repository, site: str) -> None:
        self.repository, self.site = repository, site
        self.listing: Listing = repository.listing(site)
        self._backups: dict[str, Backup] = {}
        self.damaged: dict[str, str] = {}

    def backup(self, backup_id: str) -> Backup:
        """Return one backup; raise BackupMissing or Damage."""
        if backup_id not in self._backups:
            manifest = self.repository.manifest(self.site, backup_id)
            self._backups[backup_id] = Backup(manifest, self.repository.facts(self.listing, backup_id))
        return self._backups[backup_id]

    def newest_first(self) -> Iterator[Backup]:
        """Yield all backups; raise Damage at one that cannot be read: a choice among them could be another one with it."""
        for backup_id in reversed(self.listing.backups):
            if (backup := self._unless_deleted(backup_id)) is not None:
                yield backup

    def readable(self) -> Iterator[Backup]:
        """Yield the backups that can be read, newest first; ``damaged`` says what is wrong with the others."""
        for backup_id in reversed(self.listing.backups):
            try:
                backup = self._unless_deleted(backup_id)
            except Damage as error:
                self.damaged[backup_id] = error.message
                continue
            if backup is not None:
                yield backup

    def _unless_deleted(self, backup_id: str) -> Backup | None:
        """Return a backup, None when it was deleted since the list was made."""
        try:
            return self.backup(backup_id)
        except BackupMissing:
            return None

    def labels_since(self, created_at: str) -> Iterator[Label]:
        """Yield the labels that were stored at this time or later, of whatever backup; their names tell, older ones are not read."""
        stamp = clock.parse(created_at).strftime(ID_TIME)
        for key in (key for keys in self.listing.labels.values() for key in keys):
            if key.rsplit("/", 1)[1] >= stamp:
                yield self.repository.label(key)

    def select(self, text: str) -> Backup:
        """Return the backup that an id, a prefix, a name or ``latest`` means; raise UsageError or BackupMissing.

        A whole id is found although the manifest of another backup is damaged.
        """
        if text in self.listing.backups:
            return self.backup(text)
        return self.backup(select(text, [backup.candidate for backup in self.newest_first()]))

    @cached_property
    def markers(self) -> dict[str, tuple[Marker, bytes]]:
        """Return the markers of runs, live and dead, by key."""
        found = {}
        for key in self.listing.markers:
            try:
                found[key] = markers.read_marker(self.repository.store, key)
            except KeyMissing:
                continue  # that run has just finished
        return found

    def live_markers(self) -> list[Marker]:
        """Return the markers of runs that can still be going on."""
        return [
            marker for marker, _ in self.markers.values() if markers.is_alive(marker, self.repository.store)
        ]


def raw_size(entry: DatabaseEntry) -> int:
    """Return the bytes that a restore of a database writes."""
    return (entry.storage.size if entry.storage else 0) + (entry.blobs.size if entry.blobs else 0)


def stored_size(entry: DatabaseEntry) -> int:
    """Return the bytes of all objects and documents that a database of a backup needs."""
    halves = [half for half in (entry.storage, entry.blobs) if half is not None]
    dump = entry.dump
    beside = 0
    if dump is not None:
        beside += (
            sum(part.stored for part in dump.files)
            + sum(ref.stored for ref in dump.log_lists)
            + sum(one.stored for one in dump.log)
        )
    if isinstance(dump, PgTransactions):
        beside += sum(ref.stored for ref in dump.delta_lists) + sum(delta.stored for delta in dump.deltas)
    return (
        beside
        + sum(ref.stored for half in halves for ref in half.lists)
        + sum(one.stored for half in halves for one in half.tail)
    )
