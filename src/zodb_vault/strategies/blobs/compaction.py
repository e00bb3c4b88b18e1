"""Store again what is in too many small pieces, or in packs of which more than half is no longer needed.

The content is read from the source, never from the repository: a backup needs no private key. A piece is
replaced only after the source gave exactly the same digest again. So no stored content gets lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec

from ...blobs.packs import member_key, member_ref, pack_members
from ...blobs.refs import BlobSet
from ...model.blob import BlobRef
from ...model.capture import CaptureOptions
from ...model.chain import Chain
from ...model.manifest import Pack
from ...runtime.workers import Workers
from ..base import Checkpointer
from .packer import Packed, Packer, Shared, require_unchanged, still_holds
from .source import BlobSource

# Pieces below 16 MiB, a quarter of the longest piece, are joined when more than 32 of them are in a row.
SMALL: Final = 16 << 20
NEIGHBOURS: Final = 32
# One run rewrites sparse packs with at most 1 GiB of live blobs, or 5 percent of all packs if that is more.
# So a run stays short after a pack of the site that removed many blobs.
REWRITE_BYTES: Final = 1 << 30
REWRITE_SHARE: Final = 0.05
# A service answers many requests at once, but each one takes time. One thread for every 16 blobs, at most 12
# threads.
REMOTE_BLOBS: Final = 16
REMOTE_THREADS: Final = 12


def small_neighbours(sizes: Iterable[float]) -> tuple[int, int]:
    """Return the start and the end of the longest row of small pieces, (0, 0) when none has more than 32.

    ``sizes`` are in bytes; a piece is small below 16 MiB.
    """
    best, start = (0, 0), 0
    for n, size in enumerate(sizes):
        if size >= SMALL:
            start = n + 1
        elif n + 1 - start > max(NEIGHBOURS, best[1] - best[0]):
            best = (start, n + 1)
    return best


def is_sparse(pack: Pack) -> bool:
    """Tell whether less than half of the bytes of a pack are live."""
    return pack.live * 2 < pack.raw


class Rewrite(msgspec.Struct):
    """The result of rewriting packs: the new chain, and how many sparse packs are left for later runs."""

    chain: Chain[Pack]
    sparse: int


def rewrite_packs(
    chain: Chain[Pack],
    sparse: bool,
    packer: Packer,
    source: BlobSource,
    workers: Workers,
    findings: list[str],
) -> Rewrite:
    """Return the chain after small packs of its tail were joined and sparse packs rewritten.

    Sparse packs beyond the budget stay. ``sparse`` is False when no pack is sparse; then the lists of packs
    are not read.
    """
    start, end = small_neighbours(pack.raw for pack in chain.tail)
    chosen = list(chain.tail[start:end])
    budget = max(REWRITE_BYTES, int(chain.raw * REWRITE_SHARE))
    left = 0
    if sparse:
        names = {pack.index.meta for pack in chosen}
        for pack in (pack for pack in chain if is_sparse(pack) and pack.index.meta not in names):
            budget -= pack.live
            if budget >= 0:
                chosen.append(pack)
            else:
                left += 1
    done, written = _rewritten(chosen, packer, source, workers, findings)
    if not done:
        return Rewrite(chain, left)
    rest = chain.mapped(lambda pack: None if pack.index.meta in done else pack).extended(written)
    return Rewrite(rest, left)


def heal_packs(
    chain: Chain[Pack],
    damaged: frozenset[str],
    packer: Packer,
    source: BlobSource,
    workers: Workers,
    findings: list[str],
) -> Chain[Pack]:
    """Return the chain with the blobs of damaged objects stored again, as far as the source has exactly them.

    A damaged pack keeps the blobs that the source has lost: a copy of the repository may bring them back.
    """
    broken = [pack for pack in chain if not damaged.isdisjoint(part.object for part in pack.parts)]
    members = [member for pack in broken for member in pack_members(packer.sink, pack)]
    held = {member_key(member): member for member in members if still_holds(source, member)}
    packer.expect(len(held))
    written = [
        pack
        for packed in pack_missing(workers, packer, source, map(member_ref, held.values()))
        for pack in packed.packs
    ]
    stored: set[bytes] = set()
    for pack in written:
        rows = pack_members(packer.sink, pack)
        require_unchanged(source, held.values(), rows)
        stored |= {member_key(member) for member in rows}
    findings += [
        f"{source.path(member_ref(member))} is damaged in the repository and no longer gives the bytes that "
        "were backed up"
        for member in members
        if member_key(member) not in stored
    ]
    names = {pack.index.meta for pack in broken}

    def without_stored(pack: Pack) -> Pack | None:
        if pack.index.meta not in names:
            return pack
        return packer.live(pack, lambda member: member_key(member) not in stored)

    return chain.mapped(without_stored).extended(written) if stored else chain


def _rewritten(
    packs: Sequence[Pack], packer: Packer, source: BlobSource, workers: Workers, findings: list[str]
) -> tuple[set[str], list[Pack]]:
    """Return the indexes of the packs that were replaced, and the new packs with their blobs.

    A pack stays when the source no longer gives one of its blobs; ``findings`` then gets a text.
    """
    members, done = [], set()
    for pack in packs:
        rows = pack_members(packer.sink, pack)
        changed = next((member for member in rows if not still_holds(source, member)), None)
        if changed is None:
            members += rows
            done.add(pack.index.meta)
        else:
            findings.append(
                f"{source.path(member_ref(changed))} changed since it was backed up; the backup keeps the "
                "old content"
            )
    if members:
        packer.expect(len(members))
    written = [
        pack
        for packed in pack_missing(workers, packer, source, map(member_ref, members))
        for pack in packed.packs
    ]
    for pack in written:
        require_unchanged(source, members, pack_members(packer.sink, pack))
    if sum(pack.count for pack in written) != len(members):
        return set(), []  # a blob was removed in between, so all old packs stay
    return done, written


def reading_workers(
    source: BlobSource, refs: BlobSet, options: CaptureOptions, checkpointer: Checkpointer
) -> Workers:
    """Return the threads that read the missing blobs.

    A service is read by more threads than there are processors, but by fewer when few blobs are missing.
    """
    threads = 0
    if source.remote:
        threads = sum(1 for _blob in islice(refs.missing(), REMOTE_THREADS * REMOTE_BLOBS)) // REMOTE_BLOBS
    return Workers(max(options.workers, threads), checkpointer.heartbeat)


def pack_missing(
    workers: Workers, packer: Packer, source: BlobSource, refs: Iterable[BlobRef]
) -> Iterator[Packed]:
    """Write packs until no blob is left, and yield the result of each job."""
    shared = Shared(refs)
    while not shared.exhausted:
        # The loop is needed: a job may give a blob back after another job has seen the end.
        yield from workers.in_order(_pack_jobs(packer, source, shared))


def _pack_jobs(packer: Packer, source: BlobSource, shared: Shared) -> Iterator[Callable[[], Packed]]:
    while not shared.exhausted:
        yield lambda: packer.pack(source, shared)
