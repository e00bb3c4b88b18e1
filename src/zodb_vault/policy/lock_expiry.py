"""Decide until when what is stored is locked, and whether the locks that a backup relies on last long enough.

A lock is longer than it has to be, so that not every backup has to renew it: only when what is left falls
short, and then of all that is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

# A quarter more: what is used for long is renewed four times within the time that it has to be kept.
SHARE: Final = 4


def lock_expiry(now: datetime, retention: timedelta) -> datetime:
    """Return until when what is stored or renewed now is locked."""
    return now + retention + retention / SHARE


def common_expiry(used: Sequence[datetime | None], now: datetime, retention: timedelta) -> datetime | None:
    """Return the time until which all objects that a backup needs are locked, its own and those it ``used``.

    None when that is too short, or not known: then what it takes from them has to be renewed.
    """
    until = lock_expiry(now, retention)
    for one in used:
        if one is None or one < now + retention:
            return None
        until = min(until, one)
    return until
