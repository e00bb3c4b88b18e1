"""Sizes in readable units."""

from __future__ import annotations

from typing import Final

UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")


def readable_size(count: int) -> str:
    """Return a number of bytes in a suitable unit (powers of ten), such as ``6.3 GB``."""
    value, unit = float(count), 0
    while value >= 999.95 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {UNITS[unit]}"
