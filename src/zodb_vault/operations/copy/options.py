"""How to copy backups, and what a copy did."""

from __future__ import annotations

import msgspec


class CopyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to copy; ``decrypt`` confirms that the target is meant to be without encryption."""

    decrypt: bool = False
    workers: int = 2


class CopyResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy did: the new ids, how many backups the target already had, and what was stored."""

    site: str
    location: str
    copied: list[str]
    present: int
    objects: int
    bytes: int
