"""The blobs of RelStorage: files of a shared directory, objects of a bucket, or rows of the database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ...datafs.records import is_blob
from ...model.blob import BlobRef
from ...model.source import Database
from ..blobs.s3 import BlobBucket, wrapper_key
from ..blobs.source import BlobDirectory, BlobSource
from ..sql.schema import StorageBlobs, number_of
from ..sql.snapshot import Rows, row_ref

IN_DATABASE: Final = (
    "SELECT 1 FROM blob_chunk b WHERE b.zoid = object_state.zoid AND b.tid = object_state.tid AND "
    "b.chunk_num = 0"
)


class RelStorageBlobs(StorageBlobs):
    """See ``StorageBlobs``; ``layout`` is that of the shared directory."""

    table = "blob_chunk"

    def __init__(self, database: Database, rows: Rows, layout: str | None) -> None:
        super().__init__(database, rows)
        self._layout = layout

    @property
    def are_outside(self) -> bool:
        """Tell whether blobs are files of a shared directory, or objects of a bucket."""
        return self._layout is not None or self.database.blob_mode == "s3"

    @property
    def layout(self) -> str | None:
        """Return the layout of the blob directory."""
        return self._layout

    def source(self) -> BlobSource:
        """Return the bucket, or the directory."""
        if self._layout is None:
            return BlobBucket(self.database, wrapper_key)
        return BlobDirectory(Path(self.database.blob_dir or ""), self._layout)

    def outside(self, after: str | None) -> Iterator[BlobRef]:
        """Yield the blob revisions of the snapshot that are later than a TID."""
        return self._blobs(f"tid > %s AND {self.rows.blob_records}", number_of(after))

    def lost(self) -> Iterator[BlobRef]:
        """Yield the blob revisions of the snapshot that are not in the table of blobs."""
        return self._blobs(f"{self.rows.blob_records} AND NOT EXISTS ({IN_DATABASE})")

    def _blobs(self, condition: str, *parameters: object) -> Iterator[BlobRef]:
        query = f"SELECT zoid, tid, state FROM object_state WHERE {condition}"
        for zoid, tid, state in self.rows.stream(query, *parameters):
            if is_blob(bytes(state)):
                yield row_ref(zoid, tid)

    def still_references(self, blob: BlobRef) -> bool:
        """Tell whether the revision is there now."""
        query = "SELECT 1 FROM object_state WHERE zoid = %s AND tid = %s"
        return bool(self.rows.query_latest(query, int.from_bytes(blob.oid), int.from_bytes(blob.tid)))
