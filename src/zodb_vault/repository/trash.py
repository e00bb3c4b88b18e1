"""The trash of a repository: the list of pending deletions, and notes of runs that were declared dead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec

from ..errors import Damage, InUse, KeyChanged, KeyExists, KeyMissing
from ..model import canonical
from ..model.manifest import DeadRun, PendingDeletions
from ..runtime import clock
from ..stores.base import Store
from .ids import id_time, new_id

ATTEMPTS: Final = 5
# The name of a site begins with a small letter or a digit, so these keys never collide with a site.
PENDING_KEY: Final = "trash/_pending.json"
BROKEN_PREFIX: Final = "trash/_broken/"


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
            try:
                self.pending = msgspec.json.decode(
                    canonical.check_digest(data, PENDING_KEY), type=PendingDeletions
                )
            except msgspec.MsgspecError as error:
                raise Damage(f"{PENDING_KEY} does not have the expected form: {error}") from None
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
