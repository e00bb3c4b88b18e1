"""The script that applies deltas by hand: psql runs it, so nothing in a manifest may become a command."""

from __future__ import annotations

import msgspec
import pytest

from zodb_vault.errors import Damage
from zodb_vault.model.manifest import DeltaBase, Part, PgTransactions, RowFile
from zodb_vault.strategies.postgres.delta_script import script_of
from zodb_vault.strategies.relstorage.tables import HISTORY


def dump(
    to: str = "main/whole.public.new_oid", table: str = "public.new_oid", column: str = "zoid"
) -> PgTransactions:
    """Return a dump with one table that is stored completely, in a file of this name."""
    part = Part(object="0" * 64, raw=1, stored=1, to=to)
    file = RowFile(table=table, columns=[column], rows=1, sha256="0" * 64, parts=[part])
    base = DeltaBase(
        id="20261120T101530Z-3f9c2a",
        created_at="2026-11-20T10:15:30Z",
        last_tid=None,
        stored=0,
        tables={},
        large_objects=0,
        versions={},
    )
    return PgTransactions(
        size=0,
        lists=[],
        tail=[],
        tables={},
        base=base,
        delta_lists=[],
        deltas=[],
        live=[],
        whole=[file],
        derived=[],
        keys={f"public.{one.name}": {} for one in HISTORY.keyed},
        encoding="UTF8",
        script=[],
    )


def test_it_loads_a_file_by_its_name() -> None:
    lines = script_of(HISTORY, dump(), []).decode().splitlines()
    assert [line for line in lines if "\\copy" in line] == [
        '\\copy "public"."new_oid" ("zoid") FROM \'whole.public.new_oid\' WITH (FORMAT binary)'
    ]


@pytest.mark.parametrize(
    "to", ["main/rows\n\\! touch escaped", "main/../escaped", "main//etc/passwd", "main/it's", "main/"]
)
def test_an_unsafe_name_is_damage(to: str) -> None:
    with pytest.raises(Damage, match="no safe file name"):
        script_of(HISTORY, dump(to), [])


@pytest.mark.parametrize("name", ["oid\n\\! touch escaped", "oid\r\\! touch escaped"])
def test_a_name_with_a_line_end_is_damage(name: str) -> None:
    for hostile in (dump(table=f"public.{name}"), dump(column=name)):
        with pytest.raises(Damage, match="a table that no script can load"):
            script_of(HISTORY, hostile, [])


@pytest.mark.parametrize("table", ["", "new_oid", ".new_oid", "public."])
def test_a_table_without_a_schema_is_damage(table: str) -> None:
    with pytest.raises(Damage, match="without its schema"):
        script_of(HISTORY, dump(table=table), [])


def test_a_backup_that_names_no_table_is_damage() -> None:
    with pytest.raises(Damage, match="no table of the storage"):
        script_of(HISTORY, msgspec.structs.replace(dump(), keys={}), [])
