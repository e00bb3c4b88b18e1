"""Record from time to time what a run has stored of one database, for a run that continues it."""

from __future__ import annotations

import msgspec

from ..model import chain
from ..model.chain import Documents
from ..model.manifest import Pack, Segment, StoredProgress
from .base import Checkpointer


class RunNotes:
    """Collects the segments and packs of one capture; a checkpoint stores lists of them.

    The marker of the run references these lists. ``stored`` are the lists of an interrupted run that this run
    uses again.
    """

    def __init__(self, documents: Documents, checkpointer: Checkpointer, stored: StoredProgress) -> None:
        self._documents, self._checkpointer, self._stored = documents, checkpointer, stored
        self._segments: list[Segment] = []
        self._packs: list[Pack] = []

    def add_segment(self, segment: Segment) -> None:
        """Add a segment that was stored."""
        self._segments.append(segment)
        self._checkpoint(segment.stored)

    def add_pack(self, pack: Pack) -> None:
        """Add a pack that was stored."""
        self._packs.append(pack)
        self._checkpoint(pack.stored)

    def _checkpoint(self, size: int) -> None:
        if self._checkpointer.is_due(size):
            self._checkpointer.checkpoint(self.stored())

    def stored(self) -> StoredProgress:
        """Return what is stored so far; store a list of what is new since the last call."""
        segments = [chain.store_list(self._documents, self._segments)] if self._segments else []
        packs = [chain.store_list(self._documents, self._packs)] if self._packs else []
        self._stored = msgspec.structs.replace(
            self._stored,
            segments=self._stored.segments + segments,
            packs=self._stored.packs + packs,
        )
        self._segments, self._packs = [], []
        return self._stored
