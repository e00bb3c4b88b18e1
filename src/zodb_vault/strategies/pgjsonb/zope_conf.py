"""Read a section ``<pgjsonb>`` of zope.conf or zeo.conf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ...config.blobmodes import foreign_cache
from ...model.source import Database

if TYPE_CHECKING:
    from ...config.sections import Section
    from ...config.storages import Surroundings

NAME: Final = "pgjsonb"


def read_section(section: Section, around: Surroundings) -> Database:
    """Return a PGJsonb storage: blobs are in the database, large ones in S3 when a bucket is named.

    No history by default.
    """
    section.required("dsn")
    tiered = section.text("s3-bucket-name") is not None
    warnings = foreign_cache(section, "blob-cache-dir", around.path(section, "blob-cache-dir"))
    return Database(
        name=around.name,
        backend=NAME,
        adapter="postgresql",
        dsn_option="dsn",
        mount_point=around.mount_point,
        blob_mode="database+s3" if tiered else "database",
        history=section.flag("history-preserving", default=False),
        options=around.all_options(section),
        warnings=tuple(warnings),
    )
