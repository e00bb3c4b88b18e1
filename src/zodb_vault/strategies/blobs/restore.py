"""The blobs of a backup, on their way to where a site keeps them: a blob directory or a bucket."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from ...blobs.packs import member_ref, pack_members
from ...blobs.refs import BlobSet
from ...errors import Damage
from ...model.blob import BlobRef
from ...model.chain import packs_of
from ..destination import RestoreContext, RestoreSource
from .kept import KEPT_PREFIX
from .missing import missing_rows


class BlobsJob(NamedTuple):
    """What is restored of the blobs of one database, in one restore, with how many threads."""

    source: RestoreSource
    context: RestoreContext
    workers: int

    @property
    def size(self) -> int:
        """Return how many bytes all blobs of the backup have."""
        blobs = self.source.entry.blobs
        return blobs.size if blobs else 0

    @property
    def kept_name(self) -> str:
        """Return the name of the folder for what is kept of the old state."""
        return KEPT_PREFIX + self.context.restore


class BlobTarget(Protocol):
    """Where the blobs of one database go: a directory or a bucket."""

    @property
    def where(self) -> str:
        """Return how messages call it: the path of the directory, or the address in the bucket."""
        ...

    def shared_by(self) -> str | None:
        """Return a warning where a copy of the site would share the place with another site."""
        ...

    def restore(self, job: BlobsJob, refs: BlobSet) -> list[str]:
        """Put all of ``refs`` that the backup has in place, durably, and mark each as present.

        Return notes for the user.

        Raise Damage, TargetRefused, StoreError.
        """
        ...

    def put_aside(self, refs: Iterable[BlobRef], kept_name: str) -> list[str]:
        """Put aside blobs that only the replaced state needs, and return notes for the user.

        May be done again.
        """
        ...

    def left_in_place(self) -> list[str]:
        """Return notes about blobs of a replaced state that nothing puts aside."""
        ...

    def settle(self, kept_name: str) -> list[str]:
        """Remove what only an undo needs; return where blobs of the old state are kept, if there are any."""
        ...


def add_packed_blobs(source: RestoreSource, refs: BlobSet) -> None:
    """Add all blobs in the packs of a backup that are not later than the restored state."""
    last_tid = source.cut.last_tid if source.cut.within else None
    for pack in packs_of(source.entry, source.objects):
        rows = pack_members(source.objects, pack)
        refs.add(member_ref(member) for member in rows if last_tid is None or member.tid <= last_tid)


def require_all(source: RestoreSource, refs: BlobSet) -> list[str]:
    """Raise Damage unless every blob is in place that the backup has; return what the user has to know."""
    rows = missing_rows(source.entry, source.objects)
    known = {(row.oid, row.tid) for row in rows}
    lost = [
        one
        for one in refs.missing()
        if one.sure and (f"0x{one.oid.hex()}", f"0x{one.tid.hex()}") not in known
    ]
    if lost:
        raise Damage(
            f"{len(lost)} blobs are in no pack of the backup, "
            f"the first is 0x{lost[0].oid.hex()} 0x{lost[0].tid.hex()}",
            "restore another backup",
        )
    return [f"{len(rows)} blobs were missing when the backup was made and are missing now"] if rows else []
