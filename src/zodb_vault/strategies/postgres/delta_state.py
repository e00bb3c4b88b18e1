"""The tables of a storage in one snapshot, and how a later run recognises them.

A pack leaves no mark on the rows that it removes. So each backup stores the number of rows, and sums over
their keys. If the next run finds other sums over the same TIDs, rows were removed, added or changed.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from functools import cached_property
from typing import Final

import msgspec

from ...model import tid as tids
from ...runtime import clock
from .dump import definitions
from .names import TableName
from .snapshot import Postgres, tables_of
from .tables import Keyed, StorageTables, sum_of

# The clock of the server chooses TIDs; it may be ahead of ours.
SKEW: Final = timedelta(minutes=10)
SEQUENCES: Final = (
    "SELECT schemaname, sequencename, last_value, min_value, increment_by FROM pg_sequences ORDER BY 1, 2"
)
SCHEMA_OF: Final = (
    "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = "
    "to_regclass('object_state')"
)
# A restore and a failover begin another timeline of the server.
SERVER_IDS: Final = (("pg_control_system", "system_identifier"), ("pg_control_checkpoint", "timeline_id"))


class DatabaseState(msgspec.Struct, frozen=True, kw_only=True):
    """How the next run recognises a database.

    ``server`` has the identity of the server and its timeline. ``schema`` is a digest of all definitions.
    ``keys`` has, for each table, the number of rows and the sums of columns. ``future``: the last TID was far
    ahead of the clock, so a later commit can have a lower TID.
    """

    server: str
    database: str
    schema: str
    last_tid: str | None
    keys: dict[str, dict[str, str]]
    future: bool = False

    def difference(self, previous: DatabaseState) -> str | None:
        """Return what differs from an earlier state, None when it is the same database."""
        if (self.server, self.database) != (previous.server, previous.database):
            return "it is another database now, or its server was restored or replaced"
        return "the definitions of its tables have changed" if self.schema != previous.schema else None


class SnapshotTables:
    """The tables of one storage in the snapshot of a connection; each fact is read only once."""

    def __init__(self, server: Postgres, storage: StorageTables, last_tid: str | None) -> None:
        self.server, self.storage, self.last_tid = server, storage, last_tid

    @cached_property
    def schema(self) -> str:
        """Return the schema that the tables are in."""
        return str(self.server.query(SCHEMA_OF)[0][0])

    @cached_property
    def encoding(self) -> str:
        """Return how the database encodes texts."""
        return str(self.server.query("SHOW server_encoding")[0][0])

    def table(self, name: str) -> TableName:
        """Return a table of the storage with its schema."""
        return TableName(self.schema, name)

    def name(self, table: str) -> str:
        """Return how a manifest calls a table of the storage."""
        return str(self.table(table))

    @cached_property
    def tables(self) -> list[TableName]:
        """Return all tables of the database."""
        return tables_of(self.server.query)

    @cached_property
    def whole(self) -> list[TableName]:
        """Return the tables that are copied whole: all that the backend does not know."""
        known = {
            self.table(table) for table in (*(one.name for one in self.storage.keyed), *self.storage.derived)
        }
        return [table for table in self.tables if table not in known]

    @property
    def derived(self) -> list[str]:
        """Return the tables that the next pack fills again."""
        return [str(table) for table in map(self.table, self.storage.derived) if table in self.tables]

    @cached_property
    def state(self) -> DatabaseState:
        """Return the state that the next run compares with."""
        database = self._one("SELECT oid FROM pg_database WHERE datname = current_database()")
        newest = self.last_tid
        return DatabaseState(
            server=self.server_identity(),
            database=database,
            schema=self._definitions(),
            last_tid=newest,
            keys={self.name(one.name): self.sums(one, None) for one in self.storage.keyed},
            future=newest is not None and tids.from_hex(newest) > tids.from_datetime(clock.now() + SKEW),
        )

    def server_identity(self) -> str:
        """Return the identity of the server and its timeline, "?" for one that the role may not read."""
        known = []
        for function, column in SERVER_IDS:
            allowed = self.server.query(f"SELECT has_function_privilege('{function}()', 'EXECUTE')")[0][0]
            known.append(self._one(f"SELECT {column} FROM {function}()") if allowed else "?")
        return "/".join(known)

    def _one(self, query: str) -> str:
        return str(self.server.query(query)[0][0])

    def _definitions(self) -> str:
        """Return a digest of all definitions of the database, as pg_dump writes them.

        Comments are left out: they name versions and dates.
        """
        digest = hashlib.sha256()
        for line in definitions(self.server):
            if not line.startswith((b"--", b"\\", b"SET client_encoding")):
                digest.update(line + b"\n")
        return digest.hexdigest()

    def sums(self, one: Keyed, after: str | None) -> dict[str, str]:
        """Return the number of rows that are later than a TID, and the sums of their columns.

        Each column has a query of its own, because PostgreSQL can answer that from an index alone.
        """
        table = self.quoted(one.name)
        where = f"WHERE tid > {int(after, 16)}" if after else ""
        sums = {"rows": self._one(f"SELECT count(*) FROM ONLY {table} {where}")}
        for column in one.sums:
            sums[column] = self._one(f"SELECT {sum_of(column)} FROM ONLY {table} {where}")
        if one.name == self.storage.chunks:
            sums["split"] = self._one(f"SELECT count(*) FROM ONLY {table} WHERE chunk_num > 0")
        return sums

    def quoted(self, table: str) -> str:
        """Return the name of a table of the storage quoted for SQL."""
        return self.table(table).quoted

    def sequences(self) -> dict[str, int]:
        """Return the last value that each sequence has given.

        For a sequence that was set, and has given no value since, that is the value before the set one.
        """
        found = {}
        for schema, name, last, least, step in self.server.query(SEQUENCES):
            sequence, value = TableName(schema, name), last
            if value is None:  # set and not used; or the role may not read it, then this query fails
                query = f"SELECT last_value, is_called FROM {sequence.quoted}"
                ((value, given),) = self.server.query(query)
                value -= 0 if given else step
            if value >= least:
                found[str(sequence)] = int(value)
        return found
