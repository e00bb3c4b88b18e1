"""The driver and the programs that a backup of a database in PostgreSQL needs."""

from __future__ import annotations

from typing import Final

from ...model.requirements import Package

# zodb-vault has no extra for the driver alone.
PSYCOPG2: Final = Package("psycopg2", ("psycopg2", "psycopg2-binary"), "2.8", "relstorage")
DRIVERS: Final = (PSYCOPG2,)
TOOLS: Final = (("pg_dump",), ("pg_restore",))
