"""The time zone of this machine, for times that are given without a zone."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, tzinfo
from functools import cached_property
from pathlib import Path
from zoneinfo import ZoneInfo

from ..errors import ConfigurationError


class LocalZone(tzinfo):
    """The time zone of this machine, looked up when a time without a zone is read."""

    @cached_property
    def _zone(self) -> tzinfo:
        return local_zone()

    def utcoffset(self, time: datetime | None) -> timedelta | None:
        """Return the offset from UTC."""
        return self._zone.utcoffset(time)

    def dst(self, time: datetime | None) -> timedelta | None:
        """Return how much of the offset is summer time."""
        return self._zone.dst(time)

    def tzname(self, time: datetime | None) -> str | None:
        """Return the name of the offset."""
        return self._zone.tzname(time)


def local_zone() -> tzinfo:
    """Return the time zone of this machine: ``TZ`` (a name or a file), else ``/etc/localtime``.

    An empty TZ is UTC, as for libc. Raise ConfigurationError for any other TZ.
    """
    name = os.environ.get("TZ", "/etc/localtime").removeprefix(":") or "UTC"
    try:
        if not name.startswith("/"):
            return ZoneInfo(name)
        with Path(name).open("rb") as file:
            return ZoneInfo.from_file(file, key=name)
    except FileNotFoundError as error:
        if name == "/etc/localtime":
            return ZoneInfo("UTC")
        raise _unknown_zone(name) from error
    except (ValueError, KeyError, OSError) as error:
        raise _unknown_zone(name) from error


def _unknown_zone(name: str) -> ConfigurationError:
    return ConfigurationError(
        [f"the time zone {name} is not known"], "give times with a zone, such as 2026-11-20T10:15Z"
    )
