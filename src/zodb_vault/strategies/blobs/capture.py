"""The blobs of one database in a backup that is being made: packs of earlier backups, and new packs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ...blobs.refs import BlobSet
from ...model.blob import BlobRef, MissingBlob
from ...model.chain import Chain
from ...model.manifest import Blobs, Pack
from ...runtime.workers import Workers
from ..checkpoint import RunNotes
from .compaction import heal_packs, is_sparse, pack_missing, rewrite_packs
from .missing import note_missing
from .packer import Packer
from .source import BlobSource

# The highest number of empty blobs that are listed one by one, so that a manifest stays small.
NAMED: Final = 20

Choice = Callable[[Pack], Pack | None]
"""Returns the part of a pack that is used again: the pack itself, one with fewer live blobs, or None."""


class PackedBlobs:
    """The packs of the new backup so far; ``refs`` are the blobs that its storage references.

    ``findings`` name blobs whose content changed since they were backed up.
    """

    def __init__(self, packer: Packer, refs: BlobSet, notes: RunNotes) -> None:
        self._packer, self._refs, self._notes = packer, refs, notes
        self.packs = Chain(Pack, packer.sink)
        self.count = self.size = self.added = 0
        self.findings: list[str] = []
        self._empty: list[str] = []
        self._empty_count = 0
        self._has_sparse = False
        self._sparse_left = 0

    def take(self, packs: Chain[Pack], blobs: Blobs, choose: Choice | None = None) -> None:
        """Use the packs of an earlier backup again: all of them, or for each pack what ``choose`` returns."""
        self.count, self.size = blobs.count, blobs.size
        self._has_sparse = blobs.sparse > 0
        self.packs = packs.mapped(lambda pack: self._chosen(pack, choose)) if choose else packs

    def _chosen(self, pack: Pack, choose: Choice) -> Pack | None:
        kept = choose(pack)
        if kept is not pack:
            self.count += (kept.count if kept else 0) - pack.count
            self.size += (kept.size if kept else 0) - pack.size
            self._has_sparse = self._has_sparse or (kept is not None and is_sparse(kept))
        return kept

    def adopt(self, packs: Iterable[Pack], choose: Choice) -> None:
        """Use the packs of an interrupted run, after those of the earlier backup."""
        for kept in map(choose, packs):
            if kept is not None:
                self._append(kept)
                self._has_sparse = self._has_sparse or is_sparse(kept)

    def _append(self, pack: Pack) -> None:
        self.packs = self.packs.extended([pack])
        self.count, self.size = self.count + pack.count, self.size + pack.size

    def copy_missing(self, workers: Workers, source: BlobSource) -> int:
        """Copy the referenced blobs that no pack has; return how many of them the source does not have."""
        gone = 0
        self._packer.expect(self._refs.count_missing())
        for packed in pack_missing(workers, self._packer, source, self._refs.missing()):
            gone += packed.gone
            self._refs.mark_present(packed.keys)
            self._note_empty(source, packed.empty)
            for pack in packed.packs:
                self._append(pack)
                self.added += pack.count
                self._notes.add_pack(pack)
        return gone

    def _note_empty(self, source: BlobSource, empty: list[BlobRef]) -> None:
        room = max(0, NAMED - len(self._empty))
        self._empty += [str(source.path(blob)) for blob in empty[:room]]
        self._empty_count += len(empty)

    def rewrite(self, workers: Workers, source: BlobSource, damaged: frozenset[str]) -> None:
        """Store the blobs of damaged packs again, join small packs, and rewrite some sparse ones."""
        if damaged:
            self.packs = heal_packs(self.packs, damaged, self._packer, source, workers, self.findings)
        done = rewrite_packs(self.packs, self._has_sparse, self._packer, source, workers, self.findings)
        self.packs, self._sparse_left = done.chain, done.sparse

    def warnings(self) -> Iterator[str]:
        """Yield a warning for each empty blob of the source, up to a limit."""
        yield from (f"{path} is empty" for path in self._empty)
        if self._empty_count > len(self._empty):
            yield f"{self._empty_count - len(self._empty)} more blobs are empty"

    def result(self, missing: Iterable[MissingBlob]) -> Blobs:
        """Return the entry of the manifest for the blobs; the source has lost those in ``missing``."""
        packs = self.packs.with_short_tail()
        return Blobs(
            count=self.count,
            size=self.size,
            lists=packs.lists,
            tail=packs.tail,
            missing=note_missing(self._packer.sink, missing),
            sparse=self._sparse_left,
        )
