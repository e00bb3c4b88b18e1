"""The portable method on storages with blobs in S3: wrapper and service are real; the bucket is compared."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import independent_reader
import pytest
import transaction
from command_line import tree
from portable_vault import Portable
from services.s3 import KEY_ID, SECRET_KEY, Service
from site_factory import noise, set_value
from ZODB import DB
from ZODB.blob import is_blob_record
from ZODB.config import storageFromString

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="zodb-s3blobs needs Python 3.12")

PREFIX = "site"


class Wrapped:
    """A storage in the wrapper, open for writing, and its bucket."""

    def __init__(self, directory: Path, service: Service, base: str, imports: str) -> None:
        self.client, self.bucket = service.client(), service.bucket()
        self.cache = directory / "s3cache"
        section = (
            f"<s3blobstorage>\nbucket-name {self.bucket}\ns3-prefix {PREFIX}\ncache-dir {self.cache}\n"
            "cache-size 1KB\n"
            f"s3-endpoint-url {service.endpoint}\ns3-region us-east-1\ns3-addressing-style path\n"
            f"s3-access-key {KEY_ID}\ns3-secret-key {SECRET_KEY}\n{base}</s3blobstorage>\n"
        )
        imports = f"%import zodb_s3blobs\n{imports}"
        self.zope_conf = directory / "s3.conf"
        self.zope_conf.write_text(f"{imports}<zodb_db main>\nmount-point /\n{section}</zodb_db>\n")
        self.base = f"{imports}{base}"
        self.storage = storageFromString(imports + section)
        self.db = DB(self.storage)
        self.manager = transaction.TransactionManager()
        self.connection = self.db.open(self.manager)

    def put(self, **values: str | bytes) -> None:
        root = self.connection.root()
        for key, value in values.items():
            set_value(root, key, value)
        self.manager.commit()

    def undo(self) -> None:
        self.manager.begin()
        self.db.undo(self.db.undoLog(0, 1)[0]["id"], self.manager.get())
        self.manager.commit()

    def transactions(self) -> list[independent_reader.Transaction]:
        """Return what the storage in the wrapper has, with the blobs of the bucket."""
        with contextlib.closing(
            storageFromString(self.base.replace("</filestorage>", "read-only true\n</filestorage>"))
        ) as storage:
            return independent_reader.transactions_of(storage.iterator(), self.blob)

    def blob(self, record: Any) -> str | None:
        if record.data is None or not is_blob_record(record.data):
            return None
        key = "{}/blobs/{:x}/{:x}.blob".format(
            PREFIX, *(int.from_bytes(part, "big") for part in (record.oid, record.tid))
        )
        try:
            return hashlib.sha256(
                self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            ).hexdigest()
        except self.client.exceptions.NoSuchKey:
            return independent_reader.MISSING

    def close(self) -> None:
        self.manager.abort()
        self.connection.close()
        self.db.close()


@pytest.fixture(params=["filestorage", "relstorage"])
def wrapped(request: pytest.FixtureRequest, tmp_path: Path, moto: Service) -> Iterator[Wrapped]:
    """A site in the wrapper; zodb-s3blobs 1.2.1 cannot write through ZEO."""
    if request.param == "filestorage":
        site = Wrapped(tmp_path, moto, f"<filestorage>\npath {tmp_path}/Data.fs\n</filestorage>\n", "")
    else:
        (tmp_path / "data").mkdir()
        base = (
            f"<relstorage>\nkeep-history true\n<sqlite3>\ndata-dir {tmp_path}/data\n</sqlite3>\n"
            "</relstorage>\n"
        )
        site = Wrapped(tmp_path, moto, base, "%import relstorage\n")
    yield site
    site.close()


def test_blobs_in_a_bucket_come_over_with_their_transactions(wrapped: Wrapped, tmp_path: Path) -> None:
    wrapped.put(a="one", blob=noise(30_000, 1), other=noise(5000, 2))
    wrapped.put(a="two", blob=noise(40_000, 3))
    vault = Portable(tmp_path, wrapped.zope_conf)
    before = tree(wrapped.cache)
    made = vault.create().manifest
    assert (made.status, made.databases[0].method, made.databases[0].blob_mode) == (
        "complete",
        "portable",
        "s3",
    )
    assert tree(wrapped.cache) == before
    assert not (vault.mirror / "cache").exists()
    assert vault.transactions() == wrapped.transactions()
    wrapped.put(blob=noise(100, 4))
    assert vault.code() == "continued"
    assert vault.transactions() == wrapped.transactions()
    assert SECRET_KEY not in (vault.mirror / "mirror.json").read_text()


def test_a_blob_that_the_wrapper_lost_by_an_undo_is_named(wrapped: Wrapped, tmp_path: Path) -> None:
    wrapped.put(blob=noise(3000, 1))
    wrapped.put(blob=noise(4000, 2))
    wrapped.undo()  # zodb-s3blobs makes no copy of the object for the new revision
    made = Portable(tmp_path, wrapped.zope_conf).create()
    assert made.manifest.status == "incomplete"
    (lost,) = made.missing["main"]
    assert lost.tid == f"0x{wrapped.transactions()[-1].tid.hex()}"
