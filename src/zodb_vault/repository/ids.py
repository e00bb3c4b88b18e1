"""Names that order by time: ids of backups and runs, and what is named like them."""

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

    When the clock is behind the newest existing id, the time is one second after that id.
    """
    times = [time for one in existing if (time := id_time(one)) is not None]
    moment = max([now.replace(microsecond=0), *(time + timedelta(seconds=1) for time in times)])
    return f"{moment.strftime(ID_TIME)}-{secrets.token_hex(3)}"


def id_time(text: str) -> datetime | None:
    """Return the time that an id begins with, None for what is no id."""
    match = ID.match(text)
    with contextlib.suppress(ValueError):
        return datetime.strptime(match.group(1), ID_TIME).replace(tzinfo=UTC) if match else None
    return None


def is_id_file(name: str) -> bool:
    """Tell whether the name of a file is an id and ``.json``."""
    stem, dot, end = name.rpartition(".")
    return dot + end == ".json" and id_time(stem) is not None
