"""Restore the blobs of a backup to the place where a site keeps them: a blob directory or a bucket."""

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
    """The blobs of one database that are restored, in which restore, and with how many threads."""

    source: RestoreSource
    context: RestoreContext
    workers: int

    @property
    def size(self) -> int:
        """Return the size of all blobs of the backup in bytes."""
        blobs = self.source.entry.blobs
        return blobs.size if blobs else 0

    @property
    def kept_name(self) -> str:
        """Return the name of the folder for blobs of the old state."""
        return KEPT_PREFIX + self.context.restore


class BlobTarget(Protocol):
    """The place that the blobs of one database are restored to: a directory or a bucket."""

    @property
    def where(self) -> str:
        """Return its name in messages: the path of the directory, or the address in the bucket."""
        ...

    def shared_by(self) -> str | None:
        """Return a warning where a copy of the site would share the place with another site."""
        ...

    def restore(self, job: BlobsJob, refs: BlobSet) -> list[str]:
        """Put all blobs of ``refs`` that the backup has in place, durably, and mark each as present.

        Return notes for the user. Raise Damage, TargetRefused, StoreError.
        """
        ...

    def put_aside(self, refs: Iterable[BlobRef], kept_name: str) -> list[str]:
        """Put aside the blobs that only the replaced state needs, and return notes for the user.

        It can be repeated after an interruption.
        """
        ...

    def left_in_place(self) -> list[str]:
        """Return notes about blobs of the replaced state that stay in place."""
        ...

    def settle(self, kept_name: str) -> list[str]:
        """Remove what only an undo needs; return the paths where blobs of the old state are kept, if any."""
        ...


def add_packed_blobs(source: RestoreSource, refs: BlobSet) -> None:
    """Add all blobs in the packs of a backup to ``refs``, except those later than the restored state."""
    last_tid = source.cut.last_tid if source.cut.within else None
    for pack in packs_of(source.entry, source.objects):
        rows = pack_members(source.objects, pack)
        refs.add(member_ref(member) for member in rows if last_tid is None or member.tid <= last_tid)


def require_all(source: RestoreSource, refs: BlobSet) -> list[str]:
    """Raise Damage when a blob is neither in place nor listed as missing; return notes for the user."""
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
