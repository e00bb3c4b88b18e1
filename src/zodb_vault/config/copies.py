"""What the configuration says of one of the repositories that backups are copied to."""

from __future__ import annotations

import msgspec

from ..model.s3settings import S3Settings


class CopySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where a copy is, for whom it is encrypted, and how its bucket is reached.

    None: as it is with the repository itself.
    """

    location: str
    recipients: tuple[str, ...] | None = None
    s3: S3Settings | None = None
