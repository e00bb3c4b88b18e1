"""The options and the result of a create."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from ...errors import VaultError
from ...model.blob import MissingRow
from ...model.manifest import Manifest, Trigger
from ...model.source import Method
from ..catalog import raw_size, stored_size
from ..findings import SiteFinding


class CreateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one create."""

    name: str | None = None
    note: str | None = None
    trigger: Trigger = "on-demand"
    full: bool = False
    cold: bool = False
    only: Literal["storage", "blobs"] | None = None
    method: Method = "native"
    mirror: Path | None = None
    databases: tuple[str, ...] = ()
    skip_unchanged: bool = False
    allow_missing: int | None = None
    take_over: bool = False
    wait: bool = False
    workers: int = 2


class Created(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a create; when it was ``skipped``, ``manifest`` is the manifest of the newest backup.

    ``findings`` are parts of the source that changed although they were stored before. ``damaged`` are
    earlier backups that could not be read and were not used. ``lasting`` is reported until a user accepts it.
    ``unlocked`` is the error when the used objects of earlier backups could not be locked for long enough.
    ``healed`` is the number of damaged objects whose content was stored again; ``still_damaged`` are the
    names of damaged objects that the backup needs.
    """

    manifest: Manifest
    skipped: bool
    missing: dict[str, list[MissingRow]]
    findings: list[str]
    damaged: dict[str, str] = {}
    unlocked: VaultError | None = None
    healed: int = 0
    still_damaged: list[str] = []
    lasting: list[SiteFinding] = []

    @property
    def raw(self) -> int:
        """Return the number of bytes that a restore writes."""
        return sum(raw_size(entry) for entry in self.manifest.databases)

    @property
    def stored(self) -> int:
        """Return the number of bytes that the backup needs in the repository."""
        return sum(stored_size(entry) for entry in self.manifest.databases)
