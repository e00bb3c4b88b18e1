"""Random histories of a FileStorage site beside a model of plain dictionaries that never reads ZODB.

``History(directory, seed)`` commits, undoes, packs and fails like a busy site. The model keeps objects as
plain values, so that the result of an undo or an abort is computed twice, by FileStorage and here. After
every transaction ``states`` holds what must be visible.
"""

from __future__ import annotations

import itertools
import random
import time
from base64 import encodebytes
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import independent_reader
import transaction
from persistent.mapping import PersistentMapping
from persistent.TimeStamp import TimeStamp
from ZODB import DB
from ZODB.blob import Blob, is_blob_record
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError, UndoError
from ZODB.serialize import referencesf
from ZODB.utils import z64

WORDS = [
    "Zope",
    "Object",
    "Database",
    "Blob",
    "pack",
    "undo",
    "tree",
    "Märchen",
    "naïve",
    "Ωmega",
    "日本",
    "<p>",
    "&amp;",
    "\n",
]


class Ref(NamedTuple):
    """A reference of the model from one object to another."""

    number: int


Content = dict[str, str | Ref] | bytes
Objects = dict[int, Content]
State = dict[str, str | bytes]
Keys = tuple[str, ...]


class Change(NamedTuple):
    """What one transaction did to one object; None means: does not exist."""

    before: Content | None
    after: Content | None


class Dangling(Exception):
    """A reference of the model leads to an object that does not exist."""


class Sabotage(Exception):
    """Raised by the data manager that makes a commit fail."""


def visible(objects: Objects) -> State:
    """Return what the root reaches: ``folder/document/text`` to text, ``folder/file/blob`` to bytes."""
    return dict(_walk_model(objects, 0, ""))


def _walk_model(objects: Objects, number: int, prefix: str) -> Iterator[tuple[str, str | bytes]]:
    content = objects.get(number)
    if content is None:
        raise Dangling(prefix)
    if isinstance(content, bytes):
        yield prefix, content
        return
    for key, value in content.items():
        path = f"{prefix}/{key}" if prefix else key
        if isinstance(value, Ref):
            yield from _walk_model(objects, value.number, path)
        else:
            yield path, value


class Draft:
    """One unfinished transaction: every edit goes to the Connection and to the model."""

    def __init__(self, root: Any, objects: Objects, numbers: Iterator[int]) -> None:
        self.root = root
        self.objects = dict(objects)
        self.changed: set[int] = set()
        self.numbers = numbers

    def find(self, path: Keys) -> Any:
        """Return the persistent object at a path."""
        found = self.root
        for key in path:
            found = found[key]
        return found

    def number(self, path: Keys) -> int:
        """Return the model's number of the object at a path."""
        number = 0
        for key in path:
            value = self.mapping(number)[key]
            assert isinstance(value, Ref)
            number = value.number
        return number

    def mapping(self, number: int) -> dict[str, str | Ref]:
        """Return the model's content of an object that is no blob."""
        content = self.objects[number]
        assert isinstance(content, dict)
        return content

    def put(self, path: Keys, key: str, text: str) -> None:
        """Set a text."""
        self.find(path)[key] = text
        self._set(self.number(path), key, text)

    def add_mapping(self, path: Keys, key: str, title: str) -> Keys:
        """Add a new object with a title; return its path."""
        self.find(path)[key] = PersistentMapping({"title": title})
        self._set(self.number(path), key, self._new({"title": title}))
        return (*path, key)

    def add_blob(self, path: Keys, key: str, data: bytes) -> None:
        """Add a new blob."""
        self.find(path)[key] = Blob(data)
        self._set(self.number(path), key, self._new(data))

    def write_blob(self, path: Keys, data: bytes) -> None:
        """Overwrite a blob."""
        with self.find(path).open("w") as stream:
            stream.write(data)
        number = self.number(path)
        self.objects[number] = data
        self.changed.add(number)

    def remove(self, path: Keys) -> Any:
        """Unlink an object; it stays in the storage until a pack."""
        *parent, key = path
        self._set(self.number(tuple(parent)), key, None)
        return self.find(tuple(parent)).pop(key)

    def move(self, path: Keys, target: Keys) -> None:
        """Unlink an object and link it under another one."""
        number = self.number(path)
        self.find(target)[path[-1]] = self.remove(path)
        self._set(self.number(target), path[-1], Ref(number))

    def _new(self, content: Content) -> Ref:
        number = next(self.numbers)
        self.objects[number] = content
        self.changed.add(number)
        return Ref(number)

    def _set(self, number: int, key: str, value: str | Ref | None) -> None:
        content = {known: old for known, old in self.mapping(number).items() if known != key}
        if value is not None:
            content[key] = value
        self.objects[number] = content
        self.changed.add(number)

    def paths(self, prefix: str, number: int = 0, path: Keys = ()) -> list[Keys]:
        """Return the paths of all reachable objects whose key begins with ``prefix``."""
        content = self.objects[number]
        if isinstance(content, bytes):
            return []
        found = []
        for key, value in content.items():
            if isinstance(value, Ref):
                found += [(*path, key)] if key.startswith(prefix) else []
                found += self.paths(prefix, value.number, (*path, key))
        return found

    def mark(self) -> tuple[Objects, set[int]]:
        """Return what ``back_to`` needs after a savepoint was rolled back."""
        return dict(self.objects), set(self.changed)

    def back_to(self, mark: tuple[Objects, set[int]]) -> None:
        """Forget the edits since the mark."""
        self.objects, self.changed = mark


