"""Markers of runs in progress.

They allow one create of a site at a time, and keep prune from deleting objects that a run relies on.
"""

from __future__ import annotations

import contextlib
import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec

from ..errors import Damage, InUse, KeyChanged, KeyExists, KeyMissing
from ..model import canonical
from ..model.manifest import ListRef, Marker, StoredProgress
from ..runtime import clock
from ..stores.base import Store
from .trash import note_dead_run

STALE: Final = timedelta(minutes=15)
RENEW: Final = timedelta(seconds=30)


def marker_key(site: str, what: str, run: str) -> str:
    """Return the key of a marker; all creates of a site share one."""
    return f"sites/{site}/running/{what if what == 'create' else f'{what}-{run}'}.json"


def read_marker(store: Store, key: str) -> tuple[Marker, bytes]:
    """Return a marker with its stored bytes; raise KeyMissing or Damage."""
    data = store.get(key)
    try:
        return msgspec.json.decode(canonical.check_digest(data, key), type=Marker), data
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Damage(f"{key} is not a valid marker: {error}") from None


def marker_of_dead_run(store: Store, key: str) -> tuple[Marker, bytes] | None:
    """Return the marker that a dead run left under a key, None without one.

    Raise InUse when the run is alive, Damage when the marker cannot be read.
    """
    try:
        found = read_marker(store, key)
    except KeyMissing:
        return None
    if is_alive(found[0], store):
        raise InUse(
            f"the {found[0].what} {found[0].run} is still running (host {found[0].host}, pid {found[0].pid})",
            "wait until it ends",
        )
    return found


def is_alive(marker: Marker, store: Store) -> bool:
    """Return whether the run of a marker may still be running.

    On the same machine and in the same process namespace the process table decides. Otherwise the age of the
    heartbeat decides: 15 minutes.
    """
    if marker.ended:
        return False
    here, _, _started = process_identity(os.getpid()).rpartition("/")
    there, _, _started = marker.process.rpartition("/")
    if here and here == there:
        return process_identity(marker.pid) == marker.process
    return store.clock() - clock.parse(marker.heartbeat) < STALE


def process_identity(pid: int) -> str:
    """Return a unique name of a process: boot id, process namespace and start time.

    It is empty on a system without /proc, and ends with ``gone`` when the process does not exist.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    try:
        # the name in parentheses may hold blanks; the start time is field 22, the 20th after it (proc(5))
        started = (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()[19]
        )
    except (OSError, IndexError):
        started = "gone"
    return f"{boot}/{space}/{started}"


class RunMarker:
    """The marker of this run: ``start`` writes it, ``update`` renews it, ``remove`` removes it."""

    def __init__(self, store: Store, key: str, marker: Marker, data: bytes) -> None:
        self._store, self._key, self._data = store, key, data
        self.marker = marker

    @classmethod
    def start(
        cls,
        store: Store,
        site: str,
        what: str,
        run: str,
        uses: list[str],
        adopted: tuple[Marker, bytes] | None = None,
    ) -> RunMarker:
        """Write the marker and return it.

        With ``adopted``, replace exactly that marker of a dead run and keep the objects that it names. Raise
        InUse when another run was faster.
        """
        now = clock.iso(store.clock())
        marker = Marker(
            run=run,
            what=what,
            host=socket.gethostname(),
            pid=os.getpid(),
            process=process_identity(os.getpid()),
            started=now,
            heartbeat=now,
            uses=uses,
            stored=adopted[0].stored if adopted else [],
        )
        key, data = marker_key(site, what, run), canonical.with_digest(marker)
        try:
            if adopted:
                if not adopted[0].ended:
                    note_dead_run(store, key)
                store.replace(key, data, adopted[1])
            else:
                store.put(key, [data])
        except (KeyExists, KeyChanged, KeyMissing):
            raise InUse(f"another {what} of the site {site} has just begun", "wait until it ends") from None
        return cls(store, key, marker, data)

    def heartbeat_is_due(self) -> bool:
        """Return whether the heartbeat has to be renewed: after 30 seconds."""
        return self._store.clock() - clock.parse(self.marker.heartbeat) >= RENEW

    def update(
        self,
        *,
        stored: list[StoredProgress] | None = None,
        copied: list[ListRef] | None = None,
        uses: list[str] | None = None,
        ended: bool = False,
    ) -> None:
        """Renew the heartbeat, and record what the run has stored (``stored``, ``copied``) and ``uses``.

        ``ended``: the run gives up, and the next run may use what it stored. Raise InUse when another run
        replaced the marker.
        """
        marker = msgspec.structs.replace(
            self.marker,
            heartbeat=clock.iso(self._store.clock()),
            stored=self.marker.stored if stored is None else stored,
            copied=self.marker.copied if copied is None else copied,
            uses=self.marker.uses if uses is None else uses,
            ended=ended,
        )
        data = canonical.with_digest(marker)
        try:
            self._store.replace(self._key, data, self._data)
        except (KeyChanged, KeyMissing):
            raise self.lost_error() from None
        self.marker, self._data = marker, data

    def require_unchanged(self) -> None:
        """Raise InUse when another run replaced the marker.

        With a heartbeat younger than 15 minutes, no other run may replace it, and nothing is read.
        """
        if self._store.clock() - clock.parse(self.marker.heartbeat) >= STALE and not self.is_unchanged():
            raise self.lost_error()

    def is_unchanged(self) -> bool:
        """Read the marker and return whether it is as this run wrote it."""
        try:
            return self._store.get(self._key) == self._data
        except KeyMissing:
            return False

    def remove(self) -> None:
        """Remove the marker, unless another run replaced it."""
        with contextlib.suppress(KeyChanged, KeyMissing):
            self._store.delete(self._key, expected=self._data)

    def lost_error(self) -> InUse:
        """Return the error of a run whose marker was replaced."""
        return InUse(
            "another run considered this run dead and replaced its marker",
            "run the command again; it reuses what this run stored",
        )
