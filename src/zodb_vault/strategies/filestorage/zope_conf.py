"""Read a section ``<filestorage>`` of zope.conf or zeo.conf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ...config.blobmodes import directory_mode
from ...model.source import Database

if TYPE_CHECKING:
    from ...config.sections import Section
    from ...config.storages import Surroundings

NAME: Final = "filestorage"


def read_section(section: Section, around: Surroundings) -> Database:
    """Return the FileStorage of a section; its blob directory always holds all its blobs."""
    section.required("path")
    blob_dir = around.path(section, "blob-dir")
    mode, warnings = directory_mode(section, blob_dir)
    return Database(
        name=around.name,
        backend=NAME,
        mount_point=around.mount_point,
        data_fs=around.path(section, "path"),
        blob_dir=blob_dir,
        blob_mode=mode,
        history=True,
        options=around.all_options(section),
        warnings=tuple(warnings),
    )
