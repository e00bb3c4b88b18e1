"""Show which runs hold a repository, and remove the marker of one that is dead."""

from __future__ import annotations

import contextlib

import msgspec

from ...errors import InUse, KeyChanged, KeyMissing
from ...model.manifest import Marker
from ...repository.markers import is_alive, read_marker
from ...repository.repository import Repository
from ...repository.trash import note_dead_run


class MarkerState(msgspec.Struct, frozen=True):
    """A marker with its bytes as they were read, and whether its run can be alive."""

    site: str
    key: str
    marker: Marker
    data: bytes
    alive: bool


def marker_states(repository: Repository) -> list[MarkerState]:
    """Return the markers of all sites, the oldest first."""
    store = repository.store
    found = []
    for site in repository.sites():
        for key in repository.listing(site).markers:
            with contextlib.suppress(KeyMissing):  # the run has just ended
                marker, data = read_marker(store, key)
                found.append(MarkerState(site, key, marker, data, is_alive(marker, store)))
    return sorted(found, key=lambda state: state.marker.started)


def unlock(repository: Repository, state: MarkerState) -> None:
    """Remove a marker; raise InUse when its run has renewed it since it was read.

    If the run is alive after all, what it has stored is still protected for one grace period: see
    ``note_dead_run``.
    """
    if not state.marker.ended:
        note_dead_run(repository.store, state.key)
    try:
        repository.store.delete(state.key, expected=state.data)
    except KeyChanged:
        message = f"the {state.marker.what} {state.marker.run} has just renewed its marker, so it is alive"
        raise InUse(message, "wait for it to end") from None
