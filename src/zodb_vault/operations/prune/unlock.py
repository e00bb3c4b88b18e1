"""Tell which runs a repository waits for, and take away the marker of one that is dead."""

from __future__ import annotations

import contextlib

import msgspec

from ...errors import InUse, KeyChanged, KeyMissing
from ...model.manifest import Marker
from ...repository import markers
from ...repository.repository import Repository
from ...repository.trash import note_dead_run


class MarkerState(msgspec.Struct, frozen=True):
    """A marker that stands, as it was read, and whether its run can still be going on."""

    site: str
    key: str
    marker: Marker
    data: bytes
    alive: bool


def marker_states(repository: Repository) -> list[MarkerState]:
    """Return the markers of all sites, the oldest first."""
    found = []
    for site in repository.sites():
        for key in repository.listing(site).markers:
            with contextlib.suppress(KeyMissing):  # that run has just finished
                marker, data = markers.read_marker(repository.store, key)
                found.append(MarkerState(site, key, marker, data, markers.is_alive(marker, repository.store)))
    return sorted(found, key=lambda one: one.marker.started)


def unlock(repository: Repository, one: MarkerState) -> None:
    """Take a marker away; raise InUse when its run has said something since it was read. What it stored stays for a grace period."""
    if not one.marker.ended:
        note_dead_run(repository.store, one.key)
    try:
        repository.store.delete(one.key, expected=one.data)
    except KeyChanged:
        raise InUse(
            f"the {one.marker.what} {one.marker.run} has just shown that it is alive", "wait for it to end"
        ) from None
