"""RelStorage sites: their zope.conf, commits with blobs, and what they hold, read without zodb_vault."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import transaction
import ZODB.config
from services.postgres import Login
from site_factory import set_value
from ZODB import DB
from ZODB.blob import Blob

CONF = """
%import relstorage
<zodb_db main>
  mount-point /
  <relstorage>
    keep-history {history}
    {blobs}
    {adapter}
  </relstorage>
</zodb_db>
"""
POSTGRESQL = "<postgresql>\n      dsn {dsn}\n    </postgresql>"


class RelSite(NamedTuple):
    """A site on RelStorage: ``shared`` blobs are in ``blob_dir``, others in the database, with a cache."""

    adapter: str
    history: bool
    blob_dir: Path | None
    shared: bool

    @property
    def conf(self) -> str:
        """Return its zope.conf."""
        blobs = (
            f"blob-dir {self.blob_dir}\n    shared-blob-dir {str(self.shared).lower()}"
            if self.blob_dir
            else ""
        )
        return CONF.format(history=str(self.history).lower(), blobs=blobs, adapter=self.adapter)

    def write_conf(self, path: Path) -> Path:
        """Write the zope.conf."""
        path.write_text(self.conf)
        return path

    @contextlib.contextmanager
    def opened(self) -> Iterator[OpenRelSite]:
        """Open it for writing."""
        inner = self.conf.split("mount-point /\n")[1].split("</zodb_db>")[0]
        storage = ZODB.config.storageFromString(f"%import relstorage\n{inner}")
        site = OpenRelSite(storage)
        try:
            yield site
        finally:
            site.close()


class OpenRelSite:
    """A site that is open for writing."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self.db = DB(storage)
        self.manager = transaction.TransactionManager()
        self.connection = self.db.open(self.manager)

    @property
    def root(self) -> Any:
        """Return the root mapping."""
        return self.connection.root()

    def close(self) -> None:
        """Close it."""
        self.manager.abort()
        self.connection.close()
        self.db.close()

    def put(self, **values: str | bytes | None) -> bytes:
        """Commit texts (as objects), bytes (as blobs), removals (None) in one transaction; return its TID."""
        self.manager.begin()
        for key, value in values.items():
            set_value(self.root, key, value)
        self.manager.get().note(f"put {', '.join(values)}")
        self.manager.commit()
        changed = next((key for key, value in values.items() if value is not None), None)
        tid: bytes = self.root[changed]._p_serial if changed else self.storage.lastTransaction()
        return tid

    def pack(self) -> None:
        """Pack to now."""
        import time

        from ZODB.serialize import referencesf

        self.storage.pack(time.time() + 1, referencesf)
        self.manager.begin()


def on(login: Login) -> str:
    """Return the section of an adapter for a database."""
    return POSTGRESQL.format(dsn=login.dsn)


def state(site: RelSite) -> dict[str, str]:
    """Return the text or the digest of every key under the root, read by a RelStorage with an empty cache."""
    with site.opened() as opened:
        return {key: content(value) for key, value in opened.root.items()}


def content(value: Any) -> str:
    """Return a text, or the digest of a blob."""
    if isinstance(value, Blob):
        with value.open("r") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    return str(value["text"])


def last_tid(site: RelSite) -> bytes:
    """Return the TID of the last transaction."""
    with site.opened() as opened:
        tid: bytes = opened.storage.lastTransaction()
        return tid


def history(site: RelSite) -> list[Any]:
    """Return every transaction with its records, from the iterator of RelStorage, and each blob's digest."""
    with site.opened() as opened:
        found = []
        for one in opened.storage.iterator():
            records = [(record.oid, record.tid, record.data, _blob(opened.storage, record)) for record in one]
            found.append((one.tid, one.user, one.description, sorted(records)))
        return found


def _blob(storage: Any, record: Any) -> str | None:
    from ZODB.blob import is_blob_record

    if not record.data or not is_blob_record(record.data):
        return None
    return hashlib.sha256(Path(storage.loadBlob(record.oid, record.tid)).read_bytes()).hexdigest()
