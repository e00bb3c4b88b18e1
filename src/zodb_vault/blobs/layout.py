"""The path of an (OID, TID) in a blob directory. Source: the layouts in ZODB/blob.py of ZODB 6."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError

MARKER: Final = ".layout"
TEMPORARY: Final = "tmp"
CACHE: Final = "zeocache"

PathOf = Callable[[bytes, bytes], str]


def bushy(oid: bytes, tid: bytes) -> str:
    """Return the relative path in a bushy directory: one level per byte of the OID."""
    return f"{'/'.join(f'0x{byte:02x}' for byte in oid)}/{_short(tid)}.blob"


def lawn(oid: bytes, tid: bytes) -> str:
    """Return the relative path in a lawn directory: one level."""
    return f"{_short(oid)}/{_short(tid)}.blob"


def _short(raw: bytes) -> str:
    """Return an id as ZODB writes it in file names: without leading zero bytes."""
    return f"0x{raw.lstrip(bytes(1)).hex() or '00'}"


LAYOUTS: Final[dict[str, PathOf]] = {"bushy": bushy, "lawn": lawn}


def detect(blob_dir: Path) -> str:
    """Return the layout of an existing blob directory, without changing it.

    Without a marker, a directory with blobs is a lawn and an empty one is bushy; ZODB decides in the same
    way. Raise ConfigurationError for a cache, for an unknown layout and for a path that is no directory.
    """
    if not blob_dir.is_dir():
        what = "is not a directory" if blob_dir.exists() else "does not exist"
        raise ConfigurationError(
            [f"the blob directory {blob_dir} {what}"], "check the path given with --blob-dir or in zope.conf"
        )
    try:
        name = (blob_dir / MARKER).read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        name = "lawn" if _used(blob_dir) else "bushy"
    if name == CACHE:
        raise ConfigurationError(
            [f"{blob_dir} is a blob cache (its {MARKER} says {CACHE}): it does not contain all blobs"],
            "use the blob directory of the storage or of the ZEO server, which contains all blobs",
        )
    if name not in LAYOUTS:
        raise ConfigurationError(
            [f"{blob_dir} has the unknown layout {name!r}"], f"the known layouts are {' and '.join(LAYOUTS)}"
        )
    return name


def _used(blob_dir: Path) -> bool:
    return any(not entry.name.startswith(".") for entry in blob_dir.iterdir())
