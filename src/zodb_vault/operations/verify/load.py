"""Open a restored database with the real storage and load everything in it, in a process of its own.

Loading needs memory for what ZODB keeps, and it imports the classes of the application as far as they are installed.
"""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from ...datafs.records import is_blob
from ...errors import VaultError
from ...runtime.child_process import child_environment, module_command
from ...strategies.registry import backend_named

BATCH = 1000
# Instead of a path: the configuration comes on standard input, since there are secrets in it.
CONFIGURED = "-"


class Loaded(msgspec.Struct, kw_only=True):
    """What was loaded; ``broken`` objects need classes that are not installed here, their records were decoded all the same.

    ``undone`` is how many objects stand there with a creation that was undone.
    ``opaque`` records were read and can be decoded by nobody but the wrapper that wrote them, an encrypting one.
    """

    objects: int = 0
    undone: int = 0
    broken: int = 0
    opaque: int = 0
    blobs: int = 0
    undecodable: list[tuple[str, str]] = []
    unreadable_blobs: list[tuple[str, str, str]] = []
    failure: str | None = None


def load_everything(data_fs: Path, blob_dir: Path | None) -> Loaded:
    """Load every object and open every blob; a storage that does not open is told in ``failure``.

    Raise VaultError when the process dies, as it does without memory: that says nothing about the database.
    """
    return _in_a_child(str(data_fs), *([str(blob_dir)] if blob_dir else []))


class StorageToLoad(msgspec.Struct):
    """A restored storage by its configuration, and what its backend needs to list the objects in it."""

    backend: str
    configuration: str
    settings: dict[str, str]


def load_configured(storage: StorageToLoad) -> Loaded:
    """Load every object and open every blob of the storage that a configuration describes, as ``load_everything`` does."""
    return _in_a_child(CONFIGURED, said=msgspec.json.encode(storage))


def _in_a_child(*arguments: str, said: bytes = b"") -> Loaded:
    command = module_command("zodb_vault.operations.verify.load", *arguments)
    done = subprocess.run(command, capture_output=True, check=False, input=said, env=child_environment())
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else f"exit status {done.returncode}"
        raise VaultError(
            f"the process that loads the restored database died: {why}",
            "free memory and verify again; nothing was found out",
        )
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Loaded)


def _load_configured(described: StorageToLoad) -> Loaded:
    from ZODB.config import storageFromString
    from ZODB.DB import DB

    loaded = Loaded(undecodable=[], unreadable_blobs=[])
    try:
        storage = storageFromString(described.configuration)
        connection = DB(storage).open()
    except Exception as error:  # noqa: BLE001  whatever it raises is the finding
        loaded.failure = f"it cannot be opened: {type(error).__name__}: {error}"
        return loaded
    backend = backend_named(described.backend)
    for oid, tid, record in backend.objects(connection.db().storage, described.settings):
        if record is None:
            loaded.undone += 1
        else:
            _load_object(connection, oid, tid, record, loaded)
        if loaded.objects % BATCH == 0:
            connection.cacheMinimize()
    for oid, tid in backend.former_blobs(connection.db().storage, described.settings):
        _open_blob(connection.db().storage, oid, tid, loaded, known=True)
    connection.close()
    storage.close()
    return loaded


def load_all(data_fs: str, blob_dir: str | None) -> Loaded:
    """Load every current object of a Data.fs and open every blob; return what could not be read."""
    from ZODB.DB import DB
    from ZODB.FileStorage import FileStorage
    from ZODB.POSException import POSKeyError
    from ZODB.utils import z64

    loaded = Loaded(undecodable=[], unreadable_blobs=[])
    try:
        storage = decompressing(FileStorage)(data_fs, read_only=True, blob_dir=blob_dir)
        if not len(storage):  # no DB was ever opened on it: one would write its root object first
            storage.close()
            return loaded
        # a DB looks at its root object when it is opened
        connection = None if is_blob(storage.load(z64)[0]) is None else DB(storage).open()
    except Exception as error:  # noqa: BLE001  whatever it raises is the finding
        loaded.failure = f"it cannot be opened: {type(error).__name__}: {error}"
        return loaded
    # not ``record_iternext``, which ends with an error at the first object whose creation was undone
    for oid in storage._index:
        try:
            record, tid = storage.load(oid)
        except POSKeyError:
            continue
        if connection is None:
            _look_at(storage, oid, tid, record, loaded)
        else:
            _load_object(connection, oid, tid, record, loaded)
            if loaded.objects % BATCH == 0:
                connection.cacheMinimize()
    if connection is not None:
        connection.close()
    elif loaded.objects > loaded.opaque:
        loaded.failure = "it cannot be opened: the record of its root object is no pickle"
    storage.close()
    return loaded


