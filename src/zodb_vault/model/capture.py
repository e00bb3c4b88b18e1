"""What a capture is given: options, earlier backups, and what an interrupted run left."""

from __future__ import annotations

from datetime import datetime

import msgspec

from .manifest import DatabaseEntry, StoredProgress


class PreviousBackup(msgspec.Struct, frozen=True, kw_only=True):
    """One database of an earlier complete backup that may be continued.

    ``captured`` is the clock of that run.
    """

    id: str
    captured: datetime
    entry: DatabaseEntry


class InterruptedRun(msgspec.Struct, frozen=True):
    """What an interrupted run left: its notes, and the parent that it continued."""

    stored: StoredProgress
    parent: PreviousBackup | None


class CaptureOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a user wants a capture to be.

    ``restored``: the site was put back to an older state since the newest backup.

    ``doubtful``: what an interrupted run has left may be somebody else's, and this run is to vouch for it: it
    is compared with the source.
    """

    forced: bool = False
    storage: bool = True
    blobs: bool = True
    allow_missing: int | None = None
    restored: bool = False
    doubtful: bool = False
    workers: int = 2
