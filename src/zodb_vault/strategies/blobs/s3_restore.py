"""Blobs back into a bucket: what is there is compared, what is missing added; another object is in the way, or kept, and nothing is ever deleted."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from ...blobs.packs import Member, member_ref, pack_members, read_members
from ...blobs.packs import member_key as key_of
from ...blobs.refs import BlobSet
from ...errors import Damage, StoreError, TargetRefused
from ...model.chain import Documents, packs_of
from ...model.manifest import DatabaseEntry, Pack
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Sink
from .s3 import BlobBucket

# What is longer goes there in parts (the shortest that S3 takes) as it is read, so that neither memory nor a disk has to hold it.
WHOLE: Final = 5 << 20
PART: Final = 5 << 20
MOST_PARTS: Final = 10_000
# A client holds several copies of what it sends: what is longer than this goes a few at a time.
LONG: Final = 1 << 20
LONG_AT_ONCE: Final = 2
# So many blobs for each thread, and so many threads at most, that wait for a service.
FAR_BLOBS: Final = 16
FAR_THREADS: Final = 8


class S3BlobWriter:
    """Puts the blobs of one database into one bucket; ``aside`` is the folder that objects go to which give way, None when none may.

    ``exchanged`` is how many did.
    """

    def __init__(self, sink: Sink, bucket: BlobBucket, aside: str | None, progress: Progress) -> None:
        self._sink, self._bucket, self._aside, self._progress = sink, bucket, aside, progress
        self._long, self._lock = threading.BoundedSemaphore(LONG_AT_ONCE), threading.Lock()
        self.exchanged = 0

    @property
    def notes(self) -> list[str]:
        """Return what to know of what was done."""
        if not self.exchanged:
            return []
        kept = self._bucket.folder(self._aside or "")
        return [
            f"{self.exchanged} objects gave way to those of the backup; copies of them are in {kept}, which nothing removes",
            "empty the blob caches (cache-dir) of all processes of the site: they may hold what was exchanged",
        ]

    def fill(
        self,
        entry: DatabaseEntry,
        documents: Documents,
        refs: BlobSet,
        workers: int,
        beat: Callable[[], None],
    ) -> None:
        """Put every blob of ``refs`` there that the packs of a backup have, and take it off what is lacking.

        Raise Damage when a blob is not as it was stored, TargetRefused when another object is in its place, StoreError.
        """
        far = len(refs) // FAR_BLOBS
        with Workers(max(workers, min(far, FAR_THREADS)), beat) as threads:
            for _done in threads.in_order(self._jobs(entry, documents, refs)):
                pass

    def _jobs(
        self, entry: DatabaseEntry, documents: Documents, refs: BlobSet
    ) -> Iterator[Callable[[], None]]:
        # of one blob in two packs the last one's holds
        for pack in reversed(packs_of(entry, documents)):
            rows = pack_members(self._sink, pack)
            taken = refs.take_missing(key_of(member) for member in rows)
            if taken:
                yield partial(
                    self._put_pack, pack, rows, {member.offset for member in rows if key_of(member) in taken}
                )

    def _put_pack(self, pack: Pack, rows: list[Member], wanted: set[int]) -> None:
        todo = {member.offset for member in rows if member.offset in wanted and self._is_to_do(member)}
        if todo:
            for member, chunks in read_members(
                rows, self._sink.read(pack.parts), lambda member: member.offset in todo
            ):
                self._put(member, chunks)

    def _is_to_do(self, member: Member) -> bool:
        """Tell whether an object has to be written; one that is in the way is copied to where it is kept, or refused."""
        holds = self._bucket.holds(member_ref(member), member.size, member.sha256)
        if holds:
            self._progress.advance(member.size)
        elif holds is False:
            self._give_way(member)
        return not holds

    def _give_way(self, member: Member) -> None:
        if self._aside is None:
            raise TargetRefused(
                f"{self._bucket.path(member_ref(member))} is another object than the blob of the backup",
                "name another bucket or prefix, with --target and its zope.conf; `--replace-blobs` keeps a copy of such objects first",
            )
        self._bucket.keep(member_ref(member), self._aside)
        with self._lock:
            self.exchanged += 1

    def _put(self, member: Member, chunks: Iterator[memoryview]) -> None:
        checked = self._checked(member, chunks)
        with self._long if member.size > LONG else contextlib.nullcontext():
            if member.size <= WHOLE:
                self._bucket.put(member_ref(member), b"".join(checked))
            else:
                self._bucket.put_parts(
                    member_ref(member), _in_parts(checked, max(PART, -(-member.size // MOST_PARTS)))
                )

    def _checked(self, member: Member, chunks: Iterator[memoryview]) -> Iterator[memoryview]:
        """Yield the content; raise Damage before the last of it is used when it is not what was stored: no object exists then."""
        digest, size = hashlib.sha256(), 0
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            self._progress.advance(len(chunk))
            yield chunk
        if (size, digest.hexdigest()) != (member.size, member.sha256):
            raise Damage(
                f"the blob {member.oid} {member.tid} in its pack is not the one that was stored",
                "restore another backup",
            )


def _in_parts(chunks: Iterator[memoryview], size: int) -> Iterator[bytes]:
    part = bytearray()
    for chunk in chunks:
        part += chunk
        while len(part) >= size:
            yield bytes(part[:size])
            del part[:size]
    if part:
        yield bytes(part)


def shared_by(bucket: BlobBucket) -> str | None:
    """Return what to know of a bucket that a copy of a site is going to use, None when there is nothing below its prefix."""
    try:
        if not bucket.is_used():
            return None
    except StoreError as error:
        return f"whether another site uses {bucket.root} could not be found out ({error.message})"
    return (
        f"there are objects below {bucket.root} already: if another site uses them, each of the two deletes blobs of the other when it is packed; "
        "give a copy of a site a bucket or prefix of its own"
    )
