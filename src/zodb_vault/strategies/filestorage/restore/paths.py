"""The paths of a Data.fs and of its index and blobs: before, during and after a restore."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ....errors import TargetRefused
from ....model.source import Database
from .journal import Journal


class DataFsPaths(msgspec.Struct, frozen=True):
    """The resolved Data.fs, the index beside its configured name, and the blob directory, if there is one."""

    data_fs: Path
    index: Path
    blob_dir: Path | None

    @property
    def configured(self) -> Path:
        """Return the configured name of the Data.fs, which may be a symbolic link."""
        return self.index.with_name(self.index.name.removesuffix(".index"))

    def building(self, journal: Journal) -> Path:
        """Return the path of the new Data.fs while it is built."""
        return self.data_fs.with_name(journal.building)

    def new_index(self, journal: Journal) -> Path:
        """Return the path of the new index until the new Data.fs is valid."""
        return self.index.with_name(f"{self.index.name}.restoring-{journal.restore}")

    def replaced(self, journal: Journal) -> Path | None:
        """Return the path under which the old Data.fs is kept, None when there was none."""
        return self.data_fs.with_name(journal.replaced) if journal.replaced else None

    def is_new(self, journal: Journal) -> bool:
        """Tell whether the file in place is the one that the restore built.

        The inode number tells it. While the new file still has its building name, the file in place is the
        old one, even with an equal number: the number may belong to an earlier attempt and be used again.
        """
        if not journal.new_inode or not self.data_fs.exists() or self.building(journal).exists():
            return False
        return self.data_fs.stat().st_ino == journal.new_inode

    def is_as_restored(self, journal: Journal) -> bool:
        """Tell whether the file in place is the restored one, and nothing was written to it since."""
        return self.is_new(journal) and self.data_fs.stat().st_size == journal.end


def paths_for(data_fs: Path, blob_dir: Path | None) -> DataFsPaths:
    """Return the paths of a Data.fs; raise TargetRefused when its path exists and is no file."""
    real = data_fs.resolve()
    if real.exists() and not real.is_file():
        raise TargetRefused(f"{real} is not a file", "name the Data.fs itself")
    return DataFsPaths(real, Path(f"{data_fs}.index"), blob_dir)


def paths_of_database(database: Database) -> DataFsPaths:
    """Return the paths of a database of the site."""
    in_directory = database.blob_dir and database.blob_mode != "s3"
    return paths_for(Path(database.data_fs or ""), Path(database.blob_dir or "") if in_directory else None)
