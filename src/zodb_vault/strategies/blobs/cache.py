"""Put the blobs of a backup into a cache, where a storage looks before it reads its bucket."""

from __future__ import annotations

from pathlib import Path

from ...blobs.packs import member_ref, pack_members, read_members
from ...model.chain import packs_of
from ...model.manifest import DatabaseEntry
from ...runtime.progress import Progress
from ..base import Sink
from .s3 import wrapper_key


def fill_cache(entry: DatabaseEntry, objects: Sink, cache: Path, progress: Progress) -> None:
    """Put all blobs of a backup into a cache of zodb-s3blobs or zodb-pgjsonb, which use the same names.

    Raise Damage.
    """
    progress.begin("blobs", entry.blobs.size if entry.blobs else 0)
    for pack in packs_of(entry, objects):
        for member, chunks in read_members(
            pack_members(objects, pack), objects.read(pack.parts), lambda _member: True
        ):
            path = cache.parent / wrapper_key(member_ref(member))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    progress.advance(len(chunk))
