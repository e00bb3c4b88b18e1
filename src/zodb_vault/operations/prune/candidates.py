"""What a sweep may delete: everything that no backup, no marker and no fresh backup in the trash needs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from ...errors import BackupMissing, Damage, KeyMissing
from ...model.manifest import Marker
from ...repository.labels import superseded
from ...repository.layout import gone_key, signature_key, trash_key
from ...repository.references import add_names
from ...repository.repository import Repository
from ...stores.base import LeavesTemporaries
from .scan import BackupRef, Scan

# Names of objects and documents, with the bytes stored where they are known.
Names = dict[str, int]


class Candidates(NamedTuple):
    """What nothing needs.

    ``sizes``: bytes by key. ``expired``: the backups that were in the trash for the grace period, and the
    names that they need. Only these backups need them, so the objects are among the candidates.
    """

    sizes: dict[str, int]
    expired: dict[BackupRef, Names]


def find_candidates(
    repository: Repository,
    found: Scan,
    listed_since: Mapping[str, datetime],
    now: datetime,
    grace: timedelta,
) -> Candidates:
    """Return what may be deleted, given when each key was first listed as a candidate; raise Damage.

    If one manifest or list cannot be read, it is not known what it needs, and nothing may be deleted.
    """
    needed: Names = {}
    candidates = Candidates({}, {})
    seen: set[BackupRef] = set()
    for ref in sorted(found.listed):
        seen |= add_names_of_backup(repository, ref, needed)
    for key, (marker, data) in found.markers.items():
        add_names_of_marker(repository, key, marker, data, needed)
    for ref in found.used - found.backups:
        add_names_of_backup(repository, ref, needed)
    for ref in sorted(found.trashed.keys() - found.listed):  # what is in both places is being moved
        names: Names = {}
        seen |= add_names_of_backup(repository, ref, names)
        key = trash_key(*ref)
        candidates.sizes[key] = found.trashed[ref]
        if ref in found.used or key not in listed_since or now - listed_since[key] < grace:
            needed |= names
        else:
            candidates.expired[ref] = names
    _add_objects(repository, needed, candidates)
    _add_labels(repository, found, candidates)
    _add_leftovers(repository, found, seen, candidates)
    return candidates


def add_names_of_backup(repository: Repository, ref: BackupRef, names: Names) -> set[BackupRef]:
    """Add what a backup needs to ``names``, and return the backups that it has seen; raise Damage."""
    document = _manifest_anywhere(repository, ref)
    try:
        add_names(document, names, repository.objects(""))
    except Damage:
        if _manifest_anywhere(repository, ref):
            raise
        return set()  # another sweep has just deleted it
    return {BackupRef(ref.site, one) for one in document.get("seen", ())}


def add_names_of_marker(repository: Repository, key: str, marker: Marker, data: bytes, names: Names) -> None:
    """Add what the run of a marker has stored to ``names``; raise Damage."""
    try:
        stored = msgspec.to_builtins([marker.stored, marker.copied])
        add_names(stored, names, repository.objects(""))
    except Damage:
        with contextlib.suppress(KeyMissing):
            if repository.store.get(key) == data:
                raise  # else the run has ended, or has written a newer marker


def _manifest_anywhere(repository: Repository, ref: BackupRef) -> dict[str, Any]:
    """Return a manifest, listed or in the trash; an empty one when another sweep has just deleted it.

    It may move from one place to the other between two looks, so each place is looked at twice.
    """
    for _ in range(2):
        with contextlib.suppress(BackupMissing):
            return repository.manifest_document(*ref)
        with contextlib.suppress(BackupMissing):
            return repository.trash.document(*ref)
    return {}


def _add_objects(repository: Repository, needed: Names, candidates: Candidates) -> None:
    for prefix in ("meta/", "objects/"):
        for key, size in repository.store.list(prefix):
            if key.rpartition("/")[2] not in needed:
                candidates.sizes[key] = size


def _add_labels(repository: Repository, found: Scan, candidates: Candidates) -> None:
    """Add the labels of backups that do not exist, and labels that a later one replaces."""
    labels_of: dict[BackupRef, list[str]] = {}
    for key in found.labels:
        _, site, _, backup, _ = key.split("/")
        labels_of.setdefault(BackupRef(site, backup), []).append(key)
    # The next id has to be later than the newest one, also when the newest backup is gone: then its label
    # says which one it was, and stays.
    newest = {ref.site: ref.id for ref in sorted(found.backups | labels_of.keys())}
    for ref, keys in labels_of.items():
        removable = keys
        if ref in found.backups or newest[ref.site] == ref.id:
            labels = {key: repository.labels.get(key) for key in sorted(keys)} if len(keys) > 1 else {}
            removable = superseded(labels)
        candidates.sizes.update({key: found.labels[key] for key in removable})


def _add_leftovers(repository: Repository, found: Scan, seen: set[BackupRef], candidates: Candidates) -> None:
    """Add signatures without a backup, notes about backups that nothing looks for, and temporary files."""
    signed = {signature_key(*ref) for ref in found.backups}
    candidates.sizes.update({key: size for key, size in found.signatures.items() if key not in signed})
    candidates.sizes.update({gone_key(*ref): size for ref, size in found.gone.items() if ref not in seen})
    if isinstance(repository.store, LeavesTemporaries):
        candidates.sizes.update(dict(repository.store.temporaries()))
