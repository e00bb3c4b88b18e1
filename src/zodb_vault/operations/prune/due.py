"""Which candidates of a sweep are due, so that they may be deleted now."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from ...policy.retention import SKEW
from ...repository.layout import trash_key
from ...repository.trash import dead_run_noted_at
from ...runtime import clock
from .candidates import Candidates, Names
from .scan import BackupRef, Scan

# The runs that store objects which nothing names until a while later.
WRITING: Final = ("create", "copy")
# A temporary file may belong to a write that is still going on.
TEMPORARY_GRACE: Final = timedelta(days=1)


class Due(NamedTuple):
    """What may be deleted now: keys, and the names that the backups in the trash among them need."""

    keys: list[str]
    backups: dict[BackupRef, Names]


def is_temporary(key: str) -> bool:
    """Tell whether a key is a temporary file of the store."""
    return "/.tmp-" in f"/{key}"


def find_due(
    found: Scan,
    candidates: Candidates,
    since: Mapping[str, datetime],
    listed_before: Mapping[str, datetime],
    now: datetime,
    grace: timedelta,
) -> Due:
    """Return what may be deleted, given since when each candidate is listed, and the list of the last sweep.

    ``now`` is the time of the store. The reasons for each rule are in ``docs/explanation/concurrency.rst``.
    """
    if _deletion_is_blocked(found, now, grace):
        return Due([], {})
    limit = _limit(found, now - grace)
    due = {key for key, time in since.items() if key in listed_before and time <= limit}
    due -= {key for key in due if is_temporary(key) and now - since[key] < TEMPORARY_GRACE}
    due -= {trash_key(*ref) for ref in found.trashed}
    return _with_expired_backups(candidates, due)


def _deletion_is_blocked(found: Scan, now: datetime, grace: timedelta) -> bool:
    """Tell whether nothing may be deleted now.

    The clocks of host and store may differ too much to compare times. A run that was declared dead less than
    a grace period ago may be alive, and commit. A copy that is running relies on objects that no manifest
    here names yet.
    """
    if abs(now - clock.now()) >= SKEW or found.copy_is_running:
        return True
    noted = [dead_run_noted_at(key) for key in found.dead_runs]
    return any(time is not None and now - time < grace for time in noted)


def _limit(found: Scan, latest: datetime) -> datetime:
    """Return until when a candidate must have been listed.

    What was listed after a run began may be an object of this run that its marker does not name yet.
    """
    started = [
        clock.parse(marker.started)
        for marker, _data in found.markers.values()
        if marker.what in WRITING and not marker.ended
    ]
    return min([latest, *(time - SKEW for time in started)])


def _with_expired_backups(candidates: Candidates, due: set[str]) -> Due:
    """Add the expired backups of which every object is due, and take out the objects of the others.

    A backup in the trash is deleted with all its objects or not at all: until then it can be brought back.
    """
    not_due = {
        key.rpartition("/")[2]
        for key in candidates.sizes.keys() - due
        if key.startswith(("meta/", "objects/"))
    }
    spared: Names = {}
    backups: dict[BackupRef, Names] = {}
    for ref, names in candidates.expired.items():
        if not_due.isdisjoint(names):
            backups[ref] = names
        else:
            spared |= names
    due |= {trash_key(*ref) for ref in backups}
    return Due(sorted(key for key in due if key.rpartition("/")[2] not in spared), backups)
