"""Parse rates such as ``10MB`` per second."""

from __future__ import annotations

import re
from typing import NewType

Rate = NewType("Rate", int)
RATE = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([kmg])(i?)b?(?:/s)?\s*", re.IGNORECASE)
POWERS = {"k": 1, "m": 2, "g": 3}
LEAST = 10_000


def parse_rate(text: str) -> Rate:
    """Return the bytes per second of a text such as ``500k``, ``10MB``, ``1.5M`` or ``10MiB``.

    Raise ValueError for any other text, and for less than 10 kB per second.
    """
    match = RATE.fullmatch(text)
    if match is None:
        raise ValueError("must be a number and a unit: k, M or G, such as 500k or 10MB")
    rate = int(float(match[1]) * (1024 if match[3] else 1000) ** POWERS[match[2].lower()])
    if rate < LEAST:
        raise ValueError("must be 10k or more")
    return Rate(rate)
