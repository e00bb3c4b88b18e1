"""Blobs back into a bucket: what is there is compared, what is missing is added, and nothing is ever deleted.

Another object under the key of a blob is a refusal, or is copied to a folder first.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from ...blobs.packs import Member, member_key, member_ref, pack_members, read_members
from ...blobs.refs import BlobSet
from ...errors import Damage, StoreError, TargetRefused
from ...model.blob import BlobRef
from ...model.chain import Documents, packs_of
from ...model.manifest import DatabaseEntry, Pack
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..base import Sink
from .restore import BlobsJob
from .s3 import BlobBucket

# Longer blobs are sent in parts while they are read, so that neither memory nor a disk has to hold them. 5
# MiB is the shortest part that S3 accepts, and an object has at most 10,000 parts.
WHOLE: Final = 5 << 20
PART: Final = 5 << 20
MOST_PARTS: Final = 10_000
# A client holds several copies of what it sends: of blobs that are longer than this, only a few are sent at
# once.
LONG: Final = 1 << 20
LONG_AT_ONCE: Final = 2
# Blobs per thread, and the highest number of threads, for requests to a service: a thread waits most of the
# time.
REMOTE_BLOBS: Final = 16
REMOTE_THREADS: Final = 8


class BucketBlobs:
    """A bucket that blobs are restored into.

    ``replace``: another object may be replaced, after it was copied to a folder.
    """

    def __init__(self, bucket: BlobBucket, *, replace: bool) -> None:
        self._bucket, self._replace = bucket, replace

    @property
    def where(self) -> str:
        """Return the address of the bucket."""
        return self._bucket.root

    def shared_by(self) -> str | None:
        """Return a warning for a copy of a site, None where there is nothing below the prefix."""
        return shared_by(self._bucket)

    def restore(self, job: BlobsJob, refs: BlobSet) -> list[str]:
        """Put the blobs into the bucket, and return what was done to other objects."""
        job.context.progress.begin("blobs", job.size)
        folder = job.kept_name if self._replace else None
        writer = S3BlobWriter(job.source.objects, self._bucket, folder, job.context.progress)
        writer.fill(job.source.entry, job.source.objects, refs, job.workers, job.context.heartbeat)
        return writer.notes

    def put_aside(self, refs: Iterable[BlobRef], kept_name: str) -> list[str]:
        """Say how many objects only the replaced state needs.

        They stay until the site itself deletes them.
        """
        left = sum(1 for _ref in refs)
        if not left:
            return []
        return [
            f"{left} objects in {self.where} belong to the replaced state only; they stay there until the "
            "site is packed, "
            "which deletes them: from then on the replaced Data.fs lacks them, a safety backup does not"
        ]

    def left_in_place(self) -> list[str]:
        """Say that nothing is deleted here."""
        return [
            f"objects in {self.where} that only the replaced state needs stay there until the site is "
            "packed, which deletes them"
        ]

    def settle(self, kept_name: str) -> list[str]:
        """Return nothing: a note names the folder that objects were copied to."""
        return []


class S3BlobWriter:
    """Puts the blobs of one database into one bucket.

    ``aside`` is the folder to which other objects are copied before they are replaced; None: they are a
    refusal. ``exchanged`` is the number of replaced objects.
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
            f"{self.exchanged} objects gave way to those of the backup; copies of them are in {kept}, "
            "which nothing removes",
            "empty the blob caches (cache-dir) of all processes of the site: they may hold what was "
            "exchanged",
        ]

    def fill(
        self,
        entry: DatabaseEntry,
        documents: Documents,
        refs: BlobSet,
        workers: int,
        heartbeat: Callable[[], None],
    ) -> None:
        """Put every blob of ``refs`` there that the packs of a backup have, and mark it as present.

        Raise Damage when a blob is not as it was stored, TargetRefused when another object is in its place,
        StoreError.
        """
        remote = len(refs) // REMOTE_BLOBS
        with Workers(max(workers, min(remote, REMOTE_THREADS)), heartbeat) as threads:
            for _done in threads.in_order(self._jobs(entry, documents, refs)):
                pass

    def _jobs(
        self, entry: DatabaseEntry, documents: Documents, refs: BlobSet
    ) -> Iterator[Callable[[], None]]:
        # where two packs have the same blob, the last pack counts
        for pack in reversed(packs_of(entry, documents)):
            rows = pack_members(self._sink, pack)
            taken = refs.take_missing(member_key(member) for member in rows)
            if taken:
                yield partial(
                    self._put_pack,
                    pack,
                    rows,
                    {member.offset for member in rows if member_key(member) in taken},
                )

    def _put_pack(self, pack: Pack, rows: list[Member], wanted: set[int]) -> None:
        todo = {member.offset for member in rows if member.offset in wanted and self._is_to_do(member)}
        if todo:
            for member, chunks in read_members(
                rows, self._sink.read(pack.parts), lambda member: member.offset in todo
            ):
                self._put(member, chunks)

    def _is_to_do(self, member: Member) -> bool:
        """Tell whether an object has to be written.

        Another one under its key is copied to the folder first, or refused.
        """
        holds = self._bucket.holds(member_ref(member), member.size, member.sha256)
        if holds:
            self._progress.advance(member.size)
        elif holds is False:
            self._set_aside(member)
        return not holds

    def _set_aside(self, member: Member) -> None:
        if self._aside is None:
            raise TargetRefused(
                f"{self._bucket.path(member_ref(member))} is another object than the blob of the backup",
                "name another bucket or prefix, with --target and its zope.conf; `--replace-blobs` keeps a "
                "copy of such objects first",
            )
        self._bucket.keep(member_ref(member), self._aside)
        with self._lock:
            self.exchanged += 1

    def _put(self, member: Member, chunks: Iterator[memoryview]) -> None:
        checked = self.checked_content(member, chunks)
        with self._long if member.size > LONG else contextlib.nullcontext():
            if member.size <= WHOLE:
                self._bucket.put(member_ref(member), b"".join(checked))
            else:
                self._bucket.put_parts(
                    member_ref(member), _in_parts(checked, max(PART, -(-member.size // MOST_PARTS)))
                )

    def checked_content(self, member: Member, chunks: Iterator[memoryview]) -> Iterator[memoryview]:
        """Yield the content; raise Damage when it is not what was stored.

        The object does not exist before the end of this.
        """
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
    """Return a warning about a bucket for a copy of a site, None when there is nothing below its prefix."""
    try:
        if not bucket.is_used():
            return None
    except StoreError as error:
        return f"it is not known whether another site uses {bucket.root} ({error.message})"
    return (
        f"there are objects below {bucket.root} already: if another site uses them, each of the two "
        "deletes blobs of the "
        "other when it is packed; give a copy of a site a bucket or prefix of its own"
    )
