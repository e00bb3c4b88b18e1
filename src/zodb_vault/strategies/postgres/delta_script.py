"""The SQL script that applies deltas to a restored base dump."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from ...errors import Damage
from ...model.chain import file_name
from ...model.manifest import Delta, PgTransactions, RowFile
from .copy_out import BITS, SET_COLUMNS
from .names import TableName, literal, quoted
from .tables import Keyed, StorageTables

CONTENT: Final = "vault_large_objects"


CHUNKS: Final = "vault_chunks"


FORMER: Final = "vault_former"


class Sql(NamedTuple):
    """A statement."""

    text: str


class Load(NamedTuple):
    """A file of rows that goes into a table; ``table`` is a name quoted for SQL."""

    table: str
    columns: Sequence[str]
    file: RowFile


ScriptStep = Sql | Load


def steps_of(tables: StorageTables, dump: PgTransactions, deltas: Iterable[Delta]) -> Iterator[ScriptStep]:
    """Yield the steps that apply deltas, after the rows of the dump and before its indexes."""
    anyone = any_table(dump)
    yield Sql(f"SET client_encoding = {literal(dump.encoding)}")
    yield from _added(deltas, [str(anyone.beside(one.name)) for one in tables.keyed if one.kind == "history"])
    for file in dump.whole:
        yield Sql(f"TRUNCATE ONLY {TableName.parse(file.table).quoted}")
        yield Load(TableName.parse(file.table).quoted, file.columns, file)
    for table in dump.derived:
        yield Sql(f"TRUNCATE ONLY {TableName.parse(table).quoted}")
    chunks = None
    if tables.chunks is not None and (dump.large_objects or dump.base.large_objects):
        chunks = anyone.beside(tables.chunks).quoted
    if chunks:
        yield Sql(f"CREATE TEMPORARY TABLE {CHUNKS} AS SELECT DISTINCT chunk FROM ONLY {chunks}")
    for one in tables.keyed:
        name = anyone.beside(one.name)
        files = [file for file in dump.live if file.table == str(name)]
        yield from _only_current(name, files, dump) if one.kind == "set" else _only_left(one, files)
    if chunks:
        gone = f"oid IN (SELECT chunk FROM {CHUNKS} EXCEPT SELECT chunk FROM ONLY {chunks})"
        yield Sql(f"SELECT count(lo_unlink(oid)) FROM pg_largeobject_metadata WHERE {gone}")
    for sequence, value in dump.sequences.items():
        yield Sql(f"SELECT setval({literal(TableName.parse(sequence).quoted)}, {value})")


def _added(deltas: Iterable[Delta], history: Sequence[str]) -> Iterator[ScriptStep]:
    """Yield the steps that add all rows of all deltas, and the content of large objects.

    PostgreSQL uses the OID of a removed large object again, so one of that OID is removed first. Rows of
    ``history`` tables are added only if they are not there: several deltas can have the same one.
    """
    for table in history:
        yield Sql(
            f"CREATE TEMPORARY TABLE {FORMER} AS SELECT * FROM ONLY {TableName.parse(table).quoted} LIMIT 0"
        )
    yield Sql(f"CREATE TEMPORARY TABLE {CONTENT} (chunk oid, place bigint, data bytea)")
    for delta in deltas:
        for file in delta.rows:
            if file.table in history:
                yield from _former(file)
            else:
                yield Load(TableName.parse(file.table).quoted, file.columns, file)
        if delta.large_objects is not None:
            yield Load(CONTENT, delta.large_objects.columns, delta.large_objects)
            yield Sql(
                "SELECT count(lo_unlink(oid)) FROM pg_largeobject_metadata WHERE oid IN (SELECT chunk "
                f"FROM {CONTENT})"
            )
            yield Sql(f"SELECT count(lo_create(chunk)) FROM (SELECT DISTINCT chunk FROM {CONTENT}) one")
            yield Sql(f"SELECT lo_put(chunk, place, data) FROM {CONTENT}")
            yield Sql(f"TRUNCATE {CONTENT}")


def _former(file: RowFile) -> Iterator[ScriptStep]:
    columns, table = ", ".join(map(quoted, file.columns)), TableName.parse(file.table).quoted
    there = f"SELECT FROM ONLY {table} o WHERE (o.zoid, o.tid) = (f.zoid, f.tid)"
    yield Load(FORMER, file.columns, file)
    yield Sql(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {FORMER} f WHERE NOT EXISTS ({there})")
    yield Sql(f"TRUNCATE {FORMER}")


def _only_current(name: TableName, files: list[RowFile], dump: PgTransactions) -> Iterator[ScriptStep]:
    """Yield the steps that leave the newest row of each object that is left, and no other row."""
    table, live = name.quoted, f"vault_live_{name.name}"
    since = int(dump.base.last_tid, 16) if dump.base.last_tid else -1
    newest = f"SELECT zoid, max(tid) AS tid FROM ONLY {table} WHERE tid > {since} GROUP BY zoid"
    yield Sql(f"DELETE FROM ONLY {table} o USING ({newest}) n WHERE o.zoid = n.zoid AND o.tid < n.tid")
    yield Sql(f"CREATE TEMPORARY TABLE {live} (base bigint, bits bit({BITS}))")
    for file in files:
        yield Load(live, SET_COLUMNS, file)
    there = (
        f"SELECT FROM {live} l WHERE l.base = o.zoid >> 10 AND get_bit(l.bits, (o.zoid & "
        f"{BITS - 1})::integer) = 1"
    )
    yield Sql(f"DELETE FROM ONLY {table} o WHERE NOT EXISTS ({there})")


def _only_left(one: Keyed, files: list[RowFile]) -> Iterator[ScriptStep]:
    """Yield the steps that leave the revisions that packs have left, with the values that packs gave them."""
    for file in files:
        table, left = TableName.parse(file.table).quoted, f"vault_left_{one.name}"
        same = " AND ".join(f"l.{column} = o.{column}" for column in one.key)
        yield Sql(
            f"CREATE TEMPORARY TABLE {left} AS "
            f"SELECT {', '.join(map(quoted, file.columns))} FROM ONLY {table} LIMIT 0"
        )
        yield Load(left, file.columns, file)
        until = int(file.until, 16) if file.until else -1
        yield Sql(
            f"DELETE FROM ONLY {table} o WHERE tid <= {until} AND NOT EXISTS (SELECT FROM {left} l WHERE "
            f"{same})"
        )
        if one.changed:
            assigned = ", ".join(f"{column} = l.{column}" for column in one.changed)
            differs = " OR ".join(f"l.{column} IS DISTINCT FROM o.{column}" for column in one.changed)
            yield Sql(f"UPDATE ONLY {table} o SET {assigned} FROM {left} l WHERE {same} AND ({differs})")


def any_table(dump: PgTransactions) -> TableName:
    """Return one of the tables of the storage, which are all in the same schema; raise Damage without any."""
    for name in dump.keys:
        return TableName.parse(name)
    raise Damage("the backup names no table of the storage")


def script_of(tables: StorageTables, dump: PgTransactions, deltas: Iterable[Delta]) -> bytes:
    """Return the statements as a script for ``psql``, which is run where the files are.

    Raise Damage when the backup names a file or a table that a script must not use.
    """
    lines = ["\\set ON_ERROR_STOP on", "SET search_path = '';", "\\o /dev/null"]
    for step in steps_of(tables, dump, deltas):
        if isinstance(step, Sql):
            lines.append(f"{step.text};")
        else:
            target, name = target_of(step), file_name(step.file.parts[0])
            if any(char < " " for char in target):  # psql reads the next line as a command of its own
                raise Damage(f"the backup names a table that no script can load: {target!r}")
            lines.append(f"\\copy {target} FROM {literal(name)} WITH (FORMAT {step.file.format})")
    return "\n".join([*lines, ""]).encode()


def target_of(step: Load) -> str:
    """Return table and columns that rows are loaded into, quoted."""
    return f"{step.table} ({', '.join(map(quoted, step.columns))})"
