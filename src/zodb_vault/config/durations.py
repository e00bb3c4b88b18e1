"""Parse durations such as ``72h``."""

from __future__ import annotations

import re
from datetime import timedelta

DURATION = re.compile(r"\s*([0-9]{1,9})\s*([smhdw])\s*", re.IGNORECASE)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """Return the duration of a text such as ``30s``, ``15m``, ``72h``, ``30d`` or ``4w``.

    Raise ValueError for any other text.
    """
    match = DURATION.fullmatch(text)
    if match is None:
        raise ValueError("must be a whole number and a unit: s, m, h, d or w, such as 72h or 30d")
    try:
        return timedelta(**{UNITS[match[2].lower()]: int(match[1])})
    except OverflowError:
        raise ValueError("is too long") from None
