"""The settings of an S3 bucket, in addition to the location of a repository."""

from __future__ import annotations

from datetime import timedelta

import msgspec


class S3Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a bucket is accessed, and how objects are stored in it.

    None means the default of the S3 client or of the bucket. Credentials are never part of the settings: the
    S3 client finds them itself. ``object_lock`` is ``governance`` or ``compliance``; then the objects of a
    backup cannot be changed or removed for ``object_lock_for`` after the backup.
    """

    endpoint: str | None = None
    region: str | None = None
    addressing_style: str | None = None
    storage_class: str | None = None
    profile: str | None = None
    object_lock: str | None = None
    object_lock_for: timedelta | None = None
