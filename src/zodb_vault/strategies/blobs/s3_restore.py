"""Restore blobs into a bucket: existing objects are compared, missing ones are added, and nothing is deleted.

When there is a different object under the key of a blob, the restore is refused, or copies that object to a
folder first.
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

# Blobs longer than 5 MiB are sent in parts while they are read, so neither memory nor a disk has to hold
# them. S3 accepts no part shorter than 5 MiB (except the last), and at most 10,000 parts for an object.
WHOLE: Final = 5 << 20
PART: Final = 5 << 20
MOST_PARTS: Final = 10_000
# An S3 client holds several copies of the data that it sends. So at most two blobs longer than 1 MiB are sent
# at the same time.
LONG: Final = 1 << 20
LONG_AT_ONCE: Final = 2
# Blobs per thread, and the highest number of threads, for requests to a service: a thread waits most of the
# time.
REMOTE_BLOBS: Final = 16
REMOTE_THREADS: Final = 8


class BucketBlobs:
    """A bucket that blobs are restored into.

    With ``replace``, a different object under the key of a blob is copied to a folder, then replaced.
    """

    def __init__(self, bucket: BlobBucket, *, replace: bool) -> None:
        self._bucket, self._replace = bucket, replace

    @property
    def where(self) -> str:
        """Return the address of the bucket."""
        return self._bucket.root

    def shared_by(self) -> str | None:
        """Return a warning for a copy of a site, None when there is no object below the prefix."""
        return shared_by(self._bucket)

    def restore(self, job: BlobsJob, refs: BlobSet) -> list[str]:
        """Put the blobs into the bucket, and return notes about replaced objects."""
        job.context.progress.begin("blobs", job.size)
        folder = job.kept_name if self._replace else None
        writer = S3BlobWriter(job.source.objects, self._bucket, folder, job.context.progress)
        writer.fill(job.source.entry, job.source.objects, refs, job.workers, job.context.heartbeat)
        return writer.notes

    def put_aside(self, refs: Iterable[BlobRef], kept_name: str) -> list[str]:
        """Return a note with the number of objects that only the replaced state needs; they stay."""
        left = sum(1 for _ref in refs)
        if not left:
            return []
        return [
            f"{left} objects in {self.where} belong only to the replaced state; they stay there until a pack "
            "of the site deletes them; after that they are missing for the replaced Data.fs, but not in a "
            "safety backup"
        ]

    def left_in_place(self) -> list[str]:
        """Return a note that nothing is deleted in a bucket."""
        return [
            f"objects in {self.where} that only the replaced state needs stay there until a pack of the "
            "site deletes them"
        ]

    def settle(self, kept_name: str) -> list[str]:
        """Return nothing: a note of the restore names the folder with the copies."""
        return []


class S3BlobWriter:
    """Puts the blobs of one database into one bucket.

    ``aside`` is the folder that different objects are copied to before they are replaced. With None, a
    different object is an error. ``replaced`` is the number of replaced objects.
    """

    def __init__(self, sink: Sink, bucket: BlobBucket, aside: str | None, progress: Progress) -> None:
        self._sink, self._bucket, self._aside, self._progress = sink, bucket, aside, progress
        self._long, self._lock = threading.BoundedSemaphore(LONG_AT_ONCE), threading.Lock()
        self.replaced = 0

    @property
    def notes(self) -> list[str]:
        """Return notes about replaced objects."""
        if not self.replaced:
            return []
        kept = self._bucket.folder(self._aside or "")
        return [
            f"{self.replaced} objects were replaced by blobs of the backup; copies of the old objects are in "
            f"{kept}, and no command removes them",
            "empty the blob caches (cache-dir) of all processes of the site: they may contain replaced blobs",
        ]

    def fill(
        self,
        entry: DatabaseEntry,
        documents: Documents,
        refs: BlobSet,
        workers: int,
        heartbeat: Callable[[], None],
    ) -> None:
        """Put every blob of ``refs`` that the packs of a backup have into the bucket, and mark it as present.

        Raise Damage when a blob differs from what was stored, TargetRefused when a different object is in its
        place, StoreError.
        """
        remote = len(refs) // REMOTE_BLOBS
        with Workers(max(workers, min(remote, REMOTE_THREADS)), heartbeat) as threads:
            for _done in threads.in_order(self._jobs(entry, documents, refs)):
                pass

    def _jobs(
        self, entry: DatabaseEntry, documents: Documents, refs: BlobSet
    ) -> Iterator[Callable[[], None]]:
        # when two packs have the same blob, the later pack counts
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
        """Tell whether the object of a blob has to be written.

        A different object under its key is copied to the folder first, or is an error.
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
                f"{self._bucket.path(member_ref(member))} differs from the blob of the backup",
                "name another bucket or prefix, with --target and its zope.conf; or replace such objects, "
                "after they were copied, with --replace-blobs",
            )
        self._bucket.keep(member_ref(member), self._aside)
        with self._lock:
            self.replaced += 1

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
        """Yield the content; raise Damage when it differs from what was stored.

        The object exists only after the last chunk, so damaged content never becomes an object.
        """
        digest, size = hashlib.sha256(), 0
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            self._progress.advance(len(chunk))
            yield chunk
        if (size, digest.hexdigest()) != (member.size, member.sha256):
            raise Damage(
                f"the blob {member.oid} {member.tid} in its pack differs from what was stored",
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
    """Return a warning about a bucket for a copy of a site, None when there is no object below its prefix."""
    try:
        if not bucket.is_used():
            return None
    except StoreError as error:
        return f"it is not known whether another site uses {bucket.root} ({error.message})"
    return (
        f"there are already objects below {bucket.root}: if another site uses them, a pack of one site "
        "deletes blobs of the other one; give a copy of a site its own bucket or prefix"
    )
