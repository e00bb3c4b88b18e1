"""Open a restored database with the real storage and load everything in it; runs as a process of its own.

Every object is activated as an application would do it, and every blob is read to its end.
"""

from __future__ import annotations

import sys
import zlib
from typing import Any, Final

import msgspec

from ...datafs.records import is_blob
from ...strategies.backend_lookup import backend_named
from .load import ADVANCED, CONFIGURED, EXPECTED, Loaded, StorageToLoad
from .missing_classes import missing_modules

# After so many objects the cache of ZODB is emptied, to bound the memory.
OBJECTS_IN_CACHE: Final = 1000
CHUNK: Final = 1 << 20
# A line about the progress is written after so many objects.
REPORTED: Final = 100
MOST_MODULES: Final = 1000


def load_from_configuration(storage_to_load: StorageToLoad) -> Loaded:
    """Load everything in a storage that its ZConfig section describes."""
    from ZConfig import SchemaError
    from ZODB.config import storageFromString
    from ZODB.DB import DB

    loaded = Loaded(modules={}, undecodable=[], unreadable_blobs=[])
    try:
        storage = storageFromString(storage_to_load.configuration)
        connection = DB(storage).open()
    except (ImportError, SchemaError) as error:
        loaded.not_installed = f"{type(error).__name__}: {error}"
        return loaded
    except Exception as error:  # noqa: BLE001  whatever it raises is the finding
        loaded.failure = _cannot_be_opened(error)
        return loaded
    backend, settings = backend_named(storage_to_load.backend), storage_to_load.settings
    opened = connection.db().storage
    for number, (oid, tid, record) in enumerate(backend.objects(opened, settings), 1):
        _report_progress(number)
        if record is None:
            loaded.undone += 1
        else:
            _load_object(connection, oid, tid, record, loaded)
        if loaded.objects % OBJECTS_IN_CACHE == 0:
            connection.cacheMinimize()
    for oid, tid in backend.former_blobs(opened, settings):
        _open_blob(opened, oid, tid, loaded, required=True)
    connection.close()
    storage.close()
    return loaded


def load_from_data_fs(data_fs: str, blob_dir: str | None) -> Loaded:
    """Load everything in a Data.fs, compressed by zc.zlibstorage or not."""
    from ZODB.DB import DB
    from ZODB.FileStorage import FileStorage
    from ZODB.utils import z64

    loaded = Loaded(modules={}, undecodable=[], unreadable_blobs=[])
    try:
        storage = decompressing(FileStorage)(data_fs, read_only=True, blob_dir=blob_dir)
        if not len(storage):  # a DB would write a root object into it, and the storage is opened for reading
            storage.close()
            return loaded
        # A DB decodes its root object when it is opened. If a wrapper has encrypted the records, there is no
        # DB that could be opened here: then the records are only read.
        connection = None if is_blob(storage.load(z64)[0]) is None else DB(storage).open()
    except Exception as error:  # noqa: BLE001  whatever it raises is the finding
        loaded.failure = _cannot_be_opened(error)
        return loaded
    _load_current_records(storage, connection, loaded)
    if connection is not None:
        connection.close()
    elif loaded.objects > loaded.opaque:
        # most records are pickles, so the root object is not encrypted but damaged
        loaded.failure = "it cannot be opened: the record of its root object is no pickle"
    storage.close()
    return loaded


def _load_current_records(storage: Any, connection: Any | None, loaded: Loaded) -> None:
    """Load the current record of every object in the index of a FileStorage.

    Its method ``record_iternext`` ends with an error at the first object whose creation was undone.
    """
    from ZODB.POSException import POSKeyError

    _report(EXPECTED, len(storage))
    for number, oid in enumerate(storage._index, 1):
        _report_progress(number)
        try:
            record, tid = storage.load(oid)
        except POSKeyError:
            continue
        if connection is None:
            _read_record(storage, oid, tid, record, loaded)
        else:
            _load_object(connection, oid, tid, record, loaded)
            if loaded.objects % OBJECTS_IN_CACHE == 0:
                connection.cacheMinimize()


def _report_progress(number: int) -> None:
    """Report every hundredth object; ``number`` counts from 1."""
    if number % REPORTED == 0:
        _report(ADVANCED, REPORTED)


