"""Where a blob directory keeps the file of an (OID, TID). Source: the layouts of ZODB/blob.py of ZODB 6."""

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
    """Return an id as ZODB writes it in names: without leading zero bytes."""
    return f"0x{raw.lstrip(bytes(1)).hex() or '00'}"


LAYOUTS: Final[dict[str, PathOf]] = {"bushy": bushy, "lawn": lawn}


def detect(blob_dir: Path) -> str:
    """Return the layout of an existing blob directory; reads only.

    Without a marker a used directory is a lawn, an empty one bushy, as ZODB decides it.
    Raise ConfigurationError for a cache, for an unknown layout and for what is not a directory.
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
            [f"{blob_dir} is a blob cache (its {MARKER} says {CACHE}): it does not hold all blobs"],
            "name the authoritative blob directory of the storage or of the ZEO server",
        )
    if name not in LAYOUTS:
        raise ConfigurationError(
            [f"{blob_dir} has the unknown layout {name!r}"], f"known are {' and '.join(LAYOUTS)}"
        )
    return name


def _used(blob_dir: Path) -> bool:
    return any(not entry.name.startswith(".") for entry in blob_dir.iterdir())
