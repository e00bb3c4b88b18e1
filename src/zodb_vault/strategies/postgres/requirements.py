"""The driver and the programs that a backup of a database in PostgreSQL needs."""

from __future__ import annotations

import importlib
from typing import Final

from ...errors import ConfigurationError
from ...model.requirements import Package

# No extra of zodb-vault installs it: psycopg2 and psycopg2-binary have the same files. An extra with the one
# would overwrite the other one, if that is installed.
PSYCOPG2: Final = Package("psycopg2", ("psycopg2-binary", "psycopg2"), "2.8")
DRIVERS: Final = (PSYCOPG2,)
TOOLS: Final = (("pg_dump",), ("pg_restore",))


def require_driver() -> None:
    """Raise ConfigurationError when psycopg2 cannot be imported."""
    try:
        importlib.import_module(PSYCOPG2.module)
    except ImportError as error:
        raise ConfigurationError(
            [f"PostgreSQL needs {' or '.join(PSYCOPG2.distributions)}: {error}"],
            PSYCOPG2.how_to_install,
        ) from None
