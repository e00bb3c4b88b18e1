"""The tables of a SQL storage and its blobs, as a capture asks for them. Each backend implements them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

from ...errors import SourceError
from ...model.blob import BlobRef
from ...model.source import Database
from ..base import Sink
from ..blobs.source import BlobSource
from .snapshot import Rows


class SchemaState(NamedTuple):
    """What the snapshot shows of a storage: whether it keeps history, and its last transaction."""

    history: bool
    last_tid: str | None


class StorageSchema(ABC):
    """The tables of one kind of storage in the snapshot of ``rows``; ``package`` reads and writes them."""

    package: ClassVar[str]

    def __init__(self, database: Database, rows: Rows, blobs: StorageBlobs) -> None:
        self.database, self.rows, self.blobs = database, rows, blobs

    def close(self) -> None:
        """Close the connections."""
        self.rows.close()
        self.blobs.close()

    def number(self, query: str, *parameters: object) -> int | None:
        """Return the one number that a query gives."""
        found = self.rows.query(query, *parameters)[0][0]
        return None if found is None else int(found)

    def missing_tables(self, *names: str) -> SourceError:
        """Return the error for a database without these tables."""
        tables = f"tables {' and '.join(names)}" if len(names) > 1 else f"table {names[0]}"
        return SourceError(
            f"the database {self.database.name} has no {tables}: nothing of {self.package} is in it",
            "check the name of the database in zope.conf",
        )

    @abstractmethod
    def state(self) -> SchemaState:
        """Return what the snapshot shows; raise SourceError when the tables are not there."""

    @abstractmethod
    def current_table(self, state: SchemaState) -> str:
        """Return the table that has the current TID of each object, as ``zoid`` and ``tid``."""

    @abstractmethod
    def first_tid(self, state: SchemaState) -> str | None:
        """Return the oldest TID of any revision."""

    @abstractmethod
    def count_transactions(self, state: SchemaState, after: str | None) -> tuple[int | None, int]:
        """Return how many transactions there are, and how many of them are later than a TID.

        The first number is None where no table tells it.
        """

    @abstractmethod
    def history_mismatch(self, state: SchemaState) -> str | None:
        """Return what to say when the configuration and the database do not agree whether history is kept."""


class StorageBlobs(ABC):
    """The blobs of one kind of storage in the snapshot of ``rows``; ``table`` holds those in the database."""

    table: ClassVar[str]

    def __init__(self, database: Database, rows: Rows) -> None:
        self.database, self.rows = database, rows

    def close(self) -> None:  # noqa: B027  most kinds have nothing to free
        """Free everything."""

    @property
    @abstractmethod
    def are_outside(self) -> bool:
        """Tell whether blobs are outside of the database, all of them or some."""

    @property
    def layout(self) -> str | None:
        """Return the layout of the blob directory, None when there is none."""
        return None

    @abstractmethod
    def source(self) -> BlobSource:
        """Return where the blobs outside of the database are."""

    @abstractmethod
    def outside(self, after: str | None) -> Iterator[BlobRef]:
        """Yield the blobs outside of the database that are later than a TID."""

    def count_outside(self) -> int:
        """Return how many blobs are outside of the database."""
        return sum(1 for _blob in self.outside(None))

    @abstractmethod
    def lost(self) -> Iterator[BlobRef]:
        """Yield the blobs that should be in the database and are not."""

    @abstractmethod
    def still_references(self, blob: BlobRef) -> bool:
        """Tell whether the database references a blob now, not only in the snapshot."""

    def unusual_keys(self, sink: Sink) -> str | None:
        """Store the keys in S3 that the storage would not choose; return the document, None if empty."""
        return None


def number_of(tid: str | None) -> int:
    """Return a TID as a number of a column; for None -1, which is below all TIDs."""
    return int(tid, 16) if tid else -1
