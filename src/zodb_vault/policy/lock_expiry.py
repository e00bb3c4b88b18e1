"""Decide when object locks expire, and whether the locks of reused objects last long enough.

A lock is longer than the retention, so that not every backup has to renew it. It is renewed, for all objects
that a backup uses, when the remaining time is shorter than the retention.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

# A quarter of the retention more: an object that stays in use is renewed four times per retention.
SHARE: Final = 4


def lock_expiry(now: datetime, retention: timedelta) -> datetime:
    """Return the lock expiry of objects that are stored or renewed now."""
    return now + retention + retention / SHARE


def common_expiry(used: Sequence[datetime | None], now: datetime, retention: timedelta) -> datetime | None:
    """Return the time until which all objects of a backup are locked, also those of the backups it uses.

    ``used`` are the lock expiries of these backups. None when one of them is unknown or earlier than the
    retention: then the locks of all reused objects have to be renewed.
    """
    until = lock_expiry(now, retention)
    for one in used:
        if one is None or one < now + retention:
            return None
        until = min(until, one)
    return until
