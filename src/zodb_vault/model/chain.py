"""Keep a long sequence of entries in a small manifest.

A chain has immutable lists, which many manifests share, and a short tail in the manifest itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from ..errors import Damage
from . import canonical
from .manifest import (
    DatabaseEntry,
    Delta,
    DocumentRef,
    ListRef,
    Pack,
    Part,
    PgTransactions,
    Segment,
    Transactions,
)


class _TidRows(msgspec.Struct):
    rows: list[tuple[str, int, int, str, int, int]]


def transaction_rows(
    documents: Documents, segment: Segment | Transactions
) -> list[tuple[str, int, int, str, int, int]]:
    """Return the transactions of a segment or of a dump, one row each.

    A row is (TID, position, size, status, number of records, number of blobs). Raise Damage.
    """
    if segment.tids is None:
        return []
    name = segment.tids.meta
    return canonical.decode(documents.document(name), _TidRows, f"the list {name}").rows


TAIL_LIMIT: Final = 64
TAIL_KEPT: Final = 32
LIST_LIMIT: Final = 512
# a shell and psql use these names as well: RECOVERY.md has the same pattern
FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~%-]*")

E = TypeVar("E", bound=Segment | Pack | Part | Delta | Transactions)


class Documents(Protocol):
    """A store of documents, such as lists."""

    def put_document(self, data: bytes) -> DocumentRef:
        """Store a document and return its name."""
        ...

    def document(self, name: str) -> bytes:
        """Return a document; raise Damage."""
        ...


class _Entries(msgspec.Struct, Generic[E]):
    entries: list[E]


def load_list(kind: type[E], documents: Documents, ref: ListRef) -> list[E]:
    """Return the entries of a list; raise Damage."""
    entries: type[_Entries[E]] = _Entries[kind]  # type: ignore[valid-type]
    return canonical.decode(documents.document(ref.list), entries, f"the list {ref.list}").entries


def store_list(
    documents: Documents, entries: Sequence[Segment | Pack | Part | Delta | Transactions]
) -> ListRef:
    """Store entries as one list."""
    meta = documents.put_document(canonical.encode({"entries": entries}))
    return ListRef(
        list=meta.meta,
        count=len(entries),
        stored=meta.stored + sum(entry.stored for entry in entries),
        raw=sum(entry.raw for entry in entries),
    )


class Chain(Generic[E]):
    """A sequence of entries: the segments or packs of a database, or the parts of its dump.

    A chain is immutable: every method that changes it returns a new one.
    """

    def __init__(
        self, kind: type[E], documents: Documents, lists: Sequence[ListRef] = (), tail: Sequence[E] = ()
    ) -> None:
        self.kind, self.documents = kind, documents
        self.lists, self.tail = list(lists), list(tail)

    def __iter__(self) -> Iterator[E]:
        for ref in self.lists:
            yield from load_list(self.kind, self.documents, ref)
        yield from self.tail

    def __reversed__(self) -> Iterator[E]:
        yield from reversed(self.tail)
        for ref in reversed(self.lists):
            yield from reversed(load_list(self.kind, self.documents, ref))

    def __len__(self) -> int:
        return sum(ref.count for ref in self.lists) + len(self.tail)

    @property
    def raw(self) -> int:
        """Return the bytes of content of all entries."""
        return sum(ref.raw for ref in self.lists) + sum(entry.raw for entry in self.tail)

    @property
    def stored(self) -> int:
        """Return the stored bytes of all objects and documents of the chain."""
        return sum(ref.stored for ref in self.lists) + sum(entry.stored for entry in self.tail)

    def first(self, count: int) -> Chain[E]:
        """Return the chain of the first ``count`` entries; complete lists stay shared."""
        lists: list[ListRef] = []
        for ref in self.lists:
            if count < ref.count:
                return self._with(lists, load_list(self.kind, self.documents, ref)[:count] if count else [])
            lists.append(ref)
            count -= ref.count
        return self._with(lists, self.tail[:count])

    def extended(self, entries: Sequence[E]) -> Chain[E]:
        """Return the chain with more entries at its end."""
        return self._with(self.lists, [*self.tail, *entries])

    def with_tail(self, tail: Sequence[E]) -> Chain[E]:
        """Return the chain with the same lists and another tail."""
        return self._with(self.lists, tail)

    def mapped(self, change: Callable[[E], E | None]) -> Chain[E]:
        """Return the chain with every entry changed or dropped (None).

        Lists without a change stay shared, up to the first list with one.
        """
        lists: list[ListRef] = []
        rest: list[E] = []
        for ref in self.lists:
            entries = load_list(self.kind, self.documents, ref)
            changed = [new for entry in entries if (new := change(entry)) is not None]
            if not rest and changed == entries:
                lists.append(ref)
            else:
                rest += changed
        rest += [new for entry in self.tail if (new := change(entry)) is not None]
        return self._with(lists, rest)

    def with_short_tail(self) -> Chain[E]:
        """Return the chain with a tail that fits a manifest: of more than 64 entries, most go to lists."""
        if len(self.tail) <= TAIL_LIMIT:
            return self
        lists, older, tail = list(self.lists), self.tail[:-TAIL_KEPT], self.tail[-TAIL_KEPT:]
        if lists and lists[-1].count + len(older) <= LIST_LIMIT:
            older = load_list(self.kind, self.documents, lists.pop()) + older
        lists += [
            store_list(self.documents, older[n : n + LIST_LIMIT]) for n in range(0, len(older), LIST_LIMIT)
        ]
        return self._with(lists, tail)

    def _with(self, lists: Sequence[ListRef], tail: Sequence[E]) -> Chain[E]:
        return Chain(self.kind, self.documents, lists, tail)


def segments_of(entry: DatabaseEntry, documents: Documents) -> Chain[Segment]:
    """Return the segments of a database in a backup."""
    return (
        Chain(Segment, documents, entry.data_fs.lists, entry.data_fs.tail)
        if entry.data_fs
        else Chain(Segment, documents)
    )


def dump_of(entry: DatabaseEntry, documents: Documents) -> Chain[Part]:
    """Return the parts of the dump of a database in a backup."""
    return Chain(Part, documents, entry.dump.lists, entry.dump.tail) if entry.dump else Chain(Part, documents)


def deltas_of(entry: DatabaseEntry, documents: Documents) -> Chain[Delta]:
    """Return the deltas to the dump of a database in a backup."""
    dump = entry.dump
    return (
        Chain(Delta, documents, dump.delta_lists, dump.deltas)
        if isinstance(dump, PgTransactions)
        else Chain(Delta, documents)
    )


def files_of(entry: DatabaseEntry, documents: Documents) -> Iterator[Part]:
    """Yield the parts of the dump of a database, of its deltas and of its other files."""
    yield from dump_of(entry, documents)
    for delta in deltas_of(entry, documents):
        yield from delta.parts
    yield from entry.dump.files if entry.dump else []


def file_name(part: Part) -> str:
    """Return the name of the file that a part belongs to, without the folder of the database.

    The name is one path component, and a shell needs no quotes for it. Raise Damage for any other name: a
    manifest with one was not written by zodb-vault.
    """
    name = part.to.partition("/")[2]
    if not FILE_NAME.fullmatch(name):
        raise Damage(f"the backup names a file {part.to[:100]!r}, which is no safe file name")
    return name


def log_of(entry: DatabaseEntry, documents: Documents) -> Chain[Transactions]:
    """Return the lists of transactions of a database that is dumped."""
    return (
        Chain(Transactions, documents, entry.dump.log_lists, entry.dump.log)
        if entry.dump
        else Chain(Transactions, documents)
    )


def names_in_dump(entry: DatabaseEntry, documents: Documents) -> Iterator[str]:
    """Yield the names of the objects and documents that belong to the dump of a database; raise Damage."""
    yield from (part.object for part in files_of(entry, documents))
    for block in log_of(entry, documents):
        yield block.tids.meta
        yield from (part.object for part in block.log)
    yield from entry.dump.documents if entry.dump else ()


def is_damaged_dump(entry: DatabaseEntry, documents: Documents, damaged: Collection[str]) -> bool:
    """Tell whether the dump of a database needs one of the damaged objects."""
    return bool(damaged) and any(name in damaged for name in names_in_dump(entry, documents))


def packs_of(entry: DatabaseEntry, documents: Documents) -> Chain[Pack]:
    """Return the packs of a database in a backup."""
    return (
        Chain(Pack, documents, entry.blobs.lists, entry.blobs.tail) if entry.blobs else Chain(Pack, documents)
    )
