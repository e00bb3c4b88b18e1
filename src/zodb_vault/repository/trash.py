"""The trash of a repository.

What may go and since when, what is gone for good, and when a run was last declared dead.
"""

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

# A site's name begins with a small letter or a digit.
ATTEMPTS: Final = 5
PENDING_KEY: Final = "trash/_pending.json"
BROKEN_PREFIX: Final = "trash/_broken/"


class PendingList:
    """What may go and since when.

    One file, exchanged as a whole, so that of two sweeps at once one starts over.
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
                raise Damage(f"{PENDING_KEY} does not have the form it should have: {error}") from None
            self._data = data

    @property
    def since(self) -> dict[str, datetime]:
        """Return when each key was listed first."""
        return {key: clock.parse(since) for key, since in self.pending.rows}

    def write(
        self, since: dict[str, datetime], seen: dict[str, list[str]], *, certainly: bool = False
    ) -> None:
        """Exchange the list if it changes; raise InUse when somebody else has done so since it was read.

        ``certainly``: find out whether somebody has even if nothing changes.
        """
        pending = PendingDeletions(
            rows=[(key, clock.iso(moment)) for key, moment in sorted(since.items())], seen=seen
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
            raise InUse("another prune of this repository is at work", "wait for it to end") from None
        self.pending, self._data = pending, data


def forget_pending(store: Store, keys: Iterable[str]) -> None:
    """Take keys off the list, so that their time begins anew; a sweep that has read it before starts over.

    Raise InUse, Damage.
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
    """Note, before it is done, that a run is declared dead.

    Should it be alive after all, its objects are safe for another grace period.
    """
    now = store.clock()
    store.put(
        f"{BROKEN_PREFIX}{new_id([], now)}.json",
        [canonical.with_digest(DeadRun(at=clock.iso(now), marker=marker))],
    )


def dead_run_noted_at(key: str) -> datetime | None:
    """Return when a run was declared dead, None for a key that is no such note.

    Its name tells, as it is written once.
    """
    if not key.startswith(BROKEN_PREFIX):
        return None
    return id_time(key.removeprefix(BROKEN_PREFIX).removesuffix(".json"))
