"""Read a section ``<zeoclient>`` of zope.conf or zeo.conf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ...config.blobmodes import shared_or
from ...model.source import Database

if TYPE_CHECKING:
    from ...config.sections import Section
    from ...config.storages import Surroundings

NAME: Final = "zeo"


def read_section(section: Section, around: Surroundings) -> Database:
    """Return the database of a section; its blobs are on the server unless ``shared-blob-dir`` is on."""
    if not any(section.texts("server")):
        raise section.error(f"{section.label} has no server")
    blob_dir = around.path(section, "blob-dir")
    mode, warnings = shared_or("server", section, blob_dir)
    return Database(
        name=around.name,
        backend=NAME,
        mount_point=around.mount_point,
        blob_dir=blob_dir,
        blob_mode=mode,
        options=around.all_options(section),
        warnings=tuple(warnings),
    )
