"""Names of tables, and versions of programs, as a manifest has them: text that may be anything."""

from __future__ import annotations

import pytest

from zodb_vault.strategies.postgres.names import TableName, literal
from zodb_vault.strategies.postgres.versions import made_by, major


def test_a_table_is_read_as_it_was_written() -> None:
    table = TableName.parse("public.object_state")
    assert (table.schema, table.name, str(table)) == ("public", "object_state", "public.object_state")
    assert str(table.beside("blob_chunk")) == "public.blob_chunk"


def test_what_a_name_contains_does_not_end_it() -> None:
    assert TableName.parse('one"; DROP.two"').quoted == '"one""; DROP"."two"""'
    assert literal("it's") == "'it''s'"


@pytest.mark.parametrize(
    ("version", "number"),
    [("15.4", 15), ("9.6.24", 9), ("17", 17), ("", 0), ("devel", 0), ("²", 0), ("9" * 5000, 0)],
)
def test_the_major_version_is_the_first_number(version: str, number: int) -> None:
    assert major(version) == made_by({"pg_dump": version}) == number


def test_a_dump_without_a_version_is_made_by_none() -> None:
    assert made_by({}) == 0
