"""The backups of a site, read once for a command: manifests, labels, and the markers of runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Final

import msgspec

from ..config.settings import SITE_NAME
from ..errors import BackupMissing, Damage, KeyMissing
from ..model.capture import PreviousBackup
from ..model.manifest import DatabaseEntry, Dump, Label, Manifest, Marker, PgTransactions, Timeline
from ..policy import retention
from ..policy.recovery import SearchableBackup, TidRange
from ..policy.selection import SelectableBackup, matching_deleted, select
from ..repository import markers
from ..repository.damage import DamageRegister, NeededDamage
from ..repository.ids import ID_TIME
from ..repository.labels import LabelFacts
from ..repository.layout import Listing, is_manifest_key
from ..repository.repository import Repository
from ..runtime import clock

# What can only be the beginning of an id, and is no name that a user would choose.
BEGINNING_OF_ID: Final = re.compile(r"\d{8}T\d")


def sites_with_backups(repository: Repository) -> list[str]:
    """Return the names of the sites that have backups, sorted; a name that no site can have is ignored.

    One LIST answers it for the whole command.
    """
    if repository.backed_up_sites is None:
        folders = {
            key.split("/")[1] for key, _size in repository.store.list("sites/") if is_manifest_key(key)
        }
        repository.backed_up_sites = sorted(name for name in folders if SITE_NAME.fullmatch(name))
    return repository.backed_up_sites


def site_of_backup(repository: Repository, text: str) -> str | None:
    """Return the site that has the backup with this id, or unique beginning of one; None when none has."""
    if not BEGINNING_OF_ID.match(text):
        return None
    sites = [name for name in repository.sites() if SITE_NAME.fullmatch(name)]
    found = {
        backup: name
        for name in sites
        for backup in (*repository.listing(name).backups, *repository.trash.backups(name))
        if backup.startswith(text)
    }
    return next(iter(found.values())) if len(found) == 1 else None


def parents(catalog: Catalog) -> Iterator[Backup]:
    """Yield the backups that a whole backup can continue, newest first.

    A backup with missing blobs is one of them: its child looks for these blobs again.
    """
    return (
        backup
        for backup in catalog.readable()
        if backup.manifest.whole and backup.manifest.trigger != "safety"
    )


def previous_backups_of(catalog: Catalog, database: str) -> Iterator[PreviousBackup]:
    """Yield what these backups have of one database, newest first."""
    for backup in parents(catalog):
        for entry in backup.manifest.databases:
            if entry.name == database and entry.storage is not None:
                captured = clock.parse(backup.manifest.created_at)
                yield PreviousBackup(id=backup.manifest.id, captured=captured, entry=entry)


class Backup(msgspec.Struct):
    """One backup: its manifest, what its labels say, and the names of the ``damaged`` objects it needs."""

    manifest: Manifest
    facts: LabelFacts
    damaged: frozenset[str] = frozenset()

    @property
    def damage(self) -> str | None:
        """Return in words why it counts as damaged, None when nothing is known to be wrong."""
        failures = self.facts.open_failures
        if self.damaged:
            number = len(self.damaged)
            return f"needs {number} damaged object{'s' if number > 1 else ''}"
        return f"failed its verification ({failures[0].level})" if failures else None

    @property
    def complete(self) -> bool:
        """Tell whether nothing is missing, or the loss was accepted."""
        return self.manifest.status == "complete" or self.facts.accept_missing

    @property
    def counts(self) -> bool:
        """Tell whether this can be the last complete backup, which must not be removed."""
        return self.complete and self.manifest.whole and self.manifest.trigger != "safety"

    @property
    def new_history(self) -> bool:
        """Tell whether it shares no transaction with the backups before it, and that was not accepted.

        The reason of a backup with several databases may be that of another database. So the timeline counts
        as well: it begins again when one of the databases has a new history.
        """
        manifest = self.manifest
        is_first = manifest.reason.code in ("first", "resumed") or not manifest.seen
        first_of_site = is_first and manifest.parent is None
        begins_timeline = manifest.timeline == [Timeline(manifest.id, None)] and not first_of_site
        is_new = begins_timeline or manifest.reason.code == "new-history"
        return is_new and not self.facts.accept_history

    def retained(self, in_use: str | None = None) -> retention.RetainedBackup:
        """Return the facts that the retention rules need; ``in_use`` names the run that uses the backup."""
        return retention.RetainedBackup(
            id=self.manifest.id,
            created_at=clock.parse(self.manifest.created_at),
            trigger=self.manifest.trigger,
            complete=self.complete,
            whole=self.manifest.whole,
            pinned=self.facts.pinned,
            in_use=in_use,
            damage=self.damage,
            new_history=self.new_history,
        )

    @property
    def selectable(self) -> SelectableBackup:
        """Return the facts for a selection by id or name."""
        return SelectableBackup(
            id=self.manifest.id,
            name=self.facts.name,
            status="complete" if self.complete else "incomplete",
            whole=self.manifest.whole,
            trigger=self.manifest.trigger,
        )

    @property
    def searchable(self) -> SearchableBackup:
        """Return the facts for a search by transaction or time."""
        databases = {
            entry.name: TidRange(entry.first_tid, entry.pack_tid, entry.last_tid)
            for entry in self.manifest.databases
        }
        return SearchableBackup(
            id=self.manifest.id,
            created_at=clock.parse(self.manifest.created_at),
            complete=self.complete,
            whole=self.manifest.whole,
            trigger=self.manifest.trigger,
            timeline=tuple(self.manifest.timeline),
            ordered=all(entry.ordered for entry in self.manifest.databases),
            databases=databases,
        )


class Catalog:
    """The backups of one site, as they were listed when this was made.

    ``damaged`` says which manifests ``readable`` could not read, and why.
    """

    def __init__(self, repository: Repository, site: str) -> None:
        self.repository, self.site = repository, site
        self.listing: Listing = repository.listing(site)
        self._backups: dict[str, Backup] = {}
        self.damaged: dict[str, str] = {}

    def add(self, manifest: Manifest, facts: LabelFacts) -> None:
        """Add a backup that was made after the listing."""
        self.listing.backups = sorted({*self.listing.backups, manifest.id})
        self._backups[manifest.id] = Backup(manifest, facts)

    def backup(self, backup_id: str) -> Backup:
        """Return one backup; raise BackupMissing or Damage."""
        if backup_id not in self._backups:
            manifest = self.repository.manifest(self.site, backup_id)
            facts = self.repository.labels.facts(self.listing, backup_id)
            self._backups[backup_id] = Backup(manifest, facts, self._damaged_objects(backup_id))
        return self._backups[backup_id]

    @cached_property
    def register(self) -> DamageRegister:
        """Return the register of the damaged objects of the site."""
        return self.repository.damage(self.listing, self.site)

    @cached_property
    def needed_damage(self) -> NeededDamage:
        """Return what finds the damaged objects that a backup needs."""
        return NeededDamage(self.register.objects.keys(), self.repository.objects(""))

    def _damaged_objects(self, backup_id: str) -> frozenset[str]:
        """Return the damaged objects that a backup needs; its lists are read only if there are any."""
        if not self.register.objects:
            return frozenset()
        return self.needed_damage.of(self.repository.manifest_document(self.site, backup_id))

    def newest_first(self) -> Iterator[Backup]:
        """Yield all backups; raise Damage at one that cannot be read.

        For decisions that could be different if the damaged backup could be read.
        """
        for backup_id in reversed(self.listing.backups):
            if (backup := self._unless_deleted(backup_id)) is not None:
                yield backup

    def readable(self) -> Iterator[Backup]:
        """Yield the backups that can be read, newest first, and add the others to ``damaged``."""
        for backup_id in reversed(self.listing.backups):
            try:
                backup = self._unless_deleted(backup_id)
            except Damage as error:
                self.damaged[backup_id] = error.message
                continue
            if backup is not None:
                yield backup

    def intact(self) -> Iterator[Backup]:
        """Yield the backups that can be read, newest first; the others are for other checks to report."""
        for backup_id in reversed(self.listing.backups):
            with contextlib.suppress(Damage):
                if (backup := self._unless_deleted(backup_id)) is not None:
                    yield backup

    def unaccepted_history(self) -> Backup | None:
        """Return the newest backup that begins a new history which no user has accepted, None without one.

        The first of the site's backups begins nothing.
        """
        begin = None
        for backup in self.intact():
            if not backup.manifest.whole or backup.manifest.trigger == "safety":
                continue
            if begin is not None:
                return begin
            begin = backup if backup.new_history else None
        return None

    def _unless_deleted(self, backup_id: str) -> Backup | None:
        """Return a backup, None when it was deleted after the listing."""
        try:
            return self.backup(backup_id)
        except BackupMissing:
            return None

    def labels_since(self, created_at: str) -> Iterator[Label]:
        """Yield the labels of all backups that were stored at this time or later; older ones are not read.

        All labels are read when the clock was ahead at this time: theirs may have been right.
        """
        since = clock.parse(created_at)
        stamp = since.strftime(ID_TIME) if since <= clock.now() else ""
        for keys in self.listing.labels.values():
            for key in keys:
                if key.rsplit("/", 1)[1] >= stamp:  # the name of a label begins with its time
                    yield self.repository.labels.get(key)

    def select(self, text: str) -> Backup:
        """Return the backup with this id, prefix or name, or ``latest``; raise UsageError or BackupMissing.

        With a whole id no other manifest is read, so that a damaged one does not matter.
        """
        if text in self.listing.backups:
            return self.backup(text)
        try:
            return self.backup(select(text, [backup.selectable for backup in self.newest_first()]))
        except BackupMissing:
            deleted = matching_deleted(text, self.trashed())
            if not deleted:
                raise
            raise BackupMissing(
                f"backup {deleted[0]} is in the trash", f"`zodb-vault undelete {deleted[0]}` brings it back"
            ) from None

    def trashed(self) -> dict[str, str | None]:
        """Return the ids of the backups in the trash of the site, oldest first, with their names."""
        ids = self.repository.trash.backups(self.site)
        return {one: self.repository.labels.facts(self.listing, one).name for one in ids}

    @cached_property
    def markers(self) -> dict[str, tuple[Marker, bytes]]:
        """Return the markers of runs, alive or dead, by key."""
        found = {}
        for key in self.listing.markers:
            try:
                found[key] = markers.read_marker(self.repository.store, key)
            except KeyMissing:
                continue  # the run has just ended
        return found

    def live_markers(self) -> list[Marker]:
        """Return the markers of runs that can be alive."""
        store = self.repository.store
        return [marker for marker, _data in self.markers.values() if markers.is_alive(marker, store)]


def raw_size(entry: DatabaseEntry) -> int:
    """Return the bytes that a restore of a database writes."""
    return (entry.storage.size if entry.storage else 0) + (entry.blobs.size if entry.blobs else 0)


def stored_size(entry: DatabaseEntry) -> int:
    """Return the bytes of all objects and documents that a database of a backup needs."""
    total = _size_beside(entry.dump) if entry.dump else 0
    for component in (entry.storage, entry.blobs):
        if component is not None:
            total += sum(ref.stored for ref in component.lists)
            total += sum(one.stored for one in component.tail)
    return total


def _size_beside(dump: Dump) -> int:
    """Return the bytes of what belongs to a dump beside its parts: files, log and deltas."""
    total = sum(part.stored for part in dump.files)
    total += sum(ref.stored for ref in dump.log_lists) + sum(block.stored for block in dump.log)
    if isinstance(dump, PgTransactions):
        total += sum(ref.stored for ref in dump.delta_lists) + sum(delta.stored for delta in dump.deltas)
    return total
