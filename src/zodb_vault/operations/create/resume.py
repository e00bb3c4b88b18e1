"""What an interrupted create of a site leaves, and how the next create continues from there."""

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

# A checkpoint is made after 1 GiB, or with the next heartbeat. A run that is killed loses at most this much.
CHECKPOINT_BYTES: Final = 1 << 30


class MarkerCheckpointer:
    """Writes into the marker of the run what it has stored so far."""

    def __init__(self, run: RunMarker) -> None:
        self._run, self._since = run, 0
        self._stored = {stored.database: stored for stored in run.marker.stored}

    def is_due(self, size: int) -> bool:
        """Tell whether the marker should be written: enough was stored, or enough time has passed."""
        self._since += size
        return self._since >= CHECKPOINT_BYTES or self._run.heartbeat_is_due()

    def checkpoint(self, stored: StoredProgress) -> None:
        """Write into the marker what is stored of one database."""
        self._stored[stored.database] = stored
        self._since = 0
        self._run.update(stored=list(self._stored.values()))

    def heartbeat(self) -> None:
        """Renew the heartbeat of the marker when it is due."""
        if self._run.heartbeat_is_due():
            self._run.update()


class StaleMarker:
    """The marker of an interrupted create: ``data`` are its bytes, ``marker`` is its usable content."""

    def __init__(self, store: Store, key: str, marker: Marker, data: bytes) -> None:
        self._store, self._key = store, key
        self.marker, self.data = marker, data

    def with_stored(self, stored: list[StoredProgress]) -> StaleMarker:
        """Return the marker with only the progress that can be used."""
        marker = msgspec.structs.replace(self.marker, stored=stored)
        return StaleMarker(self._store, self._key, marker, self.data)

    def require_unchanged(self) -> None:
        """Raise SourceChanged when the marker was removed or replaced since it was read.

        Then nothing protects the objects that it references.
        """
        with contextlib.suppress(KeyMissing):
            if self._store.get(self._key) == self.data:
                return
        raise SourceChanged(f"the marker of the interrupted run {self.marker.run} has just been removed")

    def run_of(self, catalog: Catalog, database: str) -> InterruptedRun | None:
        """Return what the run has stored of one database.

        None when it has stored nothing, or when its parent can no longer be continued.
        """
        stored = next((one for one in self.marker.stored if one.database == database), None)
        if stored is None:
            return None
        previous = previous_backups_of(catalog, database)
        parent = next((one for one in previous if one.id == stored.parent), None)
        return InterruptedRun(stored, parent) if parent or stored.parent is None else None


def stale_marker(catalog: Catalog, documents: Documents) -> StaleMarker | None:
    """Return the marker of an interrupted create, None when there is none; raise InUse while a create runs.

    Lists that cannot be read are left out and noted as damage. Otherwise they would make every later run
    fail.
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
            f"wait until it ends; a process that died on another host counts as running for "
            f"{markers.STALE.seconds // 60} minutes",
        )
    stale = StaleMarker(store, key, marker, data)
    if marker.run in catalog.listing.backups:
        # The run ended after its commit. Its backup is continued, so what it has stored is not needed.
        return stale.with_stored([])
    readable = []
    for stored in marker.stored:
        try:
            _read_lists(stored, documents)
            readable.append(stored)
        except Damage as error:
            stale.require_unchanged()
            what = f"the lists of what it has stored of {stored.database} are lost"
            catalog.damaged[marker.run] = f"it was interrupted, and {what}: {error.message}"
    return stale.with_stored(readable)


def _read_lists(stored: StoredProgress, documents: Documents) -> None:
    """Raise Damage when a document is lost that the next run needs to continue."""
    for ref in stored.segments:
        chain.load_list(Segment, documents, ref)
    for pack in (pack for ref in stored.packs for pack in chain.load_list(Pack, documents, ref)):
        documents.document(pack.index.meta)


def leave_to_next_run(run: RunMarker, captures: Iterable[Capture]) -> None:
    """Write into the marker what was stored, by this run and by the interrupted run that it continued.

    Errors are ignored: they must not hide the error that ended the run.
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
    """Return the error of a run whose marker was removed, None when its marker exists.

    A run that was suspended longer than the stale limit counts as dead. Then another run may remove objects
    that it has stored.
    """
    with contextlib.suppress(VaultError):
        if not run.is_unchanged():
            return run.lost_error()
    return None
