"""The script that applies deltas by hand: psql runs it, so nothing in a manifest may become a command."""

from __future__ import annotations

import pytest

from zodb_vault.errors import Damage
from zodb_vault.model.manifest import DeltaBase, Part, PgTransactions, RowFile
from zodb_vault.strategies.postgres.delta_script import layout_for, script_of


def dump(to: str) -> PgTransactions:
    """Return a dump with one table that is stored completely, in a file of this name."""
    part = Part(object="0" * 64, raw=1, stored=1, to=to)
    file = RowFile(table="public.new_oid", columns=["zoid"], rows=1, sha256="0" * 64, parts=[part])
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
        keys={f"public.{one.name}": {} for one in layout_for("relstorage", True).keyed},
        encoding="UTF8",
        script=[],
    )


def test_it_loads_a_file_by_its_name() -> None:
    lines = script_of("relstorage", True, dump("main/whole.public.new_oid"), []).decode().splitlines()
    assert [line for line in lines if "\\copy" in line] == [
        '\\copy "public"."new_oid" ("zoid") FROM \'whole.public.new_oid\' WITH (FORMAT binary)'
    ]


@pytest.mark.parametrize(
    "to", ["main/rows\n\\! touch escaped", "main/../escaped", "main//etc/passwd", "main/it's", "main/"]
)
def test_an_unsafe_name_is_damage(to: str) -> None:
    with pytest.raises(Damage, match="no safe file name"):
        script_of("relstorage", True, dump(to), [])
