"""A new directory as the destination of a dump: its files, as other programs take them, and its blobs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from ...blobs.refs import BlobSet
from ...errors import TargetRefused
from ...model.chain import file_name, files_of
from ...model.manifest import Part
from ...model.restore import DestinationOptions, TargetState, UnfinishedRestore
from ...runtime import durable
from ...runtime.new_files import NewFiles
from ...runtime.ownership import make_directories_like_parent
from ...strategies.blobs.directory_restore import DirectoryBlobs, layout_for
from ...strategies.blobs.kept import KEPT_PREFIX
from ...strategies.blobs.restore import BlobsJob, add_packed_blobs, require_all
from ...strategies.destination import (
    DatabaseRestore,
    Destination,
    PlannedRestore,
    RestoreContext,
    RestoreSource,
)
from . import output_marker
from .output_marker import OutputMarker


class DumpDirectory(Destination):
    """A directory for the files of one dump; see ``Destination``. It needs to know nothing of the backend."""

    resumes = True

    def __init__(self, directory: Path, options: DestinationOptions) -> None:
        self._directory, self._options = directory, options

    @property
    def where(self) -> str:
        """Return the directory."""
        return str(self._directory)

    @property
    def writes(self) -> list[Path]:
        """Return the directory."""
        return [self._directory]

    def unfinished(self) -> UnfinishedRestore | None:
        """Return what the marker in the directory says."""
        found = output_marker.read(self._directory)
        if found is None:
            return None
        return UnfinishedRestore(
            restore=found.restore,
            backup=found.backup,
            database=found.database,
            where=self.where,
            phase="writing",
        )

    def inspect(self, source: RestoreSource, unfinished: Collection[UnfinishedRestore]) -> PlannedRestore:
        """Require an empty directory, or one in which the same restore was interrupted."""
        entry, only = source.entry, self._options.only
        if only != "blobs" and entry.dump is None:
            raise TargetRefused(
                f"the backup holds no storage of {entry.name}, only blobs", "`--only blobs` restores these"
            )
        if only != "blobs" and source.cut.within:
            raise TargetRefused(
                f"the files of a dump are of its last transaction, {entry.last_tid}: "
                f"nothing of {entry.name} can be removed from them in a directory",
                "restore into a database: an empty one that another zope.conf names, with --target FILE",
            )
        begun = output_marker.begun(self._directory, self._marker(source, ""))
        blob_dir = self._directory / "blobs"
        has_blobs = only != "storage" and entry.blobs is not None and entry.blobs.count > 0
        blobs = DirectoryBlobs(blob_dir, layout_for(blob_dir, entry.layout)) if has_blobs else None
        state = TargetState(
            where=self.where,
            location=self.where,
            blobs=blobs.where if blobs else None,
            resumed=begun.restore if begun else None,
            details=[f"blobs to {blobs.where}"] if blobs else [],
        )
        return PlannedRestore(state, partial(self._begin, source, blobs))

    def _begin(
        self, source: RestoreSource, blobs: DirectoryBlobs | None, context: RestoreContext
    ) -> DatabaseRestore:
        """Note in the directory what is restored there."""
        make_directories_like_parent(self._directory)
        output_marker.write(self._directory, self._marker(source, context.restore))
        job = BlobsJob(source, context, self._options.workers)
        return DumpFiles(self._directory, job, blobs, with_storage=self._options.only != "blobs")

    def _marker(self, source: RestoreSource, restore: str) -> OutputMarker:
        return OutputMarker(
            restore=restore,
            backup=source.backup,
            database=source.entry.name,
            last_tid=source.cut.last_tid,
            only=self._options.only,
        )


class DumpFiles(DatabaseRestore):
    """The files of one dump while they are written.

    The directory counts as restored when its marker is gone.
    """

    def __init__(
        self, directory: Path, job: BlobsJob, blobs: DirectoryBlobs | None, *, with_storage: bool
    ) -> None:
        super().__init__()
        self._directory, self._job, self._blobs = directory, job, blobs
        self._with_storage = with_storage

    def build(self) -> None:
        """Write the blobs, then the files of the dump."""
        if self._blobs is not None:
            self._place_blobs(self._blobs)
        if self._with_storage:
            self._write_files()

    def _place_blobs(self, blobs: DirectoryBlobs) -> None:
        with contextlib.closing(BlobSet()) as refs:
            add_packed_blobs(self._job.source, refs)
            self.notes += blobs.restore(self._job, refs)
            self.notes += require_all(self._job.source, refs)
        # there is no old state: what this run and interrupted ones noted for an undo is of no use
        for noted in Path(blobs.where).glob(f"{KEPT_PREFIX}*"):
            shutil.rmtree(noted)

    def _write_files(self) -> None:
        """Write each file under another name until it is whole."""
        entry, objects = self._job.source.entry, self._job.source.objects
        self._job.context.progress.begin("storage", entry.dump.size if entry.dump else 0)
        by_name: dict[str, list[Part]] = {}
        for part in files_of(entry, objects):
            by_name.setdefault(file_name(part), []).append(part)
        for name, parts in by_name.items():
            durable.write_atomically(
                self._directory / name, self._content(parts), exclusive=False, new=NewFiles(file_mode=0o600)
            )

    def _content(self, parts: list[Part]) -> Iterator[bytes]:
        for chunk in self._job.source.objects.read(parts):
            self._job.context.progress.advance(len(chunk))
            self._job.context.heartbeat()
            yield chunk

    def make_valid(self) -> None:
        """Do nothing: each file is whole as soon as it has its name."""

    def unmark(self) -> None:
        """Remove the marker."""
        output_marker.remove(self._directory)
