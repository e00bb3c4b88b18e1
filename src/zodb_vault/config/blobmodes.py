"""Decide where the blobs of a database are, and whether the blob directory agrees with the configuration.

The marker file ``.layout`` in the directory is the second source: ``bushy`` and ``lawn`` contain all blobs,
``zeocache`` is a cache, also of RelStorage. A cache that is copied as if it were complete loses blobs, and so
does a complete directory that is skipped. In these cases it is an error if the two sources disagree; any
other difference is a warning. Directories are read, never written.
"""

from __future__ import annotations

from pathlib import Path

from ..blobs.layout import CACHE, LAYOUTS, MARKER
from ..model.source import BlobMode
from .mounts import local_file_system
from .sections import Section


def directory_mode(section: Section, blob_dir: str | None) -> tuple[BlobMode, list[str]]:
    """Return the mode of a storage that keeps its blobs in its own directory, and warnings.

    Raise ConfigurationError when the directory is a cache.
    """
    if blob_dir is None:
        return "none", []
    return "directory", authoritative(section, "blob-dir", blob_dir)


def shared_or(elsewhere: BlobMode, section: Section, blob_dir: str | None) -> tuple[BlobMode, list[str]]:
    """Return the blob mode of a storage with the key ``shared-blob-dir``, and warnings.

    The key is off by default; then the mode is ``elsewhere``. Raise ConfigurationError when the directory
    contradicts the key.
    """
    shared = section.flag("shared-blob-dir", default=False)
    if blob_dir is None:
        warnings = [f"shared-blob-dir of {section.label} is on, but it has no blob-dir"] if shared else []
        return elsewhere, warnings
    if shared:
        return "directory", authoritative(section, "blob-dir", blob_dir)
    return elsewhere, cache(section, blob_dir)


def authoritative(section: Section, key: str, blob_dir: str) -> list[str]:
    """Return warnings about a directory that should contain all blobs.

    Raise ConfigurationError when it is a cache.
    """
    name = layout_name(blob_dir)
    if name == CACHE:
        raise section.error(
            f"{section.label} keeps its blobs in {blob_dir}, but {MARKER} there says {CACHE}: "
            "a cache does not hold all blobs",
            key,
            "set blob-dir to the directory that contains all blobs, the one of the server with "
            "shared-blob-dir on; if this is a cache, set shared-blob-dir off",
        )
    return _doubts(name, blob_dir)


def cache(section: Section, blob_dir: str) -> list[str]:
    """Return warnings about a directory that should be a cache.

    Raise ConfigurationError when it holds blobs of its own.
    """
    name = layout_name(blob_dir)
    if name in LAYOUTS:
        raise section.error(
            f"{section.label} uses {blob_dir} as a cache (shared-blob-dir off), but {MARKER} there says "
            f"{name}: it holds blobs that may be nowhere else, and none of them would be copied",
            "shared-blob-dir" if section.texts("shared-blob-dir") else "blob-dir",
            "set shared-blob-dir on if it is the directory of the server, "
            "otherwise use another directory for the cache",
        )
    return [] if name is None else _doubts(name, blob_dir)


def foreign_cache(section: Section, key: str, directory: str | None) -> list[str]:
    """Return warnings about a cache of objects in S3 that looks like a blob directory.

    It is no error, because the blobs are read from S3.
    """
    name = layout_name(directory) if directory else None
    if name not in LAYOUTS:
        return []
    return [
        f"{key} of {section.label} is {directory}, but {MARKER} there says {name}: "
        "blobs that are only there are not copied"
    ]


def on_local_disk(section: Section, blob_dir: str) -> list[str]:
    """Return a warning when a directory that several hosts may share is on a local file system."""
    kind = local_file_system(blob_dir)
    if kind is None:
        return []
    return [
        f"{blob_dir}, shared-blob-dir of {section.label}, is on a local file system ({kind}): blobs that "
        "other hosts write are not in it"
    ]


def layout_name(blob_dir: str) -> str | None:
    """Return the layout of a directory: that of its marker, or what it looks like without one.

    None for an empty or missing directory, an empty name when it cannot be read.
    """
    path = Path(blob_dir)
    try:
        with (path / MARKER).open("rb") as file:
            return file.read(64).decode("ascii", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return _unmarked(path)
    except (OSError, ValueError):
        return ""


def _unmarked(path: Path) -> str | None:
    """Return ``lawn`` for directories named by OID, which ZODB before 3.9 wrote without a marker."""
    try:
        return "lawn" if any(entry.name.startswith("0x") for entry in path.iterdir()) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return ""


def _doubts(name: str | None, blob_dir: str) -> list[str]:
    path = Path(blob_dir)
    try:
        if not path.is_dir():
            return [
                f"the blob directory {blob_dir} {'is not a directory' if path.exists() else 'does not exist'}"
            ]
    except (OSError, ValueError):
        return [f"the blob directory {blob_dir} cannot be read"]
    if name == "":
        return [f"{MARKER} of the blob directory {blob_dir} cannot be read"]
    if name is None or name in LAYOUTS or name == CACHE:
        return []
    return [f"{MARKER} of the blob directory {blob_dir} names an unknown layout"]
