"""The steps of the restore of a Data.fs: build it beside the old one, make it valid by one atomic rename.

Nothing of the old state is destroyed. After an interruption, the old state is complete if the rename has not
happened, and the new state is complete if it has. The journal tells which.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from typing import Any

from ....model.restore import RemovedCache, StaleCache
from ....runtime import durable
from ...blobs.restore import BlobTarget
from ...destination import DatabaseRestore
from ..lock import bar, unbar
from . import journal as journals
from .build import DataFsBuilder
from .client_caches import remove_caches
from .journal import Journal
from .leftovers import put_blobs_aside, rename_leftovers, settle_index, sync_names
from .old_data_fs import keep_old_data_fs, kept_paths, replaced_name
from .paths import DataFsPaths


class DataFsRestore(DatabaseRestore):
    """The restore of one Data.fs, see ``DatabaseRestore``; the caller holds the lock of the storage.

    ``journal`` tells which steps are left. Each step belongs to one phase of the journal, and does nothing in
    another phase. ``blobs`` is None when no blobs are restored; ``in_place`` is False for a new directory.
    """

    def __init__(
        self,
        paths: DataFsPaths,
        blobs: BlobTarget | None,
        journal: Journal,
        builder: DataFsBuilder,
        find_caches: Callable[[], list[StaleCache]],
        *,
        in_place: bool,
    ) -> None:
        super().__init__()
        self._paths, self._blobs, self._builder = paths, blobs, builder
        self._find_caches, self._in_place = find_caches, in_place
        self.journal = journal
        if journal.phase != "building" and journal.only != "blobs" and not paths.is_as_restored(journal):
            self.notes.append(
                f"{paths.data_fs} was already restored, and changed since then; it is left as it is"
            )

    def build(self) -> None:
        """Write the new Data.fs beside the old one, and the blobs to their final place."""
        if self.journal.phase != "building":
            return
        new = self._builder.build(self.journal)
        self.notes += new.notes
        self._advance(phase="switching", new_inode=new.inode)

    def remove_caches(self) -> list[RemovedCache]:
        """Remove client caches of the old state: the new state must never be valid while they exist."""
        caches = self._find_caches()
        files = [str(path) for cache in caches for path in cache.files]
        if not set(files) <= set(self.journal.caches):
            # noted first: a run that goes on does not ask for a cache that this one has removed
            self._advance(caches=list(dict.fromkeys([*self.journal.caches, *files])))
        return remove_caches(caches)

    def bar(self) -> None:
        """Prevent every process from opening the storage for writing."""
        bar(self._paths.configured)

    def make_valid(self) -> None:
        """Give the old file its second name, and rename the new file to the name of the old one."""
        if self.journal.phase != "switching":
            return
        if self.journal.only != "blobs":
            self._keep_replaced()
            # FileStorage trusts an index when the length in it is that of the file. So the old index has to
            # be gone before the new file is in place.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._paths.index)
            durable.sync_directory(self._paths.index.parent)
            os.rename(self._paths.building(self.journal), self._paths.data_fs)
            durable.sync_directory(self._paths.data_fs.parent)
        self._advance(phase="switched")

    def _keep_replaced(self) -> None:
        data_fs = self._paths.data_fs
        if not data_fs.exists():
            return
        if self.journal.replaced is None:
            # there was no file, but the site was started after an interrupted run and has made one
            self._advance(replaced=replaced_name(data_fs, self.journal.restore))
        keep_old_data_fs(data_fs, data_fs.with_name(self.journal.replaced or ""))

    def unbar(self) -> None:
        """Let processes open the storage again; an interrupted run may have barred even a single storage."""
        unbar(self._paths.configured)

    def put_aside(self) -> None:
        """Move away what only the replaced file needs; it can be repeated after an interruption."""
        if self.journal.phase != "switched":
            return
        if self.journal.only == "blobs":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._paths.building(self.journal))
        else:
            settle_index(self._paths, self.journal)
        if self._blobs is not None and self.journal.replaced is not None and self.journal.only is None:
            self.notes += put_blobs_aside(self._paths, self._blobs, self.journal)
        rename_leftovers(self._paths, self.journal)
        sync_names(self._paths)

    def finish(self) -> None:
        """Turn the journal into the record of a finished restore."""
        if self.journal.phase == "switched":
            self.journal = journals.finish(self._paths.data_fs, self.journal)

    def tidy(self) -> None:
        """Remove what only an undo needs.

        A new directory has no old state. There, everything is removed that does not belong to the new state.
        """
        if self._blobs is not None:
            self._blobs.settle(self.journal.kept_dir)
        if not self._in_place and self.journal.replaced is None:
            self.tidy_directory()
        # A process may have opened a new directory between two runs. Then there is an old state, which is
        # kept.
        if self.journal.replaced is not None:
            self.kept = [str(path) for path in kept_paths(self._paths, self.journal) if path.exists()]

    def tidy_directory(self) -> None:
        """Remove everything from a new directory that does not belong to the restored state."""
        if self._paths.blob_dir is not None:
            shutil.rmtree(self._paths.blob_dir / self.journal.kept_dir, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._paths.data_fs}.lock")
        journals.remove(journals.record_of(self._paths.data_fs, self.journal.restore))

    def _advance(self, **changes: Any) -> None:
        self.journal = journals.advance(self._paths.data_fs, self.journal, **changes)
