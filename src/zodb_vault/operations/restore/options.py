"""The options of one restore."""

from __future__ import annotations

from pathlib import Path

from ...model.restore import DestinationOptions
from ...policy.recovery import Request


class RestoreOptions(DestinationOptions, frozen=True, kw_only=True):
    """What is restored, and where to.

    ``backup`` is an id, a prefix of one, a name, ``latest`` or None. ``request`` is a transaction or a time
    in it. Without ``output`` the restore goes into the site itself, or (``elsewhere``) into the site of
    another configuration. ``databases``: only these, empty for all.
    ``allow_missing_caches``: go on although caches that are configured were not found.
    """

    backup: str | None = None
    request: Request | None = None
    databases: tuple[str, ...] = ()
    output: Path | None = None
    allow_incomplete: bool = False
    allow_missing_caches: bool = False

    @property
    def in_place(self) -> bool:
        """Tell whether a site is restored, not a new directory."""
        return self.output is None
