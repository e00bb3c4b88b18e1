"""What an interrupted run of a site leaves, and how the next run goes on from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Final

import msgspec

from ...errors import Damage, InUse, KeyMissing, SourceChanged, VaultError
from ...model import chain
from ...model.capture import InterruptedRun
from ...model.chain import Documents
from ...model.manifest import Marker, Pack, Segment, StoredProgress
from ...repository import markers
from ...repository.markers import RunMarker
from ...stores.base import Store
from ...strategies.base import Capture
from ..catalog import Catalog, previous_backups_of

# A marker is renewed after this many bytes, or after half a minute: so much is lost, at most, when a run is
# killed.
CHECKPOINT_BYTES: Final = 1 << 30


class MarkerCheckpointer:
    """Renews the marker of the run while it goes on, with what it has stored."""

    def __init__(self, run: RunMarker) -> None:
        self._run, self._since = run, 0
        self._stored = {stored.database: stored for stored in run.marker.stored}

    def is_due(self, size: int) -> bool:
        """Tell whether the marker should be renewed: enough was stored, or enough time has passed."""
        self._since += size
        return self._since >= CHECKPOINT_BYTES or self._run.heartbeat_is_due()

    def checkpoint(self, stored: StoredProgress) -> None:
        """Write into the marker what is stored of one database."""
        self._stored[stored.database] = stored
        self._since = 0
        self._run.update(stored=list(self._stored.values()))

    def heartbeat(self) -> None:
        """Renew the heartbeat of the marker when it is time."""
        if self._run.heartbeat_is_due():
            self._run.update()


class StaleMarker:
    """The marker of a create that ended before its commit, as it was read.

    ``marker`` has what of it can be used.
    """

    def __init__(self, store: Store, key: str, marker: Marker, data: bytes) -> None:
        self._store, self._key = store, key
        self.marker, self.data = marker, data

    def require_unchanged(self) -> None:
        """Raise SourceChanged when the marker was removed or replaced since.

        Then nothing protects what it names.
        """
        with contextlib.suppress(KeyMissing):
            if self._store.get(self._key) == self.data:
                return
        raise SourceChanged(f"what the interrupted run {self.marker.run} had stored has just been given up")

    def run_of(self, catalog: Catalog, database: str) -> InterruptedRun | None:
        """Return what the run had stored of one database, None when there is nothing, or its parent cannot be continued any more."""
        stored = next((one for one in self.marker.stored if one.database == database), None)
        if stored is None:
            return None
        previous = previous_backups_of(catalog, database)
        parent = next((one for one in previous if one.id == stored.parent), None)
        return InterruptedRun(stored, parent) if parent or stored.parent is None else None


def stale_marker(catalog: Catalog, documents: Documents) -> StaleMarker | None:
    """Return the marker that an interrupted create left, None when there is none; raise InUse while one runs.

    Notes that cannot be read are left out and noted as damage: they must not fail every run to come.
    """
    site, store = catalog.site, catalog.repository.store
    key = markers.marker_key(site, "create", "")
    found = catalog.markers.get(key)
    if found is None:
        return None
    marker, data = found
    if markers.is_alive(marker, store):
        raise InUse(
            f"a create of the site {site} has been running since {marker.started} "
            f"(host {marker.host}, pid {marker.pid})",
            f"wait for it; one that died counts as running for {markers.STALE.seconds // 60} minutes "
            "when nothing else tells",
        )
    stale = StaleMarker(store, key, marker, data)
    if marker.run in catalog.listing.backups:
        # it ended after its commit: its backup is to be continued, not what it had stored until then
        stale.marker = msgspec.structs.replace(marker, stored=[])
        return stale
    readable = []
    for stored in marker.stored:
        try:
            _read_notes(stored, documents)
            readable.append(stored)
        except Damage as error:
            stale.require_unchanged()
            what = f"its notes of what it had stored of {stored.database} are lost"
            catalog.damaged[marker.run] = f"it was interrupted, and {what}: {error.message}"
    stale.marker = msgspec.structs.replace(marker, stored=readable)
    return stale


def _read_notes(stored: StoredProgress, documents: Documents) -> None:
    """Raise Damage when a document is lost by which the next run goes on."""
    for ref in stored.segments:
        chain.load_list(Segment, documents, ref)
    for pack in (pack for ref in stored.packs for pack in chain.load_list(Pack, documents, ref)):
        documents.document(pack.index.meta)


def leave_to_next_run(run: RunMarker, captures: Iterable[Capture]) -> None:
    """Record what was stored, by this run or by the one that it continued.

    Raises nothing, the cause is on its way to the user already.
    """
    stored = {one.database: one for one in run.marker.stored}
    with contextlib.suppress(VaultError, OSError):
        for capture in captures:
            notes = capture.stored()
            stored[notes.database] = notes
    with contextlib.suppress(VaultError, OSError):
        if any(notes.segments or notes.packs for notes in stored.values()):
            run.update(stored=list(stored.values()), ended=True)
            return
    with contextlib.suppress(VaultError, OSError):
        if not any(notes.segments or notes.packs for notes in run.marker.stored):
            run.remove()


def overtaken(run: RunMarker) -> InUse | None:
    """Return why something is not there that this run has stored, None when its marker is there.

    A run that slept longer than the stale limit is taken for dead, and what it stored may be removed.
    """
    with contextlib.suppress(VaultError):
        if not run.is_unchanged():
            return run.lost_error()
    return None
