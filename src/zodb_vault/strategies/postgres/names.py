"""Names and texts as they are written in SQL."""

from __future__ import annotations

from typing import NamedTuple

from ...errors import Damage


class TableName(NamedTuple):
    """A table or sequence with its schema. Its text, ``schema.name``, is the form that a manifest has."""

    schema: str
    name: str

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Return the name that a manifest has as text; raise Damage when it has no schema."""
        schema, dot, name = text.partition(".")
        if not (schema and dot and name):
            raise Damage(f"the backup names a table without its schema: {text!r}")
        return cls(schema, name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> str:
        """Return the name as SQL."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    def beside(self, name: str) -> TableName:
        """Return another table of the same schema."""
        return TableName(self.schema, name)


def quoted(name: str) -> str:
    """Return an identifier as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as SQL."""
    return "'" + text.replace("'", "''") + "'"
