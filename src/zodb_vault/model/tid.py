"""Transaction and object ids (TID, OID): 8 bytes in storages, ``0x`` and 16 hex digits everywhere else.

A TID counts minutes since 1900 (in months of 31 days) in its upper half and the fraction of the minute
in units of 60 / 2**32 seconds in its lower half (``persistent.TimeStamp``).
The hex form sorts as the bytes do, so the two are interchangeable in comparisons.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from . import tid as tids


def is_in_future(tid: bytes | None, now: datetime) -> bool:
    """Return whether a TID is later than the time of a clock."""
    return tid is not None and tid > tids.from_datetime(now)


HEX = re.compile(r"(?:0x)?([0-9a-fA-F]{16})\Z")
UNITS_PER_MINUTE = 2**32
NANOSECONDS_PER_MINUTE = 60 * 10**9
SECONDS_PER_UNIT = 60 / UNITS_PER_MINUTE


def to_hex(raw: bytes) -> str:
    """Return ``0x`` and 16 hex digits."""
    return "0x" + raw.hex()


def from_hex(text: str) -> bytes:
    """Return the 8 bytes; raise ValueError when the text is not 16 hex digits, with or without ``0x``."""
    match = HEX.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a TID: 16 hex digits are expected, with or without 0x")
    return bytes.fromhex(match.group(1))


def to_datetime(raw: bytes) -> datetime:
    """Return the time of a TID in UTC, to the microsecond.

    TIDs that are no times, such as those of a counter, give times in the year 1900 and stay comparable.
    """
    minutes, units = int.from_bytes(raw[:4], "big"), int.from_bytes(raw[4:], "big")
    days, minute = divmod(minutes, 24 * 60)
    months, day = divmod(days, 31)
    year, month = divmod(months, 12)
    start = datetime(min(1900 + year, 9998), month + 1, 1, tzinfo=UTC)
    return start + timedelta(days=day, minutes=minute, seconds=units * SECONDS_PER_UNIT)


def from_datetime(timestamp: datetime) -> bytes:
    """Return the largest TID that is not later than a time (to the microsecond)."""
    return from_nanoseconds(timestamp, 999)


def from_nanoseconds(timestamp: datetime, nanoseconds: int) -> bytes:
    """Return the largest TID that is not later than a time and this part of its microsecond (0 to 999)."""
    utc = timestamp.astimezone(UTC)
    months = (utc.year - 1900) * 12 + utc.month - 1
    minutes = ((months * 31 + utc.day - 1) * 24 + utc.hour) * 60 + utc.minute
    passed = (utc.second * 1_000_000 + utc.microsecond) * 1000 + nanoseconds
    units = ((passed + 1) * UNITS_PER_MINUTE - 1) // NANOSECONDS_PER_MINUTE
    return minutes.to_bytes(4, "big") + units.to_bytes(4, "big")


def iso(raw: bytes) -> str:
    """Return the time of a TID as ISO 8601 in UTC, with microseconds."""
    return to_datetime(raw).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def precise_iso(raw: bytes) -> str:
    """Return the time of a TID as ISO 8601 in UTC, with the nine digits that tell any two TIDs apart."""
    minute = to_datetime(raw[:4] + bytes(4))
    passed = int.from_bytes(raw[4:], "big") * NANOSECONDS_PER_MINUTE // UNITS_PER_MINUTE
    second, nanoseconds = divmod(passed, 10**9)
    return f"{minute.strftime('%Y-%m-%dT%H:%M')}:{second:02}.{nanoseconds:09}Z"


def typed_iso(raw: bytes, later: bytes | None) -> str:
    """Return the time of a TID with as many digits as tell it apart from the next ``later`` one.

    Who types it back gets this TID: a time stands for all TIDs of its microsecond.
    """
    is_last_of_its_time = later is None or later > from_datetime(to_datetime(raw))
    return iso(raw) if is_last_of_its_time and from_datetime(to_datetime(raw)) >= raw else precise_iso(raw)
