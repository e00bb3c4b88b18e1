"""Sites on zodb-pgjsonb: their zope.conf, and what they hold, read without zodb_vault."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ZODB.config
from relstorage_sites import OpenRelSite, content
from relstorage_vault import RelVault
from services.postgres import Login, execute
from services.s3 import KEY_ID, SECRET_KEY, Service

SMALL = b"a small one"
CONF = """
%import zodb_pgjsonb
<zodb_db main>
  mount-point /
  <pgjsonb>
    dsn {dsn}
    history-preserving {history}
    blob-threshold 1KB
    blob-cache-dir {cache}
    blob-cache-size 100MB
    cache-warm-pct 0
    {s3}
  </pgjsonb>
</zodb_db>
"""
TABLES = {
    "transaction_log": "tid, username, description, extension",
    "object_state": "zoid, tid, class_mod, class_name, state::text, refs",
    "object_history": "zoid, tid, class_mod, class_name, state::text, refs",
    "blob_state": "zoid, tid, blob_size, data, s3_key",
}


class Place(NamedTuple):
    """A bucket and a prefix in it."""

    service: Service
    bucket: str
    prefix: str

    @property
    def keys(self) -> str:
        """Return the options in a section of zope.conf, except for the name of the bucket."""
        return (
            f"s3-prefix {self.prefix}\ns3-endpoint-url {self.service.endpoint}\ns3-region us-east-1\n"
            f"s3-access-key {KEY_ID}\ns3-secret-key {SECRET_KEY}"
        )

    def objects(self) -> dict[str, bytes]:
        """Return everything below the prefix by its key without that."""
        client, start = self.service.client(), self.key("")
        found = client.list_objects_v2(Bucket=self.bucket, Prefix=start).get("Contents", [])
        return {
            one["Key"].removeprefix(start): client.get_object(Bucket=self.bucket, Key=one["Key"])[
                "Body"
            ].read()
            for one in found
        }

    def key(self, name: str) -> str:
        """Return the complete key."""
        return f"{self.prefix.rstrip('/')}/{name}" if self.prefix else name

    def put(self, name: str, data: bytes) -> None:
        """Store an object."""
        self.service.client().put_object(Bucket=self.bucket, Key=self.key(name), Body=data)

    def delete(self, name: str) -> None:
        """Remove an object."""
        self.service.client().delete_object(Bucket=self.bucket, Key=self.key(name))


class PgjsonbSite(NamedTuple):
    """A site on zodb-pgjsonb: blobs of more than 1 KB are in ``place``, if there is one."""

    login: Login
    history: bool
    cache: Path
    place: Place | None

    @property
    def conf(self) -> str:
        """Return its zope.conf."""
        s3 = f"s3-bucket-name {self.place.bucket}\n{self.place.keys}" if self.place else ""
        return CONF.format(dsn=self.login.dsn, history=str(self.history).lower(), cache=self.cache, s3=s3)

    def write_conf(self, path: Path) -> Path:
        """Write the zope.conf."""
        path.write_text(self.conf)
        return path

    @contextlib.contextmanager
    def opened(self) -> Iterator[OpenRelSite]:
        """Open it for writing."""
        inner = self.conf.split("mount-point /\n")[1].split("</zodb_db>")[0]
        site = OpenRelSite(ZODB.config.storageFromString(f"%import zodb_pgjsonb\n{inner}"))
        try:
            yield site
        finally:
            site.close()


def filled(directory: Path, capsys: pytest.CaptureFixture[str], site: PgjsonbSite) -> RelVault:
    """Return a site with some content, four of its blob revisions being in S3, if it has a place there."""
    vault = RelVault(directory, capsys, site)
    vault.login = site.login
    vault.fill()
    with site.opened() as opened:
        opened.put(small=SMALL)
    return vault


def rows(login: Login) -> dict[str, list[Any]]:
    """Return every row of every table that matters, as PostgreSQL has it."""
    present = [table for table in TABLES if execute(login, "SELECT to_regclass(%s)", (table,))[0][0]]
    return {
        table: [
            tuple(map(_plain, row))
            for row in execute(login, f"SELECT {TABLES[table]} FROM {table} ORDER BY 1, 2")
        ]
        for table in present
    }


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def keys(login: Login) -> list[str]:
    """Return the keys of all objects in S3 that the database names, in the order of their commits."""
    return [
        str(key)
        for (key,) in execute(
            login, "SELECT s3_key FROM blob_state WHERE s3_key IS NOT NULL ORDER BY tid, zoid"
        )
    ]


def state(site: PgjsonbSite) -> dict[str, str]:
    """Return the text or the digest of every key under the root, read by a real storage."""
    with site.opened() as opened:
        return {key: content(value) for key, value in opened.root.items()}


def revisions(site: PgjsonbSite) -> dict[tuple[int, int], str]:
    """Return the digest of each blob revision, as a real storage loads it."""
    with site.opened() as opened:
        found = execute(site.login, "SELECT zoid, tid FROM blob_state")
        load = opened.storage.loadBlob
        return {
            (oid, tid): hashlib.sha256(Path(load(oid.to_bytes(8), tid.to_bytes(8))).read_bytes()).hexdigest()
            for oid, tid in found
        }
