"""Markers in source and target: no other run deletes what a copy needs, and none stores the same twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ...errors import InUse, KeyChanged, KeyMissing, StoreError, VaultError
from ...model.manifest import ListRef
from ...repository import markers
from ...repository.ids import new_id
from ...repository.markers import RunMarker
from ...repository.repository import Repository
from ...repository.trash import note_dead_run
from ...runtime.progress import Progress
from ..prune.unlock import MarkerState, marker_states
from .notes import Notes

# With re-encryption, what was stored is noted in the marker after so many bytes: this much an interrupted
# copy loses.
NOTE_BYTES = 1 << 30


@contextlib.contextmanager
def hold_target(target: Repository, site: str) -> Iterator[tuple[RunMarker, list[MarkerState]]]:
    """Hold a marker in the target, and yield it with the markers of other copies of the site.

    While it exists, nothing is swept, so what the target has can be relied on. Raise InUse when a prune is
    running: it may be deleting already. If the copy fails, a marker that names stored objects stays, and the
    next copy uses them.
    """
    run = RunMarker.start(target.store, site, "copy", new_id([], target.store.clock()), [])
    try:
        others = [one for one in marker_states(target) if one.marker.run != run.marker.run]
        for one in others:
            if one.marker.what == "prune" and one.alive:
                process = f"host {one.marker.host}, pid {one.marker.pid}"
                raise InUse(
                    f"a prune of {target.store.location} is running ({process})",
                    "wait for it to end, and run the copy again",
                )
        copies = [one for one in others if one.marker.what == "copy"]
        for one in copies:
            if one.site != site and not one.alive and not one.marker.copied:
                remove_dead_marker(target, one)
        yield run, [one for one in copies if one.site == site]
    except BaseException:
        with contextlib.suppress(VaultError):
            if run.marker.copied:
                run.update(ended=True)
            else:
                run.remove()
        raise
    run.remove()


def remove_dead_marker(target: Repository, state: MarkerState) -> None:
    """Remove the marker of a dead copy.

    If the copy is alive after all, its objects are still protected: the note keeps them for one more grace
    period.
    """
    if not state.marker.ended:
        note_dead_run(target.store, state.key)
    with contextlib.suppress(KeyChanged, KeyMissing):
        target.store.delete(state.key, expected=state.data)


@contextlib.contextmanager
def hold_source(
    source: Repository, site: str, backups: list[str], progress: Progress
) -> Iterator[RunMarker | None]:
    """Hold a marker in the source, so that no backup is deleted while it is copied.

    Yield None if the source cannot be written to. Then backups that are deleted in the meantime are left out.
    """
    try:
        run = RunMarker.start(source.store, site, "export", new_id([], source.store.clock()), backups)
    except StoreError as error:
        progress.note(
            f"backups may be deleted while they are copied, because no marker can be written: {error.message}"
        )
        yield None
        return
    try:
        _remove_dead_markers(source, site)
        yield run
    finally:
        with contextlib.suppress(StoreError):
            run.remove()


def _remove_dead_markers(source: Repository, site: str) -> None:
    """Remove the markers of dead copies in the source.

    A copy that is alive after all only loses its protection: it leaves out the backups that are deleted.
    """
    for key in source.listing(site).markers:
        with contextlib.suppress(KeyMissing, KeyChanged):
            marker, data = markers.read_marker(source.store, key)
            if marker.what == "export" and not markers.is_alive(marker, source.store):
                source.store.delete(key, expected=data)


class Heartbeat:
    """Keeps both markers alive; with ``notes`` it records in that of the target what was stored."""

    def __init__(self, target: RunMarker, source: RunMarker | None, notes: Notes | None) -> None:
        self._target, self._source, self._notes = target, source, notes
        self._bytes_not_noted = 0

    def renew_if_due(self) -> None:
        """Renew the markers if that is due; raise InUse when another run has removed that of the target."""
        if self._target.heartbeat_is_due():
            self.renew()

    def renew(self) -> None:
        """Renew the markers now."""
        self._target.update(copied=self._stored())
        self._bytes_not_noted = 0
        if self._source:
            self._source.update()

    def note_stored(self) -> None:
        """Record in the marker of the target what was stored."""
        self._target.update(copied=self._stored())

    def count(self, size: int) -> None:
        """Count stored bytes; with notes, renew the markers after each GiB."""
        self._bytes_not_noted += size
        if self._notes and self._bytes_not_noted >= NOTE_BYTES:
            self.renew()

    def _stored(self) -> list[ListRef]:
        return self._notes.store() if self._notes else []
