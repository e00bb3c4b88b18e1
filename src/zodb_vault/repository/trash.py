"""The trash of a repository: deleted backups, pending deletions, notes of runs that were declared dead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import msgspec

from ..errors import InUse, KeyChanged, KeyExists, KeyMissing
from ..model import canonical
from ..model.manifest import DeadRun, Manifest, PendingDeletions, RemovedBackup
from ..runtime import clock
from ..stores.base import Store
from .files import ImmutableFiles, decode_document
from .ids import id_time, is_id_file, new_id
from .layout import gone_key, trash_key, trash_prefix

ATTEMPTS: Final = 5
# The name of a site begins with a small letter or a digit, so these keys never collide with a site.
PENDING_KEY: Final = "trash/_pending.json"
BROKEN_PREFIX: Final = "trash/_broken/"


class TrashListing(msgspec.Struct):
    """The trash of a site: ids with the size of their file in bytes.

    ``backups`` are deleted backups, ``gone`` are notes of backups that were removed permanently.
    """

    backups: dict[str, int] = {}
    gone: dict[str, int] = {}


class Trash:
    """The deleted backups of a repository, whose content may still exist."""

    def __init__(self, files: ImmutableFiles) -> None:
        self._files = files

    def listing(self, site: str) -> TrashListing:
        """List the trash of a site; foreign file names are ignored."""
        listing = TrashListing()
        for entry in self._files.store.list(trash_prefix(site)):
            match entry.key.split("/")[2:]:
                case [name] if is_id_file(name):
                    listing.backups[name.removesuffix(".json")] = entry.size
                case ["gone", name] if is_id_file(name):
                    listing.gone[name.removesuffix(".json")] = entry.size
        return listing

    def backups(self, site: str) -> list[str]:
        """Return the ids of the deleted backups of a site, oldest first."""
        return list(self.listing(site).backups)

    def document(self, site: str, backup: str) -> dict[str, Any]:
        """Return the manifest of a deleted backup with all its keys.

        Raise BackupMissing, Damage or UnsupportedRepository.
        """
        key = trash_key(site, backup)
        return decode_document(self._files.read_manifest(key, site, backup), key)

    def manifest(self, site: str, backup: str) -> Manifest:
        """Return the manifest of a deleted backup; raise BackupMissing, Damage or UnsupportedRepository."""
        key = trash_key(site, backup)
        return canonical.decode(self._files.read_manifest(key, site, backup), Manifest, key)

    def note_gone(self, site: str, backup: str) -> None:
        """Note that a backup was removed permanently, so that it does not count as lost."""
        store = self._files.store
        note = RemovedBackup(id=backup, at=clock.iso(store.clock()))
        with contextlib.suppress(KeyExists):
            store.put(gone_key(site, backup), [canonical.with_digest(note)])


class PendingList:
    """The list of pending deletions: which keys may be deleted, and since when.

    It is one file that is replaced completely, so that of two concurrent sweeps one has to start over.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._data: bytes | None = None
        self.pending = PendingDeletions()
        with contextlib.suppress(KeyMissing):
            data = store.get(PENDING_KEY)
            self.pending = canonical.decode(
                canonical.check_digest(data, PENDING_KEY), PendingDeletions, PENDING_KEY
            )
            self._data = data

    @property
    def since(self) -> dict[str, datetime]:
        """Return when each key was listed first."""
        return {key: clock.parse(since) for key, since in self.pending.rows}

    def write(
        self, since: dict[str, datetime], seen: dict[str, list[str]], *, certainly: bool = False
    ) -> None:
        """Replace the list if it changes; raise InUse when another sweep replaced it since it was read.

        ``certainly``: check this even if nothing changes.
        """
        pending = PendingDeletions(
            rows=[(key, clock.iso(listed)) for key, listed in sorted(since.items())], seen=seen
        )
        if pending == self.pending and (self._data is not None or not pending.rows) and not certainly:
            return
        data = canonical.with_digest(pending)
        try:
            if self._data is None:
                self._store.put(PENDING_KEY, [data])
            else:
                self._store.replace(PENDING_KEY, data, self._data)
        except (KeyExists, KeyChanged, KeyMissing):
            raise InUse("another prune of this repository is running", "wait until it ends") from None
        self.pending, self._data = pending, data


def forget_pending(store: Store, keys: Iterable[str]) -> None:
    """Remove keys from the list, so that their grace period begins again when they are listed next.

    A concurrent sweep has to start over. Raise InUse when another process replaces the list each time, Damage
    when the list cannot be read.
    """
    gone = set(keys)
    for attempt in range(1, ATTEMPTS + 1):
        found = PendingList(store)
        if not gone & found.since.keys():
            break
        try:
            found.write(
                {key: since for key, since in found.since.items() if key not in gone}, found.pending.seen
            )
            break
        except InUse:
            if attempt == ATTEMPTS:
                raise


def note_dead_run(store: Store, marker: str) -> None:
    """Note that a run is declared dead, before its marker is replaced or removed.

    If the run is alive nevertheless, the note keeps its objects for another grace period.
    """
    now = store.clock()
    store.put(
        f"{BROKEN_PREFIX}{new_id([], now)}.json",
        [canonical.with_digest(DeadRun(at=clock.iso(now), marker=marker))],
    )


def dead_run_noted_at(key: str) -> datetime | None:
    """Return when a run was declared dead, from the name of the note; None for other keys."""
    if not key.startswith(BROKEN_PREFIX):
        return None
    return id_time(key.removeprefix(BROKEN_PREFIX).removesuffix(".json"))
