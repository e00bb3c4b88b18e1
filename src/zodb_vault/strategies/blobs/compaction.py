"""Stores again the content of many small packs and of packs that are mostly unreferenced, always from the source and never from the repository.

A piece is given up only after the source gave exactly its digest once more; so nothing that is stored gets lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec

from ...blobs.packs import member_ref, pack_members
from ...blobs.refs import BlobSet
from ...model.blob import BlobRef
from ...model.capture import CaptureOptions
from ...model.chain import Chain
from ...model.manifest import Pack
from ...runtime.workers import Workers
from ..base import Checkpointer
from .packer import Packed, Packer, Shared, require_unchanged, still_holds
from .source import BlobSource

SMALL: Final = 16 << 20
NEIGHBOURS: Final = 32
REWRITE_BYTES: Final = 1 << 30
REWRITE_SHARE: Final = 0.05
# A service answers many requests at once, and each takes its time: one thread for every 16 blobs, up to 12
# threads.
REMOTE_BLOBS: Final = 16
REMOTE_THREADS: Final = 12


def small_neighbours(sizes: Iterable[float]) -> tuple[int, int]:
    """Return the first and the end of the longest run of small pieces, (0, 0) when none is longer than 32."""
    best, start = (0, 0), 0
    for n, size in enumerate(sizes):
        if size >= SMALL:
            start = n + 1
        elif n + 1 - start > max(NEIGHBOURS, best[1] - best[0]):
            best = (start, n + 1)
    return best


def is_sparse(pack: Pack) -> bool:
    """Tell whether less than half of a pack is alive."""
    return pack.live * 2 < pack.raw


class Rewrite(msgspec.Struct):
    """What rewriting packs did: the new chain, and how many sparse packs are left for later."""

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
    """Return the chain with small neighbours of its tail joined and, when there are ``sparse`` ones, these rewritten within the budget."""
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


def _rewritten(
    packs: Sequence[Pack], packer: Packer, source: BlobSource, workers: Workers, findings: list[str]
) -> tuple[set[str], list[Pack]]:
    members, done = [], set()
    for pack in packs:
        rows = pack_members(packer.sink, pack)
        changed = next((member for member in rows if not still_holds(source, member)), None)
        if changed is None:
            members += rows
            done.add(pack.index.meta)
        else:
            findings.append(
                f"{source.path(member_ref(changed))} no longer gives the bytes that were backed up; the "
                "backup keeps them"
            )
    written = [
        pack
        for packed in pack_missing(workers, packer, source, map(member_ref, members))
        for pack in packed.packs
    ]
    for pack in written:
        require_unchanged(source, members, pack_members(packer.sink, pack))
    if sum(pack.count for pack in written) != len(members):
        return set(), []  # a blob went away in between: the old packs keep their places
    return done, written


def reading_workers(
    source: BlobSource, refs: BlobSet, options: CaptureOptions, checkpointer: Checkpointer
) -> Workers:
    """Return the threads that read what is missing.

    Where each blob is waited for there are more threads than processors, but fewer for a few blobs.
    """
    threads = 0
    if source.remote:
        threads = sum(1 for _blob in islice(refs.missing(), REMOTE_THREADS * REMOTE_BLOBS)) // REMOTE_BLOBS
    return Workers(max(options.workers, threads), checkpointer.heartbeat)


def pack_missing(
    workers: Workers, packer: Packer, source: BlobSource, refs: Iterable[BlobRef]
) -> Iterator[Packed]:
    """Write packs until nothing is left."""
    shared = Shared(refs)
    while not shared.exhausted:
        # checked again when all jobs have ended: one may have given a blob back after another one saw the end
        yield from workers.in_order(_pack_jobs(packer, source, shared))


def _pack_jobs(packer: Packer, source: BlobSource, shared: Shared) -> Iterator[Callable[[], Packed]]:
    while not shared.exhausted:
        yield lambda: packer.pack(source, shared)
