"""Read a section ``<relstorage>`` of zope.conf or zeo.conf."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ...config.blobmodes import on_local_disk, shared_or
from ...model.source import Database
from .adapters import Adapter, adapter_section

if TYPE_CHECKING:
    from ...config.sections import Section
    from ...config.storages import Surroundings

NAME: Final = "relstorage"


def read_section(section: Section, around: Surroundings, adapters: Mapping[str, Adapter]) -> Database:
    """Return a RelStorage: blobs are in the database unless its directory is shared.

    History is kept unless said otherwise.
    """
    adapter = adapter_section(section, adapters)
    blob_dir = around.path(section, "blob-dir")
    mode, warnings = shared_or("database", section, blob_dir)
    if blob_dir is None:
        mode = "none"
    elif mode == "directory" and adapter.type != "sqlite3":
        warnings += on_local_disk(section, blob_dir)
    if adapter.type == "sqlite3":
        adapter.required("data-dir")
    return Database(
        name=around.name,
        backend=NAME,
        adapter=adapter.type,
        dsn_option=adapters[adapter.type].dsn_option,
        mount_point=around.mount_point,
        blob_dir=blob_dir,
        blob_mode=mode,
        history=section.flag("keep-history", default=True),
        options=around.all_options(section),
        warnings=tuple(warnings),
    )
