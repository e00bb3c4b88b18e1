"""Ask a SQL database where its blobs are, as a second opinion on what the configuration says.

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


class Asking(NamedTuple):
    """A connection.

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


Connect = Callable[[Database], AbstractContextManager[Asking]]


def opinion_of(
    database: Database, connect: Connect, judge: Callable[[Database, Asking], list[str]]
) -> Opinion:
    """Return the warnings of ``judge``, which raises ConfigurationError.

    Or why the database could not be asked.
    """
    try:
        with connect(database) as asking:
            return Opinion(True, judge(database, asking))
    except NoAnswer as error:
        return Opinion(False, [f"the database was not asked where its blobs are: {error}"])
