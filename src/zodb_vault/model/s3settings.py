"""Where a repository lives, as plain data: what a location alone does not say."""

from __future__ import annotations

from datetime import timedelta

import msgspec


class S3Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a bucket is reached and what becomes of what is stored there.

    None leaves it to the S3 client and the bucket.

    Credentials never stand here: they come from where S3 clients look for them. ``object_lock`` is
    ``governance`` or ``compliance``; what a backup needs cannot be changed or removed for ``object_lock_for``
    after it then.
    """

    endpoint: str | None = None
    region: str | None = None
    addressing_style: str | None = None
    storage_class: str | None = None
    profile: str | None = None
    object_lock: str | None = None
    object_lock_for: timedelta | None = None
