"""The input of a capture: options, the previous backup, and the progress of an interrupted run."""

from __future__ import annotations

from datetime import datetime

import msgspec

from .manifest import DatabaseEntry, StoredProgress


class PreviousBackup(msgspec.Struct, frozen=True, kw_only=True):
    """One database of an earlier complete backup, which may be continued.

    ``captured`` is the time of that run by its own clock.
    """

    id: str
    captured: datetime
    entry: DatabaseEntry


class InterruptedRun(msgspec.Struct, frozen=True):
    """An interrupted run: what it stored, and the parent that it continued."""

    stored: StoredProgress
    parent: PreviousBackup | None


class CaptureOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a capture.

    ``forced``: make a full backup. ``storage`` and ``blobs``: the components to copy. ``allow_missing``: how
    many blobs may be missing (None: the default limit). ``restored``: an older state was restored since the
    newest backup. ``doubtful``: the objects of an interrupted run may be forged, and this run signs its
    manifest, so they are compared with the source. ``damaged`` are the names of objects that are known to be
    damaged: what they hold is stored again from the source.
    """

    forced: bool = False
    storage: bool = True
    blobs: bool = True
    allow_missing: int | None = None
    restored: bool = False
    doubtful: bool = False
    damaged: frozenset[str] = frozenset()
    workers: int = 2
