"""The machine and the software versions that a manifest names."""

from __future__ import annotations

import contextlib
import platform
import socket
from functools import cache
from importlib import metadata
from pathlib import Path

from ... import __version__
from ...strategies.base import Capture


def machine() -> str:
    """Return what tells this machine from others."""
    with contextlib.suppress(OSError):
        if name := Path("/etc/machine-id").read_text(encoding="ascii").strip():
            return name
    return socket.gethostname()


def software_of(captures: list[Capture]) -> dict[str, str]:
    """Return the versions of the software that made a backup, servers included."""
    versions = dict(software())
    for capture in captures:
        versions |= capture.software
    return versions


@cache
def software() -> dict[str, str]:
    """Return the versions of what made a backup, as far as they are installed."""
    versions = {"zodb-vault": __version__, "python": platform.python_version()}
    for package in ("ZODB", "Zope", "Products.CMFPlone"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
