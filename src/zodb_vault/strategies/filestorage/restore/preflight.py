"""What speaks against a restore of a Data.fs: ``doctor`` and ``restore`` look at the same things.

Nothing is changed, except for a probe file that is removed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ....errors import TargetRefused
from ....model.manifest import DatabaseEntry
from ....model.restore import DestinationOptions
from ....model.source import Database
from ....runtime.ownership import require_links
from ...blobs.directory_restore import DirectoryBlobs, layout_for
from ...blobs.restore import BlobTarget
from ...blobs.s3 import BlobBucket, wrapper_key
from ...blobs.s3_restore import BucketBlobs
from ...destination import PreflightFinding, RestoreSource, finding_of
from ..lock import require_lockable
from .paths import DataFsPaths
from .state import require_empty, require_same_site, require_writable


def content_findings(
    entry: DatabaseEntry, paths: DataFsPaths, database: Database | None, options: DestinationOptions
) -> Iterator[PreflightFinding]:
    """Yield whether the backup has what is restored, and whether the site has a place for the blobs."""

    def require_place() -> None:
        blobs = blob_target(paths, database, options, entry.layout)
        require_blob_target(entry, blobs, options.only)

    has_content = partial(require_content, entry, options.only)
    yield finding_of("the newest backup has storage and blobs", has_content)
    yield finding_of("the site has a place for the blobs of the newest backup", require_place)


def place_findings(
    paths: DataFsPaths,
    blobs: BlobTarget | None,
    options: DestinationOptions,
    source: RestoreSource | None,
    *,
    in_place: bool,
) -> Iterator[PreflightFinding]:
    """Yield whether this process can write the new state there, and keep the old one.

    ``source`` is None as long as there is no backup.
    """
    if not in_place:
        yield finding_of("the directory is empty", partial(require_empty, paths))
    writable = partial(require_writable, paths, in_place=in_place)
    yield finding_of("files can be written there with their owner and group", writable)
    lockable = partial(require_lockable, paths.configured)
    yield finding_of("the lock of the storage can be taken", lockable)
    if not in_place or not paths.data_fs.exists():
        return
    if options.only != "blobs":
        yield finding_of("a hard link can keep the replaced file", partial(require_links, paths.data_fs))
    compares = options.only != "storage" and not options.replace_blobs and blobs is not None
    if source is not None and blobs is not None and compares and _holds_blobs(paths):
        same = partial(require_same_site, paths.data_fs, blobs.where, source)
        yield finding_of("the newest backup belongs to this site", same)


def _holds_blobs(paths: DataFsPaths) -> bool:
    """Tell whether there may be blobs of another site; a bucket is not looked at for that."""
    return paths.blob_dir is None or paths.blob_dir.exists()


def blob_target(
    paths: DataFsPaths, database: Database | None, options: DestinationOptions, stored_layout: str | None
) -> BlobTarget | None:
    """Return where blobs are restored to, None when there is no place for them; raise ConfigurationError."""
    if database is not None and database.blob_mode == "s3":
        return BucketBlobs(BlobBucket(database, wrapper_key), replace=options.replace_blobs)
    if paths.blob_dir is None:
        return None
    return DirectoryBlobs(paths.blob_dir, layout_for(paths.blob_dir, stored_layout))


def require_content(entry: DatabaseEntry, only: str | None) -> None:
    """Raise TargetRefused when the backup does not contain what has to be restored."""
    if entry.storage is None:
        raise TargetRefused(
            f"the backup holds no storage of {entry.name}, only blobs", "choose a whole backup"
        )
    if only != "storage" and entry.blobs is None:
        raise TargetRefused(
            f"the backup holds no blobs of {entry.name}", "`--only storage` restores the rest"
        )


def require_blob_target(entry: DatabaseEntry, blobs: BlobTarget | None, only: str | None) -> None:
    """Raise TargetRefused when the backup has blobs and there is no place for them."""
    if blobs is None and only != "storage" and entry.blobs and entry.blobs.count:
        raise TargetRefused(
            f"the site has no blob directory for {entry.name}",
            "name it with --blob-dir, or use --only storage",
        )