def _look_at(storage: Any, oid: bytes, tid: bytes, record: bytes, loaded: Loaded) -> None:
    """Read a record of a storage whose root object cannot be decoded; what one wrapper wrote looks like that nearly everywhere."""
    if is_blob(record) is None:
        loaded.opaque += 1
    else:
        loaded.objects += 1
    _open_blob(storage, oid, tid, loaded, known=False)


def decompressing(storage: Any) -> Any:
    """Return a kind of storage whose records are not compressed: what zc.zlibstorage wrote is read without it."""

    def plain(data: bytes) -> bytes:
        return zlib.decompress(data[2:]) if data[:2] == b".z" else data

    class Decompressing(storage):  # type: ignore[misc, unused-ignore]
        def load(self, oid: bytes, version: str = "") -> tuple[bytes, bytes]:
            data, tid = super().load(oid, version)
            return plain(data), tid

        def loadBefore(self, oid: bytes, tid: bytes) -> tuple[bytes, bytes, bytes | None] | None:  # noqa: N802
            found = super().loadBefore(oid, tid)
            return found and (plain(found[0]), *found[1:])

    return Decompressing


def _load_object(connection: Any, oid: bytes, tid: bytes, record: bytes, loaded: Loaded) -> None:
    from ZODB.blob import Blob
    from ZODB.broken import Broken

    loaded.objects += 1
    try:
        found = connection.get(oid)
        found._p_activate()
    except Exception as error:  # noqa: BLE001  whatever a class of the application raises is about that object only
        if is_blob(record) and _blob_failure(connection.db().storage, oid, tid):  # it asks for its file
            _open_blob(connection.db().storage, oid, tid, loaded, known=True)
        elif _lacks_classes(record):
            # what is installed may choke on what stands for a missing class: zope.interface does on a missing interface
            loaded.broken += 1
        else:
            loaded.undecodable.append(("0x" + oid.hex(), _why(error)))
        return
    loaded.broken += isinstance(found, Broken)
    if isinstance(found, Blob):
        _open_blob(connection.db().storage, oid, tid, loaded, known=True)


def _why(error: BaseException) -> str:
    """Return what an error says; ZODB wraps the real one in one that says nothing."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


class _Anything:
    """Stands for every class and function that a record names, and takes whatever the record does with it."""

    def __new__(cls, *_arguments: object, **_options: object) -> _Anything:
        return super().__new__(cls)

    def __init__(self, *_arguments: object, **_options: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def append(self, _item: object) -> None:
        """Take an item."""

    def extend(self, _items: object) -> None:
        """Take items."""


def _lacks_classes(record: bytes) -> bool:
    """Tell whether a record is whole and names a class or function that is not installed here."""
    from ZODB._compat import PersistentUnpickler

    named: set[tuple[str, str]] = set()

    def find(module: str, name: str) -> type[_Anything]:
        named.add((module, name))
        return _Anything

    unpickler = PersistentUnpickler(find, lambda _reference: None, io.BytesIO(record))
    try:
        unpickler.load()  # the class
        unpickler.load()  # the state
    except Exception:  # noqa: BLE001  not even this can be done with it
        return False
    return not all(_installed(module, name) for module, name in named)


@cache
def _installed(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name)
    except Exception:  # noqa: BLE001  whatever an application does when it is imported
        return False


def _open_blob(storage: Any, oid: bytes, tid: bytes, loaded: Loaded, *, known: bool) -> None:
    """Read a blob; what is not ``known`` to be one is if it has a file."""
    from ZODB.POSException import POSKeyError

    error = _blob_failure(storage, oid, tid)
    if error is None:
        loaded.blobs += 1
    elif known or not isinstance(error, POSKeyError):
        loaded.unreadable_blobs.append(
            ("0x" + oid.hex(), "0x" + tid.hex(), f"{type(error).__name__}: {error}")
        )


def _blob_failure(storage: Any, oid: bytes, tid: bytes) -> Exception | None:
    """Read a blob to its end and return what was raised: POSKeyError, OSError and what a wrapper may raise."""
    try:
        with storage.openCommittedBlobFile(oid, tid) as file:
            while file.read(1 << 20):
                pass
    except Exception as error:  # noqa: BLE001
        return error
    return None


if __name__ == "__main__":
    if sys.argv[1] == CONFIGURED:
        found = _load_configured(msgspec.json.decode(sys.stdin.buffer.read(), type=StorageToLoad))
    else:
        found = load_all(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(found) + b"\n")