class Saboteur:
    """A data manager that is called after the Connection: it can fail in commit or vote, or act later."""

    def __init__(
        self, manager: Any, fail_in: str = "", when_pending: Callable[[], None] | None = None
    ) -> None:
        self.transaction_manager = manager
        self.fail_in = fail_in
        self.when_pending = when_pending

    def sortKey(self) -> str:
        """Sort after every storage."""
        return "~~ saboteur"

    def commit(self, txn: Any) -> None:
        """Fail here: blob files of the storage already have their final names and stay."""
        if self.fail_in == "commit":
            raise Sabotage(self.fail_in)

    def tpc_vote(self, txn: Any) -> None:
        """Fail here: the transaction is in Data.fs with status ``c`` and will be truncated."""
        if self.when_pending is not None:
            self.when_pending()
        if self.fail_in == "vote":
            raise Sabotage(self.fail_in)

    def tpc_begin(self, txn: Any) -> None:
        """Do nothing."""

    tpc_finish = tpc_abort = abort = tpc_begin


class History:
    """A site under random change, and the model of it.

    ``states``: TID to what must be visible then, for every transaction since the last ``reset_to`` on this
    timeline. ``valid_tids()``: those that can be restored (none before the last packed transaction).
    ``journal``: what each step did. ``when_pending``: called while a transaction is pending in Data.fs.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.numbers = itertools.count(1)
        self.objects: Objects = {}
        self.changes: dict[bytes, dict[int, Change]] = {}
        self.snapshots: dict[bytes, Objects] = {}
        self.states: dict[bytes, State] = {}
        self.undoable: list[bytes] = []
        self.undos: list[bytes] = []
        self.journal: list[str] = []
        self.when_pending: Callable[[], None] | None = None
        self.keep_old = self.random.random() < 0.7
        self._valid: list[bytes] = []
        self.open(directory / "Data.fs", directory / "blobs")
        self._record({0: {}})

    # Opening and closing

    def open(self, data_fs: Path, blob_dir: Path) -> None:
        self.data_fs, self.blob_dir = data_fs, blob_dir
        self.storage = FileStorage(str(data_fs), blob_dir=str(blob_dir), pack_keep_old=self.keep_old)
        self.db = DB(self.storage)
        self.managers = [transaction.TransactionManager() for _ in range(2)]
        self.connections = [self.db.open(manager) for manager in self.managers]
        self.is_open = True

    def close(self) -> None:
        """Close the storage; the model stays."""
        if self.is_open:
            for manager, connection in zip(self.managers, self.connections, strict=True):
                manager.abort()
                connection.close()
            self.db.close()
            self.is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reset_to(self, data_fs: Path, blob_dir: Path, tid: bytes) -> None:
        """Continue from files that were put in place as of ``tid``: the model forgets what came later."""
        self.close()
        self.open(data_fs, blob_dir)
        assert self.last_tid == tid, f"restored to {self.last_tid.hex()}, not to {tid.hex()}"
        for later in [known for known in self.states if known > tid]:
            del self.states[later], self.changes[later], self.snapshots[later]
        self.objects = self.snapshots[tid]
        self.undos = [known for known in self.undos if known <= tid]
        self._look_at_file()
        self.journal.append(f"reset to {tid.hex()}")

    # What a test asks

    @property
    def last_tid(self) -> bytes:
        """Return the TID of the last transaction."""
        tid: bytes = self.storage.lastTransaction()
        return tid

    @property
    def state(self) -> State:
        """Return what must be visible now."""
        return self.states[self.last_tid]

    def valid_tids(self) -> list[bytes]:
        """Return the TIDs that can be restored, in the order of the file."""
        return list(self._valid)

    def step(self, operation: str | None = None) -> str:
        """Do one operation, a random one unless it is named; return its name."""
        if operation is None:
            operation = self.random.choices(list(OPERATIONS), [weight for _, weight in OPERATIONS.values()])[
                0
            ]
        known = len(self.states)
        OPERATIONS[operation][0](self)
        self.journal.append(
            f"{operation}: {len(self.states) - known} transactions, last {self.last_tid.hex()}"
        )
        return operation

    # The model

    def _record(self, after: dict[int, Content | None]) -> bytes:
        """Note the transaction that was just committed, with the objects it wrote."""
        tid = self.last_tid
        assert tid not in self.states, "nothing was committed"
        objects = dict(self.objects)
        self.changes[tid] = {
            number: Change(objects.get(number), content) for number, content in after.items()
        }
        _apply(objects, after)
        self.objects = self.snapshots[tid] = objects
        self.states[tid] = visible(objects)
        self._valid.append(tid)
        self.undoable.append(tid)
        return tid

    def _look_at_file(self) -> None:
        """Learn from the headers in Data.fs what a pack left."""
        finished = independent_reader.headers(self.data_fs)
        self._valid = independent_reader.valid_tids(self.data_fs)
        self.undoable = [header.tid for header in finished if header.status == " "]

    def _after_undo(self, tids: Iterable[bytes]) -> dict[int, Content | None] | None:
        """Return what undoing the transactions in this order must write, or None where it must be refused."""
        after: dict[int, Content | None] = {}
        for tid in tids:
            for number, change in self.changes[tid].items():
                if not _same_record(after.get(number, self.objects.get(number)), change.after):
                    return None
            after.update({number: change.before for number, change in self.changes[tid].items()})
        return after

    # Transactions

    def _draft(self, which: int | None = None) -> tuple[Draft, Any]:
        which = self.random.randrange(2) if which is None else which
        self.managers[which].begin()
        return Draft(self.connections[which].root(), self.objects, self.numbers), self.managers[which]

    def _commit(self, draft: Draft, manager: Any) -> bytes | None:
        if not draft.changed:
            manager.abort()
            return None
        self._describe(manager.get())
        self._join(manager)
        manager.commit()
        return self._record({number: draft.objects[number] for number in draft.changed})

    def _join(self, manager: Any, fail_in: str = "") -> None:
        if fail_in or self.when_pending is not None:
            manager.get().join(Saboteur(manager, fail_in, self.when_pending))

    def _describe(self, current: Any) -> None:
        if self.random.random() < 0.6:
            current.note(self._text(60))
            current.setUser(f"user-{self.random.randrange(3)}")
        if self.random.random() < 0.3:
            current.setExtendedInfo(
                "request", {"path": self._text(20), "number": self.random.randrange(1000)}
            )

    def _text(self, limit: int = 1500) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randrange(1, max(2, limit // 5))))

    def _data(self) -> bytes:
        size = self.random.choice([0, 1, 30, 300, 3000, 3000, 9000])
        return (
            self.random.randbytes(size)
            if self.random.random() < 0.5
            else self._text().encode() * (size // 500)
        )

    def _key(self, kind: str) -> str:
        return f"{kind}-{self.random.randrange(10**6)}"

    def _pick(self, draft: Draft, prefix: str) -> Keys | None:
        paths = draft.paths(prefix)
        return self.random.choice(paths) if paths else None

    # Edits of a draft

    def _folder(self, draft: Draft) -> Keys:
        if self.random.random() < 0.2 or not draft.paths("folder"):
            return draft.add_mapping((), self._key("folder"), self._text(40))
        return self.random.choice(draft.paths("folder"))

    def _add_document(self, draft: Draft) -> None:
        path = draft.add_mapping(self._folder(draft), self._key("document"), self._text(40))
        draft.put(path, "text", self._text())
        if self.random.random() < 0.4:
            child = draft.add_mapping(path, self._key("part"), self._text(40))
            draft.put(child, "text", self._text())

    def _add_file(self, draft: Draft) -> None:
        path = draft.add_mapping(self._folder(draft), self._key("file"), self._text(40))
        draft.add_blob(path, "blob", self._data())

    def _change_text(self, draft: Draft) -> None:
        path = self._pick(draft, "document") or self._pick(draft, "part")
        if path is None:
            return self._add_document(draft)
        return draft.put(path, "text", self._text())

    def _change_blob(self, draft: Draft) -> None:
        path = self._pick(draft, "blob")
        if path is None:
            return self._add_file(draft)
        return draft.write_blob(path, self._data())

    def _remove(self, draft: Draft) -> None:
        path = self._pick(draft, self.random.choice(["document", "file", "part", "folder"]))
        if path is not None:
            draft.remove(path)

    def _move(self, draft: Draft) -> None:
        path, target = self._pick(draft, self.random.choice(["document", "file"])), self._folder(draft)
        if path is not None and path[:-1] != target:
            draft.move(path, target)

    def _edit(self, draft: Draft, count: int) -> None:
        edits = [
            self._add_document,
            self._add_file,
            self._change_text,
            self._change_blob,
            self._remove,
            self._move,
        ]
        for edit in self.random.choices(edits, [3, 3, 3, 3, 1, 1], k=count):
            edit(draft)

    # Operations

    def commit(self) -> None:
        """Commit one edit."""
        draft, manager = self._draft()
        self._edit(draft, 1)
        self._commit(draft, manager)

    def several(self) -> None:
        """Commit several edits in one transaction."""
        draft, manager = self._draft()
        self._edit(draft, self.random.randrange(2, 6))
        self._commit(draft, manager)

    def new_blob(self) -> None:
        """Commit a new blob."""
        draft, manager = self._draft()
        self._add_file(draft)
        self._commit(draft, manager)

    def changed_blob(self) -> None:
        """Commit another content of a blob."""
        draft, manager = self._draft()
        self._change_blob(draft)
        self._commit(draft, manager)

    def garbage(self) -> None:
        """Unlink an object."""
        draft, manager = self._draft()
        self._remove(draft)
        self._commit(draft, manager)

    def nothing(self) -> None:
        """Commit without a change: no transaction."""
        draft, manager = self._draft()
        manager.commit()

    def empty(self) -> None:
        """Commit a transaction without records."""
        metadata = TransactionMetaData("somebody", "empty")
        self.storage.tpc_begin(metadata)
        self.storage.tpc_vote(metadata)
        self.storage.tpc_finish(metadata)
        self._record({})

    def savepoint(self) -> None:
        """Commit a transaction with a savepoint and blobs, half the time rolled back to the savepoint."""
        draft, manager = self._draft()
        self._add_file(draft)
        self._edit(draft, 1)
        point, mark = manager.savepoint(), draft.mark()
        self._change_blob(draft)
        self._edit(draft, 1)
        if self.random.random() < 0.5:
            point.rollback()
            draft.back_to(mark)
        self._commit(draft, manager)

    def abort(self) -> None:
        """Abort before the commit, sometimes after a savepoint."""
        draft, manager = self._draft()
        self._edit(draft, 2)
        if self.random.random() < 0.5:
            manager.savepoint()
        manager.abort()

    def abort_pending(self) -> None:
        """Abort after the vote: FileStorage truncates Data.fs."""
        self._fail_in("vote")

    def abort_orphan(self) -> None:
        """Abort before the vote: FileStorage leaves the blob files."""
        self._fail_in("commit")

    def _fail_in(self, phase: str) -> None:
        draft, manager = self._draft()
        self._change_blob(draft)
        self._edit(draft, 1)
        self._join(manager, phase)
        try:
            manager.commit()
        except Sabotage:
            manager.abort()
        else:
            raise AssertionError("the commit went through")

    def two_connections(self) -> None:
        """Let two connections commit from the same state; the second gets a conflict for the same object."""
        (first, one), (second, two) = self._draft(0), self._draft(1)
        self._edit(first, 2)
        self._edit(second, 2)
        self._commit(first, one)
        conflict = bool(first.changed & second.changed)
        try:
            self._commit(second, two)
        except ConflictError:
            two.abort()
            assert conflict, "unexpected conflict"
        else:
            assert not conflict, "the conflict was not noticed"

    def undo(self) -> None:
        """Undo one of the last transactions if it can be undone."""
        self._undo([self.random.choice(self.undoable[-6:])] if self.undoable else [])

    def undo_two(self) -> None:
        """Undo the last two transactions in one: objects may get two records of one TID."""
        self._undo(self.undoable[:-3:-1])

    def undo_undo(self) -> None:
        """Undo an undo; where there is none, make one first."""
        self.undos = [tid for tid in self.undos if tid in self.undoable]
        if self.undos or self._undo(self.undoable[-1:]):
            self._undo([self.undos[-1]])

    def undo_creation(self) -> None:
        """Create a document and a blob, and undo that."""
        draft, manager = self._draft()
        self._add_document(draft)
        self._add_file(draft)
        tid = self._commit(draft, manager)
        assert tid is not None
        assert self._undo([tid]), "an undo of the last transaction was refused"

    def _undo(self, tids: list[bytes]) -> bool:
        """Undo; return whether something was undone. FileStorage may refuse; what it does must be right."""
        after = self._after_undo(tids)
        if not tids or _dangles(self.objects, after):
            return False
        manager = self.managers[0]
        manager.begin()
        self.db.undoMultiple([encodebytes(tid).rstrip() for tid in tids], manager.get())
        self._join(manager)
        try:
            manager.commit()
        except UndoError:
            manager.abort()
            return False
        assert after is not None, f"{[tid.hex() for tid in tids]} was undone although its objects had changed"
        self.undos.append(self._record(after))
        return True

    def pack(self) -> None:
        """Pack to now."""
        self._pack(time.time())

    def pack_garbage(self) -> None:
        """Unlink something, change a blob, and pack to now."""
        self.garbage()
        self.changed_blob()
        self._pack(time.time())

    def pack_past(self) -> None:
        """Pack to the time of an earlier transaction."""
        self._pack(TimeStamp(self.random.choice(list(self.states))).timeTime())

    def pack_without_collection(self) -> None:
        """Pack to now without removing unreachable objects."""
        self._pack(time.time(), gc=False)

    def _pack(self, moment: float, gc: bool = True) -> None:
        before, state = self._valid, self.state
        self.storage.pack(moment, referencesf, gc=gc)
        self._look_at_file()
        assert set(self._valid) <= set(before), "a pack made transactions valid"
        assert self.states[self._valid[-1]] == state, "a pack lost the last state"


def _apply(objects: Objects, after: dict[int, Content | None]) -> None:
    for number, content in after.items():
        if content is None:
            objects.pop(number, None)
        else:
            objects[number] = content


def _dangles(objects: Objects, after: dict[int, Content | None] | None) -> bool:
    """Return whether an undo would leave a reference to nothing, which FileStorage does not prevent."""
    if after is None:
        return False
    result = dict(objects)
    _apply(result, after)
    try:
        visible(result)
    except Dangling:
        return True
    return False


def _same_record(current: Content | None, then: Content | None) -> bool:
    """Return whether two contents make equal records.

    All blobs do, so FileStorage undoes any change of a blob, also an older one.
    """
    return current == then or (isinstance(current, bytes) and isinstance(then, bytes))


OPERATIONS: dict[str, tuple[Callable[[History], None], int]] = {
    "commit": (History.commit, 5),
    "several": (History.several, 3),
    "new_blob": (History.new_blob, 3),
    "changed_blob": (History.changed_blob, 3),
    "garbage": (History.garbage, 1),
    "nothing": (History.nothing, 1),
    "empty": (History.empty, 1),
    "savepoint": (History.savepoint, 2),
    "abort": (History.abort, 1),
    "abort_pending": (History.abort_pending, 1),
    "abort_orphan": (History.abort_orphan, 1),
    "two_connections": (History.two_connections, 2),
    "undo": (History.undo, 3),
    "undo_two": (History.undo_two, 1),
    "undo_undo": (History.undo_undo, 2),
    "undo_creation": (History.undo_creation, 1),
    "pack": (History.pack, 1),
    "pack_garbage": (History.pack_garbage, 1),
    "pack_past": (History.pack_past, 1),
    "pack_without_collection": (History.pack_without_collection, 1),
}


# Comparing files with the model


def read_state(data_fs: Path, blob_dir: Path) -> State:
    """Return everything that a read-only Connection shows, blobs included."""
    storage = FileStorage(str(data_fs), read_only=True, blob_dir=str(blob_dir))
    db = DB(storage)
    manager = transaction.TransactionManager()
    connection = db.open(manager)
    try:
        return dict(walk_connection(connection.root()))
    finally:
        manager.abort()
        connection.close()
        db.close()


def walk_connection(found: Any, prefix: str = "") -> Iterator[tuple[str, str | bytes]]:
    """Yield path and value of every text and blob below a persistent mapping."""
    if isinstance(found, str):
        yield prefix, found
    elif isinstance(found, Blob):
        with found.open("r") as stream:
            yield prefix, stream.read()
    else:
        for key, value in found.items():
            yield from walk_connection(value, f"{prefix}/{key}" if prefix else key)


def assert_state(data_fs: Path, blob_dir: Path, expected: State) -> None:
    """Open the files with FileStorage and DB, read every object and every blob, and compare."""
    found = read_state(data_fs, blob_dir)
    different = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    assert not different, "\n".join(
        f"{key}: found {_short(found.get(key))}, expected {_short(expected.get(key))}" for key in different
    )


def _short(value: str | bytes | None) -> str:
    return "nothing" if value is None else f"{len(value)} {value[:40]!r}"


def assert_all_references_resolve(data_fs: Path, blob_dir: Path) -> int:
    """Follow every reference from the root, and find the file of every blob; return the number of objects."""
    storage = FileStorage(str(data_fs), read_only=True, blob_dir=str(blob_dir))
    try:
        seen: set[bytes] = set()
        todo = [z64]
        while todo:
            oid = todo.pop()
            if oid not in seen:
                seen.add(oid)
                todo += _references(storage, oid)
        return len(seen)
    finally:
        storage.close()


def _references(storage: Any, oid: bytes) -> list[bytes]:
    data, serial = storage.load(oid)
    if is_blob_record(data):
        assert Path(storage.loadBlob(oid, serial)).is_file()
    found: list[bytes] = referencesf(data)
    return found
