"""Decide which time a text on the command line means, or refuse an ambiguous one."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import NamedTuple

from ..errors import UsageError
from ..model.tid import from_datetime, from_nanoseconds, to_hex

EXAMPLE = (
    "write a day with a time, for example 2026-11-20T10:15, 2026-11-20T10:15:30Z or 2026-11-20T10:15:30+01:00"
)
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
TIMESTAMP = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"[T ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,6}|[0-9]{9}))?)?"
    r"(?P<zone>Z|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)
NANOSECOND_DIGITS = 9
# A TID counts minutes since 1900 in 32 bits, which end in the year 9917.
FIRST_YEAR, LAST_YEAR = 1900, 9916


class ParsedTime(NamedTuple):
    """A time in UTC, to the microsecond, and the largest TID that still counts as that time."""

    time: datetime
    last_tid: str


def parse_timestamp(text: str, local_zone: tzinfo) -> ParsedTime:
    """Return the time in UTC that ``text`` means.

    Without a time zone in the text it is a time of ``local_zone``.

    Accepted is ISO 8601 with a day and a time: ``2026-11-20T10:15``, with seconds, with up to six digits of a
    second or nine, with ``Z`` or an offset, and with a space in place of the ``T``. A part that is left out
    is zero. A time without a fraction (``10:15:30``, and ``10:15``, which is 10:15:00) includes all
    transactions of that second, because most tools show times only to the second. A time with a fraction is
    exact to the microsecond: ``10:15:30.5`` is 10:15:30.500000. Nine digits tell any two TIDs apart.

    ``local_zone`` has to know its own rules (``zoneinfo.ZoneInfo``). The offset of today is not enough. Raise
    UsageError for everything else: a day alone, a local time that the clocks skipped or showed twice, any
    other text.
    """
    wanted = text.strip()
    match = TIMESTAMP.fullmatch(wanted)
    if match is None:
        raise _no_timestamp(wanted)
    try:
        found = _read(match, local_zone)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{wanted!r} is not a valid time: {error}", EXAMPLE) from error
    if not FIRST_YEAR <= found.year <= LAST_YEAR:
        raise UsageError(
            f"{wanted!r} is not a time of a database: those are from {FIRST_YEAR} to {LAST_YEAR}", EXAMPLE
        )
    return ParsedTime(found, _last_tid(found, match))


def _last_tid(time: datetime, match: re.Match[str]) -> str:
    fraction: str | None = match["fraction"]
    if fraction is None:
        return last_tid_of_second(time)
    if len(fraction) == NANOSECOND_DIGITS:
        return to_hex(from_nanoseconds(time, int(fraction[6:])))
    return to_hex(from_datetime(time))


def last_tid_of_second(time: datetime) -> str:
    """Return the largest TID of the second that begins at ``time``."""
    return to_hex(from_datetime(time.replace(microsecond=999_999)))


def in_utc(timestamp: datetime) -> str:
    """Return a time as ISO 8601 in UTC with ``Z``; ``parse_timestamp`` reads the same time from it."""
    return timestamp.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _no_timestamp(text: str) -> UsageError:
    if DAY.fullmatch(text) is None or not _is_day(text):
        return UsageError(f"{text!r} is not a valid time", EXAMPLE)
    return UsageError(
        f"{text!r} is a day without a time: its start and its end are different states",
        f"write {text}T00:00 for its start, {text}T23:59:59.999999 for its end, or any time between",
    )


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _read(match: re.Match[str], local_zone: tzinfo) -> datetime:
    """Return the time in UTC; raise ValueError or OverflowError when a field is out of range."""
    numbers = [int(match[field] or 0) for field in ("year", "month", "day", "hour", "minute", "second")]
    year, month, day, hour, minute, second = numbers
    microsecond = int((match["fraction"] or "").ljust(6, "0")[:6])
    zone = _zone(match["zone"]) if match["zone"] else local_zone
    stated = datetime(year, month, day, hour, minute, second, microsecond, tzinfo=zone)
    return stated.astimezone(UTC) if match["zone"] else _only_meaning(match.string, stated)


def _zone(text: str) -> timezone:
    """Return the fixed zone of ``Z`` or an offset; raise ValueError when the offset is out of range."""
    if text == "Z":
        return UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if minutes > 59:
        raise ValueError("the minutes of an offset must be in 0..59")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def _only_meaning(text: str, local: datetime) -> datetime:
    """Return the only time that a local time means.

    Raise UsageError when the clocks skipped it or showed it twice.
    """
    first, second = (local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    if first == second:
        return first
    # PEP 495: read with the offset from before the change, a skipped time is the later of the two.
    why = "the clocks showed it twice" if first < second else "the clocks skipped it"
    early, late = sorted((first, second))
    raise UsageError(
        f"{text!r} is not a unique local time: {why}; it could mean {in_utc(early)} or {in_utc(late)}",
        f"write the time in UTC: {in_utc(early)} or {in_utc(late)}",
    )
