"""Count the rows that a base dump and its deltas leave of one table, and add up their keys.

A tally gets the keys that are left first, then the rows: those of the newest delta first, and those of the
base last. There is one class for each kind of table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from ...blobs.refs import BlobSet
from ...errors import Damage
from ...model.blob import BlobRef
from ...model.manifest import RowFile
from .copy_out import BITS
from .snapshot import FETCH, large_object
from .tables import CHUNK, Keyed

Values = dict[str, int]


Field = bytes | None


# A value of the type bit begins with the number of its bits, in so many bytes.
LENGTH_OF_BITS: Final = 4


def number_of(field: Field) -> int:
    """Return the number in a binary field; 0 for NULL."""
    return int.from_bytes(field or b"")


class Tally(ABC):
    """Add up the rows of one table that are left; ``named`` gets the large objects that they name."""

    def __init__(self, one: Keyed, named: BlobSet) -> None:
        self.one, self._named = one, named
        self.columns = tuple(dict.fromkeys((*one.key, *one.sums, "tid")))
        self.sums: Values = dict.fromkeys(("rows", *one.sums), 0)
        self._indexes: dict[str, int] = {}
        self._chunks: list[BlobRef] = []

    @abstractmethod
    def left(self, file: RowFile, rows: Iterator[list[Field]]) -> None:
        """Take a file of keys that are left."""

    @abstractmethod
    def add(self, values: Values, *, newer: bool) -> bool:
        """Take a row of a delta (``newer``) or of the base; tell whether it may be left."""

    @abstractmethod
    def is_left(self, blob: BlobRef) -> bool:
        """Tell whether the row of a blob is left, after ``add`` has said that it may be."""

    def indexes(self, columns: list[str]) -> dict[str, int]:
        """Return the positions of the wanted columns."""
        if not self._indexes:
            self._indexes = {column: columns.index(column) for column in self.columns}
        return self._indexes

    def count(self, values: Values, without: Sequence[str] = ()) -> None:
        """Count a row that is left, and add up its columns except those in ``without``."""
        self.sums["rows"] += 1
        for column in self.one.sums:
            self.sums[column] += values[column] if column not in without else 0
        if CHUNK in values:
            self._chunks.append(large_object(values[CHUNK]))
            if len(self._chunks) >= FETCH:
                self._name()

    def _name(self) -> None:
        self._named.add(self._chunks)
        self._chunks = []

    def result(self) -> Values:
        """Return the number of rows and the sums."""
        self._name()
        return self.sums


class _Objects(Tally):
    """Rows of the kind ``set``: an object that is left has its row of the newest delta, else of the base.

    The sets of OIDs are bits, 1024 in a number of bytes: a site has millions of objects.
    """

    def __init__(self, one: Keyed, named: BlobSet) -> None:
        super().__init__(one, named)
        self._live: dict[int, bytes] = {}
        self._seen: dict[int, bytearray] = {}

    def left(self, file: RowFile, rows: Iterator[list[Field]]) -> None:
        for base, bits in rows:
            self._live[number_of(base)] = (bits or b"")[LENGTH_OF_BITS:]

    def add(self, values: Values, *, newer: bool) -> bool:
        zoid = values["zoid"]
        if _has(self._seen, zoid):
            return False
        if newer:
            _set(self._seen, zoid)
        if not _has(self._live, zoid):
            return False
        self.count(values)
        return True

    def is_left(self, blob: BlobRef) -> bool:
        return True  # ``add`` is sure


class _Revisions(Tally):
    """Rows of the kind ``revisions``: they stay until a pack removes them.

    After a pack, ``left`` has the keys that it left, up to the TID of its file; without a pack there is no
    such file, and all rows are left. The columns that a pack changes are added up from that file, because it
    has their new values.
    """

    def __init__(self, one: Keyed, named: BlobSet, new: Callable[[], BlobSet]) -> None:
        super().__init__(one, named)
        self._new, self._until = new, -1
        self._live: BlobSet | None = None
        self._waiting: list[tuple[bytes, Values]] = []

    def left(self, file: RowFile, rows: Iterator[list[Field]]) -> None:
        live, keys = self._new(), len(self.one.key)
        self._live, self._until = live, int(file.until, 16) if file.until else -1
        while some := list(islice(rows, FETCH)):
            live.add(_as_ref(b"".join(field or b"" for field in fields[:keys])) for fields in some)
            for place, column in enumerate(self.one.changed, keys):
                self.sums[column] += sum(number_of(fields[place]) for fields in some)

    def add(self, values: Values, *, newer: bool) -> bool:
        if self._live is None or values["tid"] > self._until:
            self.count(values)
        else:
            self._waiting.append((b"".join(values[column].to_bytes(8) for column in self.one.key), values))
            if len(self._waiting) >= FETCH:
                self._settle()
        return True

    def _settle(self) -> None:
        there = self._live.referenced(key for key, _values in self._waiting) if self._live else set()
        for key, values in self._waiting:
            if key in there:
                self.count(values, self.one.changed)
        self._waiting = []

    def is_left(self, blob: BlobRef) -> bool:
        return (
            self._live is None or int.from_bytes(blob.tid) > self._until or blob.oid + blob.tid in self._live
        )

    def result(self) -> Values:
        self._settle()
        return super().result()


class _Former(Tally):
    """Rows of the kind ``history``: a row may be in several deltas and in the base, and counts once.

    None is ever removed: after a pack there is a new base.
    """

    def __init__(self, one: Keyed, named: BlobSet, new: Callable[[], BlobSet]) -> None:
        super().__init__(one, named)
        self._known = new()
        self._waiting: dict[bytes, Values] = {}
        self._newer = True

    def left(self, file: RowFile, rows: Iterator[list[Field]]) -> None:
        raise Damage(f"the backup has keys of {file.table}, of which no keys are stored")

    def add(self, values: Values, *, newer: bool) -> bool:
        if newer != self._newer or len(self._waiting) >= FETCH:
            self._settle()
            self._newer = newer
        self._waiting[values["zoid"].to_bytes(8) + values["tid"].to_bytes(8)] = values
        return False

    def _settle(self) -> None:
        known = self._known.referenced(self._waiting)
        for key, values in self._waiting.items():
            if key not in known:
                self.count(values)
        if self._newer:  # the base has each once
            self._known.add(map(_as_ref, self._waiting))
        self._waiting = {}

    def is_left(self, blob: BlobRef) -> bool:
        return True

    def result(self) -> Values:
        self._settle()
        return super().result()


def tally_of(one: Keyed, named: BlobSet, new: Callable[[], BlobSet]) -> Tally:
    """Return the tally for the kind of a table; ``new`` makes an empty set."""
    match one.kind:
        case "set":
            return _Objects(one, named)
        case "revisions":
            return _Revisions(one, named, new)
        case "history":
            return _Former(one, named, new)


def _as_ref(key: bytes) -> BlobRef:
    return BlobRef(key[:8], key[8:], True)


def _has(bits: dict[int, bytes] | dict[int, bytearray], number: int) -> bool:
    found = bits.get(number // BITS)
    return found is not None and bool(found[number % BITS // 8] & (128 >> number % 8))


def _set(bits: dict[int, bytearray], number: int) -> None:
    bits.setdefault(number // BITS, bytearray(BITS // 8))[number % BITS // 8] |= 128 >> number % 8
