"""Ask a SQL database where its blobs are, to check what the configuration says.

No storage is opened, nothing is written, and no session has to wait: a database that does not answer soon is
a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple

from ...model.source import Database
from ..backend import Opinion

CONNECT_SECONDS: Final = 3
ANSWER_SECONDS: Final = 3.0
LOCK_MILLISECONDS: Final = 500
# How the class of a blob is written in its record.
CLASS: Final = b"ZODB.blob".hex()


class NoAnswer(Exception):
    """The database did not answer; the text may be shown."""


class ProbedDatabase(NamedTuple):
    """A connection to a database, and the SQL of its server.

    ``first`` returns the first column of the first row of a query, None when there is no row.

    ``table`` is the query for a table called ``{name}``, ``class_position`` an expression for where the class
    of a blob is in ``state``.
    """

    first: Callable[[str], Any]
    table: str
    class_position: str

    def has_table(self, name: str) -> bool:
        """Tell whether a table exists."""
        return self.first(self.table.format(name=name)) is not None


Connect = Callable[[Database], AbstractContextManager[ProbedDatabase]]


def opinion_of(
    database: Database, connect: Connect, judge: Callable[[Database, ProbedDatabase], list[str]]
) -> Opinion:
    """Return the warnings of ``judge``, or why the database did not answer.

    ``judge`` may raise ConfigurationError.
    """
    try:
        with connect(database) as probed:
            return Opinion(True, judge(database, probed))
    except NoAnswer as error:
        return Opinion(False, [f"the database was not asked where its blobs are: {error}"])
