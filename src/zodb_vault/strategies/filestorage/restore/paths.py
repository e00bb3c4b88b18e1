"""The paths of a Data.fs that is to be restored."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ....blobs.layout import detect
from ....errors import TargetRefused
from ....model.source import Database
from ...blobs.s3 import BlobBucket, wrapper_key
from .journal import Journal


class DataFsPaths(msgspec.Struct, frozen=True):
    """Where a database goes: the resolved Data.fs, the configured name that its index belongs to, the blob directory or the bucket of its blobs."""

    data_fs: Path
    index: Path
    blob_dir: Path | None
    layout: str | None
    bucket: BlobBucket | None = None

    @property
    def blobs(self) -> Path | str | None:
        """Return where the blobs go, as messages name it."""
        return self.bucket.root if self.bucket else self.blob_dir

    @property
    def locked(self) -> Path:
        """Return the configured name of the Data.fs."""
        return self.index.with_name(self.index.name.removesuffix(".index"))

    def new_index(self, journal: Journal) -> Path:
        """Return where the index of a restore waits, beside where it goes."""
        return self.index.with_name(f"{self.index.name}.restoring-{journal.restore}")

    def is_new(self, journal: Journal) -> bool:
        """Tell whether the file in place is the one that the restore built; as long as that has its own name, it is not."""
        if (
            not journal.new_inode
            or not self.data_fs.exists()
            or self.data_fs.with_name(journal.building).exists()
        ):
            return False
        return self.data_fs.stat().st_ino == journal.new_inode


def paths_for(
    data_fs: Path, blob_dir: Path | None, layout: str | None, bucket: BlobBucket | None = None
) -> DataFsPaths:
    """Look at where a database is to go; raise TargetRefused or ConfigurationError, change nothing."""
    if blob_dir is not None and blob_dir.exists():
        layout = detect(blob_dir)
    real = data_fs.resolve()
    if real.exists() and not real.is_file():
        raise TargetRefused(f"{real} is not a file", "name the Data.fs itself")
    return DataFsPaths(real, Path(f"{data_fs}.index"), blob_dir, layout or "bushy", bucket)


def paths_of_database(database: Database, layout: str | None = None) -> DataFsPaths:
    """Return where a database of the site lies."""
    bucket = BlobBucket(database, wrapper_key) if database.blob_mode == "s3" else None
    return paths_for(
        Path(database.data_fs or ""),
        Path(database.blob_dir) if database.blob_dir and not bucket else None,
        layout,
        bucket,
    )