def _report(what: bytes, number: int) -> None:
    """Write a line for the parent process; the application may have left a line without its end."""
    sys.stdout.buffer.write(b"\n%s%d\n" % (what, number))
    sys.stdout.buffer.flush()


def _read_record(storage: Any, oid: bytes, tid: bytes, record: bytes, loaded: Loaded) -> None:
    """Read a record of a storage whose root object cannot be decoded, and count whether it is a pickle."""
    if is_blob(record) is None:
        loaded.opaque += 1
    else:
        loaded.objects += 1
    _open_blob(storage, oid, tid, loaded, required=False)


def decompressing(storage: Any) -> Any:
    """Return a storage class that decompresses records of zc.zlibstorage, which need not be installed."""

    def plain(data: bytes) -> bytes:
        return zlib.decompress(data[2:]) if data[:2] == b".z" else data

    class Decompressing(storage):  # type: ignore[misc, unused-ignore]
        def load(self, oid: bytes, version: str = "") -> tuple[bytes, bytes]:
            data, tid = super().load(oid, version)
            return plain(data), tid

        def loadBefore(self, oid: bytes, tid: bytes) -> Any:  # noqa: N802
            found = super().loadBefore(oid, tid)
            return found and (plain(found[0]), *found[1:])

    return Decompressing


def _load_object(connection: Any, oid: bytes, tid: bytes, record: bytes, loaded: Loaded) -> None:
    """Activate an object as an application does, and read its blob if it is one."""
    from ZODB.blob import Blob
    from ZODB.broken import Broken

    loaded.objects += 1
    storage = connection.db().storage
    try:
        found = connection.get(oid)
        found._p_activate()
    except Exception as error:  # noqa: BLE001  a class of the application may raise anything
        if is_blob(record) and _blob_failure(storage, oid, tid):
            # a blob without its file cannot be activated: that is damage of the blob, not of the object
            _open_blob(storage, oid, tid, loaded, required=True)
        elif missing := missing_modules(record):
            # Classes that are installed may fail on the stand-in for one that is not: zope.interface does so
            # on a missing interface.
            _count_broken(loaded, missing)
        else:
            loaded.undecodable.append(("0x" + oid.hex(), _cause(error)))
        return
    if isinstance(found, Broken):
        _count_broken(loaded, {type(found).__module__})
    if isinstance(found, Blob):
        _open_blob(storage, oid, tid, loaded, required=True)


def _count_broken(loaded: Loaded, modules: set[str]) -> None:
    """Count an object under each module that it needs; further modules go under an empty name."""
    loaded.broken += 1
    for module in modules:
        name = module if module in loaded.modules or len(loaded.modules) < MOST_MODULES else ""
        loaded.modules[name] = loaded.modules.get(name, 0) + 1


def _cannot_be_opened(error: Exception) -> str:
    return f"it cannot be opened: {type(error).__name__}: {error}"


def _cause(error: BaseException) -> str:
    """Return type and text of an error; ZODB wraps the real error in one that does not repeat it."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


def _open_blob(storage: Any, oid: bytes, tid: bytes, loaded: Loaded, *, required: bool) -> None:
    """Read a blob to its end; one that is not ``required`` may have no file: it may be no blob."""
    from ZODB.POSException import POSKeyError

    error = _blob_failure(storage, oid, tid)
    if error is None:
        loaded.blobs += 1
    elif required or not isinstance(error, POSKeyError):
        why = f"{type(error).__name__}: {error}"
        loaded.unreadable_blobs.append(("0x" + oid.hex(), "0x" + tid.hex(), why))


def _blob_failure(storage: Any, oid: bytes, tid: bytes) -> Exception | None:
    """Read a blob to its end, and return the error: POSKeyError, OSError, or whatever a wrapper raises."""
    try:
        with storage.openCommittedBlobFile(oid, tid) as file:
            while file.read(CHUNK):
                pass
    except Exception as error:  # noqa: BLE001
        return error
    return None


def main(arguments: list[str]) -> None:
    """Load what the arguments and standard input describe, and print the result as the last line."""
    if arguments[0] == CONFIGURED:
        described = msgspec.json.decode(sys.stdin.buffer.read(), type=StorageToLoad)
        loaded = load_from_configuration(described)
    else:
        loaded = load_from_data_fs(arguments[0], arguments[1] if len(arguments) > 1 else None)
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(loaded) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
