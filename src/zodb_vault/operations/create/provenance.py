"""The machine, the paths and the software versions in a manifest."""

from __future__ import annotations

import contextlib
import platform
import socket
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

from ... import __version__
from ...model.manifest import Origin
from ...model.source import Database, Site
from ...strategies.backend_lookup import location_of
from ...strategies.base import Captured


def machine() -> str:
    """Return a text that identifies this machine: its machine id, or its host name."""
    with contextlib.suppress(OSError):
        if name := Path("/etc/machine-id").read_text(encoding="ascii").strip():
            return name
    return socket.gethostname()


def origin_of(site: Site, databases: Iterable[Database]) -> Origin:
    """Return the origin of databases: the machine, the configuration, and the place of each database."""
    paths = [location_of(database) for database in databases]
    return Origin(machine=machine(), config=site.config, paths=paths)


def software_of(captured: Iterable[Captured]) -> dict[str, str]:
    """Return the versions of the software that made a backup, including those of servers."""
    versions = dict(software())
    for one in captured:
        versions |= one.software
    return versions


@cache
def software() -> dict[str, str]:
    """Return the versions of zodb-vault, Python and the installed packages of the application."""
    versions = {"zodb-vault": __version__, "python": platform.python_version()}
    for package in ("ZODB", "Zope", "Products.CMFPlone"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
