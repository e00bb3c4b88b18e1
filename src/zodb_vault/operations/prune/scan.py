"""One scan of the repository: everything that can need objects, and everything that may be left over."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from ...errors import KeyMissing
from ...model.manifest import Marker
from ...repository.ids import is_id_file
from ...repository.layout import MARKER
from ...repository.markers import read_marker
from ...repository.repository import Repository


class BackupRef(NamedTuple):
    """A backup of a site, listed or in the trash."""

    site: str
    id: str


class Scan(NamedTuple):
    """What one scan has found; sizes are bytes, by key where nothing else is said."""

    markers: dict[str, tuple[Marker, bytes]]
    listed: set[BackupRef]
    trashed: dict[BackupRef, int]
    labels: dict[str, int]
    gone: dict[BackupRef, int]
    dead_runs: dict[str, int]
    signatures: dict[str, int]

    @property
    def backups(self) -> set[BackupRef]:
        """Return all backups, listed or in the trash."""
        return self.listed | set(self.trashed)

    @property
    def used(self) -> set[BackupRef]:
        """Return the backups that a marker protects."""
        return {
            BackupRef(key.split("/")[1], backup)
            for key, (marker, _data) in self.markers.items()
            for backup in marker.uses
        }

    @property
    def copy_is_running(self) -> bool:
        """Tell whether a copy into this repository is running: it relies on every object that it found here.

        A copy that has ended only relies on the objects that its marker names.
        """
        return any(marker.what == "copy" and not marker.ended for marker, _data in self.markers.values())


def scan_repository(repository: Repository) -> Scan:
    """Scan all sites.

    The order counts: markers, then backups, then the trash. ``delete`` and ``undelete`` write a marker before
    they move a backup. So a backup that moves during the scan is found in one of the places, or its marker
    is.
    """
    found = Scan({}, set(), {}, {}, {}, {}, {})
    _scan_markers(repository, found)
    _scan_sites(repository, found)
    _scan_trash(repository, found)
    return found


def _scan_markers(repository: Repository, found: Scan) -> None:
    for key, _size in repository.store.list("sites/"):
        match key.split("/")[1:]:
            case [_, "running", name] if MARKER.match(name):
                with contextlib.suppress(KeyMissing):  # the run has just ended
                    found.markers[key] = read_marker(repository.store, key)
            case [site, "backups", name] if is_id_file(name):
                found.listed.add(BackupRef(site, name.removesuffix(".json")))


def _scan_sites(repository: Repository, found: Scan) -> None:
    for key, size in repository.store.list("sites/"):
        match key.split("/")[1:]:
            case [site, "backups", name] if is_id_file(name):
                found.listed.add(BackupRef(site, name.removesuffix(".json")))
            case [_, "backups", name] if name.endswith(".sig"):
                found.signatures[key] = size
            case [_, "labels", _, name] if is_id_file(name):
                found.labels[key] = size


def _scan_trash(repository: Repository, found: Scan) -> None:
    for key, size in repository.store.list("trash/"):
        match key.split("/")[1:]:
            case ["_broken", name] if is_id_file(name):
                found.dead_runs[key] = size
            case [site, name] if is_id_file(name):
                found.trashed[BackupRef(site, name.removesuffix(".json"))] = size
            case [site, "gone", name] if is_id_file(name):
                found.gone[BackupRef(site, name.removesuffix(".json"))] = size
