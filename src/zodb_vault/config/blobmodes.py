"""Decide where the blobs of a database live, and whether the directory agrees with the configuration.

The marker file ``.layout`` is the second opinion: ``bushy`` and ``lawn`` hold all blobs, ``zeocache`` is a
cache, also of RelStorage. To copy a cache as if it were everything, or to pass by a directory that is
everything, loses blobs, so there the two have to agree; any other difference is a warning. Directories are
read, never written.
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
    """Return the blob mode of a storage with the key ``shared-blob-dir``, which is off by default.

    When it is off, the blobs are ``elsewhere``.

    Raise ConfigurationError when the directory says otherwise.
    """
    shared = section.flag("shared-blob-dir", default=False)
    if blob_dir is None:
        warnings = [f"shared-blob-dir of {section.label} is on, but it says no blob-dir"] if shared else []
        return elsewhere, warnings
    if shared:
        return "directory", authoritative(section, "blob-dir", blob_dir)
    return elsewhere, cache(section, blob_dir)


def authoritative(section: Section, key: str, blob_dir: str) -> list[str]:
    """Return warnings about a directory that should hold all blobs.

    Raise ConfigurationError when it is a cache.
    """
    name = layout_name(blob_dir)
    if name == CACHE:
        raise section.error(
            f"{section.label} keeps its blobs in {blob_dir}, but {MARKER} there says {CACHE}: a cache "
            "does not hold all blobs",
            key,
            "name the directory that holds all blobs: the server's with shared-blob-dir on; or set "
            "shared-blob-dir off when this is a cache",
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
            f"{name}: "
            "it holds blobs that may be nowhere else, and none of them would be copied",
            "shared-blob-dir" if section.texts("shared-blob-dir") else "blob-dir",
            "set shared-blob-dir on when it is the server's directory, else name another directory for "
            "the cache",
        )
    return [] if name is None else _doubts(name, blob_dir)


def foreign_cache(section: Section, key: str, directory: str | None) -> list[str]:
    """Return warnings about a cache of objects in S3 that looks like a blob directory.

    What is in S3 rules there.
    """
    name = layout_name(directory) if directory else None
    if name not in LAYOUTS:
        return []
    return [
        f"{key} of {section.label} is {directory}, but {MARKER} there says {name}: blobs that are only "
        "there are not copied"
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
    """Return the layout that a directory is marked with, or looks like without a mark.

    None for an empty, new or missing one.

    What cannot be read is returned as an empty name.
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
    """Return ``lawn`` for what ZODB before 3.9 left without a marker: directories named by OID."""
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
    return [f"{MARKER} of the blob directory {blob_dir} names a layout that is not known"]
