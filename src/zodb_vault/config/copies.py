"""What the configuration says of one of the repositories that backups are copied to."""

from __future__ import annotations

import msgspec


class CopySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where a copy is, and for whom it is encrypted; None: for those of the repository itself."""

    location: str
    recipients: tuple[str, ...] | None = None
