"""A ZEO client in a process of its own; it prints one JSON line for each operation that reads.

Run as ``python zeo_client.py CONF DATABASE OPERATION...``.

``put:a=1,b=2`` commits, ``get:a,b`` reads, ``blob:name=text`` commits a blob, ``read:name`` reads one,
``hold:FILE`` stays until FILE exists.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import multi_database_writer
import transaction
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob


def pairs(text: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (part.partition("=") for part in text.split(","))]


def put(root: Any, text: str) -> None:
    for name, value in pairs(text):
        root.setdefault(name, PersistentMapping())["value"] = int(value)
    transaction.commit()


def get(root: Any, text: str) -> list[int]:
    return [root[name]["value"] for name in text.split(",")]


def blob(root: Any, text: str) -> None:
    for name, value in pairs(text):
        if name not in root:
            root[name] = Blob()
        with root[name].open("w") as stream:
            stream.write(value.encode())
    transaction.commit()


def read(root: Any, text: str) -> str:
    with root[text].open("r") as stream:
        data: bytes = stream.read()
    return data.decode()


def hold(_root: Any, text: str) -> None:
    print("held", flush=True)
    while not Path(text).exists():
        time.sleep(0.02)


OPERATIONS = {"put": put, "get": get, "blob": blob, "read": read, "hold": hold}


def main(conf: str, database: str, *operations: str) -> None:
    dbs = multi_database_writer.databases(Path(conf))
    connection = dbs[database].open()
    for operation in operations:
        name, _, text = operation.partition(":")
        answer = OPERATIONS[name](connection.root(), text)
        if answer is not None:
            print(json.dumps(answer), flush=True)
    connection.close()
    for db in dbs.values():
        db.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
