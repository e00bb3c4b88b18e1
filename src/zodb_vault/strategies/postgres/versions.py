"""Versions of PostgreSQL: the major one decides which program reads a dump."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ..sql.program import program_of, version_of

PACKAGE: Final = "postgresql-client"
# Keys of the versions in a manifest.
SERVER: Final = "PostgreSQL server"
PG_DUMP: Final = "pg_dump"
MAJOR: Final = re.compile(r"[0-9]{1,4}(?![0-9])")


def major(version: str) -> int:
    """Return the major version in the text of a version, 0 when there is none."""
    found = MAJOR.match(version)
    return int(found[0]) if found else 0


def major_of_server(version_num: int) -> int:
    """Return the major version in ``server_version_num`` of a server."""
    return version_num // 10_000


def major_of_program(path: str) -> int:
    """Return the major version of a program, 0 when it does not say."""
    version = version_of(path)
    return version[0] if version else 0


def made_by(versions: Mapping[str, str]) -> int:
    """Return the major version of the pg_dump that a manifest says a dump was made with, 0 for none."""
    return major(versions.get(PG_DUMP, ""))


def pg_dump_for(server: int) -> str:
    """Return a pg_dump that is not older than a server; raise ConfigurationError."""
    return program_of(["pg_dump"], PACKAGE, server)


def pg_restore_for(made_by: int) -> str:
    """Return a pg_restore that is not older than the pg_dump that a dump was made with.

    Raise ConfigurationError: an older one cannot read the archive.
    """
    return program_of(["pg_restore"], PACKAGE, made_by, "the pg_dump that made the dump")
