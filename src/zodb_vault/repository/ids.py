"""Ids that sort by time: those of backups, runs, labels and notes."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

ID_TIME: Final = "%Y%m%dT%H%M%SZ"
ID: Final = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-f]{6}\Z")


def new_id(existing: Iterable[str], now: datetime) -> str:
    """Return a new id with the present time.

    When the newest existing id is later than the clock, the time is one second after that id.
    """
    times = [time for one in existing if (time := id_time(one)) is not None]
    timestamp = max([now.replace(microsecond=0), *(time + timedelta(seconds=1) for time in times)])
    return f"{timestamp.strftime(ID_TIME)}-{secrets.token_hex(3)}"


def id_time(text: str) -> datetime | None:
    """Return the time at the beginning of an id; None when the text is no id."""
    match = ID.match(text)
    with contextlib.suppress(ValueError):
        return datetime.strptime(match.group(1), ID_TIME).replace(tzinfo=UTC) if match else None
    return None


def is_id_file(name: str) -> bool:
    """Return whether the name of a file is an id with ``.json``."""
    stem, dot, end = name.rpartition(".")
    return dot + end == ".json" and id_time(stem) is not None
