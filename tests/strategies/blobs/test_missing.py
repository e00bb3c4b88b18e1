"""The document of missing blobs: it says what was written, and a list that says something else is damage."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from filestorage_vault import Vault, entry_of
from site_factory import Site

from zodb_vault.errors import Damage
from zodb_vault.model import canonical
from zodb_vault.model.blob import BlobRef, MissingBlob, MissingRow
from zodb_vault.model.manifest import DatabaseEntry, MissingBlobs
from zodb_vault.repository.objects import Objects
from zodb_vault.stores.local import LocalStore
from zodb_vault.strategies.blobs.missing import missing_rows, note_missing

OID, TID = bytes(7) + b"\x05", bytes(7) + b"\x09"


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(LocalStore(tmp_path / "other"), "run")


@pytest.fixture
def entry(tmp_path: Path) -> DatabaseEntry:
    with Site(tmp_path / "site") as site:
        site.put(photo=b"bytes")
        vault = Vault(tmp_path, site.files)
        vault.create()
    return entry_of(vault.newest)


def with_missing(entry: DatabaseEntry, missing: MissingBlobs) -> DatabaseEntry:
    """Return an entry that names another list."""
    assert entry.blobs is not None
    return msgspec.structs.replace(entry, blobs=msgspec.structs.replace(entry.blobs, missing=missing))


def test_what_is_noted_is_read_again(entry: DatabaseEntry, objects: Objects) -> None:
    ref = BlobRef(OID, TID, True)
    noted = note_missing(
        objects, [MissingBlob(ref, "/blobs/large object 7"), MissingBlob(ref, "anywhere", 0xFFFFFFFF)]
    )
    oid, tid = f"0x{OID.hex()}", f"0x{TID.hex()}"
    assert noted.count == 2
    # the number of a large object is read from its own field, whatever the path says
    assert missing_rows(with_missing(entry, noted), objects) == [
        MissingRow(oid, tid, "/blobs/large object 7"),
        MissingRow(oid, tid, "anywhere", 0xFFFFFFFF),
    ]


def test_nothing_is_listed_where_nothing_is_missing(entry: DatabaseEntry, objects: Objects) -> None:
    assert note_missing(objects, []) == MissingBlobs(count=0, list=None)
    assert missing_rows(entry, objects) == []


@pytest.mark.parametrize(
    "row",
    [
        b'["0x05", "0x09"]',
        b'["0x05", "0x09", 7]',
        b'["0x05", "0x09", "path", "7"]',
        b'["0x05", "0x09", "path", -1]',
        b'["0x05", "0x09", "path", 4294967296]',
        b'{"oid": "0x05"}',
        b"not JSON",
    ],
)
def test_a_list_of_another_form_is_damage(entry: DatabaseEntry, objects: Objects, row: bytes) -> None:
    forged = objects.put_document(canonical.rows("missing", [row])).meta
    with pytest.raises(Damage, match="list of missing blobs of main does not have"):
        missing_rows(with_missing(entry, MissingBlobs(count=1, list=forged)), objects)
