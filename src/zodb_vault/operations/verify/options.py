"""How to verify a backup."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...repository.labels import Level


class VerifyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The level of a verification, and what it may use.

    ``sample`` is for the level bytes: the share of the objects that is read, a different part every day. The
    level restore writes to the directory ``scratch``, and restores a dump of PostgreSQL into a scratch
    database on the server ``scratch_dsn``.
    """

    level: Level = "records"
    sample: float = 1.0
    scratch: Path | None = None
    scratch_dsn: str | None = None
    workers: int = 2
