"""Open a restored database with the real storage and load everything in it, in a process of its own.

Loading needs memory for what ZODB keeps, and it imports the classes of the application as far as they are installed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from ..errors import VaultError
from .child import command_of, environment

BATCH = 1000


class Loaded(msgspec.Struct, kw_only=True):
    """What was loaded; ``broken`` objects have classes that are not installed here, their state was read all the same."""

    objects: int = 0
    broken: int = 0
    blobs: int = 0
    undecodable: list[tuple[str, str]] = []
    unreadable_blobs: list[tuple[str, str, str]] = []
    failure: str | None = None


def load_everything(data_fs: Path, blob_dir: Path | None) -> Loaded:
    """Load every object and open every blob; a storage that does not open is told in ``failure``.

    Raise VaultError when the process dies, as it does without memory: that says nothing about the database.
    """
    command = command_of("zodb_vault.operations.loading", str(data_fs), *([str(blob_dir)] if blob_dir else []))
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL, env=environment())
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else f"exit status {done.returncode}"
        raise VaultError(f"the process that loads the restored database died: {why}", "free memory and verify again; nothing was found out")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Loaded)


def _load(data_fs: str, blob_dir: str | None) -> Loaded:
    from ZODB.DB import DB
    from ZODB.FileStorage import FileStorage

    loaded = Loaded(undecodable=[], unreadable_blobs=[])
    try:
        database = DB(FileStorage(data_fs, read_only=True, blob_dir=blob_dir))
        connection = database.open()
    except Exception as error:  # noqa: BLE001  whatever it raises is the finding
        loaded.failure = f"it cannot be opened: {type(error).__name__}: {error}"
        return loaded
    token = None
    while len(database.storage):
        oid, _tid, _data, token = database.storage.record_iternext(token)
        _load_object(connection, oid, loaded)
        if loaded.objects % BATCH == 0:
            connection.cacheMinimize()
        if token is None:
            break
    connection.close()
    database.close()
    return loaded


def _load_object(connection: Any, oid: bytes, loaded: Loaded) -> None:
    from ZODB.blob import Blob
    from ZODB.broken import Broken

    loaded.objects += 1
    try:
        found = connection.get(oid)
        found._p_activate()
    except Exception as error:  # noqa: BLE001  whatever a class of the application raises is about that object only
        loaded.undecodable.append(("0x" + oid.hex(), f"{type(error).__name__}: {error}"))
        return
    loaded.broken += isinstance(found, Broken)
    if isinstance(found, Blob):
        _open_blob(found, loaded)


def _open_blob(blob: Any, loaded: Loaded) -> None:
    try:
        with blob.open("r") as file:
            while file.read(1 << 20):
                pass
        loaded.blobs += 1
    except Exception as error:  # noqa: BLE001  POSKeyError, OSError and what a wrapper may raise
        loaded.unreadable_blobs.append(("0x" + blob._p_oid.hex(), "0x" + blob._p_serial.hex(), f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(_load(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)) + b"\n")
