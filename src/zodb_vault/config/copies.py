"""The settings of a repository that backups are copied to."""

from __future__ import annotations

import msgspec

from ..model.s3settings import S3Settings


class CopySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The location of a copy, its recipients, and the settings of its bucket.

    None means the settings of the repository itself.
    """

    location: str
    recipients: tuple[str, ...] | None = None
    s3: S3Settings | None = None
