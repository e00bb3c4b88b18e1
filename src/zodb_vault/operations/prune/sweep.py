"""Sweep: delete for good what nothing has needed for the grace period.

A sweep scans the repository and lists what nothing needs (scan.py, candidates.py). What is on that list long
enough is due (due.py). Before the objects are deleted, a second scan looks for runs that came in the
meantime. Why no backup ever loses an object to this is proved in ``docs/explanation/concurrency.rst``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Final

import msgspec

from ...errors import InUse, KeyChanged, KeyMissing
from ...policy.retention import SKEW
from ...repository.ids import new_id
from ...repository.layout import trash_key
from ...repository.markers import RunMarker, is_alive
from ...repository.repository import Repository
from ...repository.trash import PendingList, dead_run_noted_at, note_dead_run
from ...runtime import clock
from ...runtime.workers import Workers
from ...stores.base import LeavesTemporaries
from .accounted import require_sites_complete
from .candidates import Candidates, Names, add_names_of_backup, add_names_of_marker, find_candidates
from .due import Due, find_due, is_temporary
from .scan import BackupRef, Scan, scan_repository

ATTEMPTS: Final = 3
# Requests to a service wait for its answers; a file system deletes one file after the other anyway.
DELETERS: Final = 8
# Without a heartbeat for so long, a run is declared dead, and its marker is removed.
ABANDONED: Final = timedelta(days=14)


class Swept(msgspec.Struct, frozen=True):
    """What was deleted for good: how many files and, exactly, how many bytes."""

    objects: int = 0
    bytes: int = 0


class SweepOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to sweep; ``site`` is the site whose prune it belongs to."""

    site: str
    grace: timedelta
    dry_run: bool = False


def sweep(repository: Repository, options: SweepOptions) -> Swept:
    """Sweep the whole repository, all sites.

    Raise Damage when something cannot be read, since it is not known then what it needs, and InUse when other
    sweeps have changed the list of candidates again and again.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _hold_marker(repository, options) as marker:
                return Sweep(repository, options, marker).run()
        except InUse:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _hold_marker(repository: Repository, options: SweepOptions) -> Iterator[RunMarker | None]:
    """Hold a marker, beside which no copy begins; a dry run writes nothing, and has none."""
    if options.dry_run:
        yield None
        return
    run_id = new_id([], repository.store.clock())
    marker = RunMarker.start(repository.store, options.site, "prune", run_id, [])
    try:
        yield marker
    finally:
        marker.remove()


class Sweep:
    """One sweep; without a marker it is a dry run."""

    def __init__(self, repository: Repository, options: SweepOptions, marker: RunMarker | None) -> None:
        self._repository, self._options, self._marker = repository, options, marker
        self._store = repository.store
        self._now = self._store.clock()
        self._pending = PendingList(self._store)

    def run(self) -> Swept:
        """Delete what is due, and return what was deleted, or would be."""
        first = scan_repository(self._repository)
        require_sites_complete(self._repository, first, self._pending)
        if self._marker is not None:
            self._remove_abandoned_markers(first)
        listed_before, grace = self._pending.since, self._options.grace
        candidates = find_candidates(self._repository, first, listed_before, self._now, grace)
        # a clock that was set back must not make a candidate older than it is
        since = {key: min(listed_before.get(key, self._now), self._now) for key in candidates.sizes}
        due = find_due(first, candidates, since, listed_before, self._now, grace)
        if self._marker is None:
            return _swept(due.keys, candidates)
        sites = {ref.site for ref in first.backups}
        self._pending.write(since, _ids_by_site(sites, first.backups), certainly=bool(due.keys))
        deleted = self.delete_due(due, first) if due.keys else []
        left = {key: time for key, time in since.items() if key not in deleted}
        self._pending.write(left, _ids_by_site(sites, first.backups - set(due.backups)))
        return _swept(deleted, candidates)

    def _remove_abandoned_markers(self, first: Scan) -> None:
        """Declare runs dead without a heartbeat for two weeks, and dead prunes at once: they need no objects.

        What such a run has stored becomes a candidate at the next sweep.
        """
        for key, (marker, data) in first.markers.items():
            is_prune = marker.what == "prune"
            recent = self._now - clock.parse(marker.heartbeat) < ABANDONED
            if is_alive(marker, self._store) or (recent and not is_prune):
                continue
            if not is_prune:
                note_dead_run(self._store, key)
            with contextlib.suppress(KeyChanged, KeyMissing):
                self._store.delete(key, expected=data)

    def delete_due(self, due: Due, first: Scan) -> list[str]:
        """Delete what is due, and return the keys that were deleted.

        The manifests in the trash go first: an undelete that comes later finds nothing. One that came earlier
        has written its marker, which the second scan sees.
        """
        manifests = [trash_key(*ref) for ref in due.backups]
        for ref in sorted(due.backups):
            self._repository.trash.note_gone(*ref)
            self._store.delete(trash_key(*ref))
        needed = self.needed_after_all(due, first)
        if needed is None:
            return manifests
        deleted = [key for key in due.keys if key.rpartition("/")[2] not in needed]
        with Workers(DELETERS, self._heartbeat) as pool:
            jobs = (partial(self.remove, key) for key in deleted if key not in manifests)
            for _ in pool.in_order(jobs):
                self._heartbeat()
        self._remove_old_notes(first)
        return deleted

    def needed_after_all(self, due: Due, first: Scan) -> set[str] | None:
        """Scan again, and return the names that are needed by what was not there in the first scan.

        A name is the last part of a key. None: a copy is running now, and nothing may be deleted.
        """
        second = scan_repository(self._repository)
        if second.copy_is_running:
            return None
        needed: Names = {}
        for key, (marker, data) in second.markers.items():
            if first.markers.get(key, (marker, b""))[1] != data:
                add_names_of_marker(self._repository, key, marker, data, needed)
                for ref in (BackupRef(key.split("/")[1], backup) for backup in marker.uses):
                    # its manifest may have been deleted above; then what it needs is still known
                    needed |= due.backups.get(ref) or {}
                    add_names_of_backup(self._repository, ref, needed)
        for ref in second.backups - (first.backups - set(due.backups)):
            add_names_of_backup(self._repository, ref, needed)
        new_backups = second.backups - first.backups
        labels = {key.rpartition("/")[2] for key in second.labels if _backup_of_label(key) in new_backups}
        return set(needed) | labels | {f"{ref.id}.sig" for ref in second.backups}

    def _remove_old_notes(self, first: Scan) -> None:
        """Remove the notes about dead runs that block no deletion any more."""
        for key in first.dead_runs:
            noted = dead_run_noted_at(key)
            if noted and self._now - noted >= self._options.grace + SKEW:
                self._store.delete(key)

    def remove(self, key: str) -> None:
        """Delete one file for good."""
        if isinstance(self._store, LeavesTemporaries) and is_temporary(key):
            self._store.remove_temporary(key)
        else:
            self._store.delete(key)

    def _heartbeat(self) -> None:
        """Renew the marker if that is due; raise InUse when another run has removed it."""
        if self._marker is not None and self._marker.heartbeat_is_due():
            self._marker.update()


def _backup_of_label(key: str) -> BackupRef:
    _, site, _, backup, _ = key.split("/")
    return BackupRef(site, backup)


def _ids_by_site(sites: set[str], backups: set[BackupRef]) -> dict[str, list[str]]:
    return {site: sorted(ref.id for ref in backups if ref.site == site) for site in sorted(sites)}


def _swept(keys: list[str], candidates: Candidates) -> Swept:
    return Swept(len(keys), sum(candidates.sizes[key] for key in keys))
