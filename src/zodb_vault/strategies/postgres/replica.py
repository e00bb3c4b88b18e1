"""Whether a replica is up to date enough for a backup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ...errors import SourceError
from .connection import where

# A replica that has replayed all it received does not lag, however long nobody has committed.
LAG: Final = """
SELECT CASE WHEN NOT pg_is_in_recovery() THEN 0 WHEN NOT EXISTS (SELECT 1 FROM pg_stat_wal_receiver) THEN
  extract(epoch FROM now() - coalesce(pg_last_xact_replay_timestamp(), 'epoch'))::float8
WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float8 END
"""


def require_fresh(query: Callable[[str], list[tuple[Any, ...]]], dsn: str, limit: float) -> None:
    """Raise SourceError when a replica lags by more than ``limit`` seconds.

    A backup of it would not have what was committed in that time.
    """
    ((lag,),) = query(LAG)
    if lag is not None and lag > limit:
        raise SourceError(
            f"the replica {where(dsn)} lags by {lag:.0f} seconds, {limit:.0f} are allowed",
            "see why it does not follow, or back up the primary: without dsn_backup",
        )
