"""Objects are named by their bytes and have a bounded length; whatever is not as it was stored is damage."""

from __future__ import annotations

import hashlib
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zodb_vault.errors import Damage
from zodb_vault.model.manifest import Part
from zodb_vault.repository import objects as module
from zodb_vault.repository.objects import Objects, meta_key, object_key
from zodb_vault.stores.local import LocalStore

TO = "main/Data.fs"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "repository")


@pytest.fixture
def objects(store: LocalStore) -> Objects:
    return Objects(store, "20260101T000000Z-abcdef")


def stored(objects: Objects, *chunks: bytes) -> list[Part]:
    writer = objects.content(TO)
    for chunk in chunks:
        writer.write(chunk)
    return writer.close()


def test_an_object_is_named_by_the_digest_of_its_stored_bytes(store: LocalStore, objects: Objects) -> None:
    (part,) = stored(objects, b"some content")
    data = store.get(object_key(part.object))
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (part.object, part.stored)
    assert (part.raw, part.to) == (12, TO)
    assert object_key(part.object) == f"objects/{part.object[:2]}/{part.object}"
    assert objects.written == part.stored


def test_a_document_is_named_by_the_digest_of_its_stored_bytes(store: LocalStore, objects: Objects) -> None:
    meta = objects.put_document(b'{"rows":[]}')
    data = store.get(meta_key(meta.meta))
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (meta.meta, meta.stored)
    assert objects.document(meta.meta) == b'{"rows":[]}'
    assert objects.written == meta.stored


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 60), max_size=4), st.integers(7, 50))
def test_content_is_split_into_parts_that_add_up_to_it(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "PART_RAW", limit)
        objects = Objects(LocalStore(tmp_path_factory.mktemp("objects") / "r"), "run")
        chunks = [random.Random(n).randbytes(size) for n, size in enumerate(sizes)]
        parts, content = stored(objects, *chunks), b"".join(chunks)
        assert [part.raw for part in parts[:-1]] == [limit] * (len(parts) - 1)
        assert len(parts) == max(1, -(-len(content) // limit))
        assert b"".join(objects.read(parts)) == content


def test_content_of_more_than_64_mib_is_two_objects(
    tmp_path: Path, store: LocalStore, objects: Objects
) -> None:
    writer = objects.content(TO, long_distance=True)
    digest = hashlib.sha256()
    for n in range(65):
        chunk = n.to_bytes(2, "big") * (1 << 19)
        digest.update(chunk)
        writer.write(chunk)
    parts = writer.close()
    assert [part.raw for part in parts] == [64 << 20, 1 << 20]
    again = hashlib.sha256()
    for chunk in objects.read(parts):
        assert len(chunk) <= 64 << 20
        again.update(chunk)
    assert again.digest() == digest.digest()
    command = " ".join(
        ["cat", *(f"<(zstd -dcq '{store.root / object_key(part.object)}')" for part in parts), "| sha256sum"]
    )
    plain = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert plain.stdout.split()[0] == digest.hexdigest()


def test_a_full_object_is_stored_before_the_next_begins(
    store: LocalStore, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_RAW", 10)
    writer = objects.content(TO)
    writer.write(b"x" * 10)
    assert len(list(store.list("objects/"))) == 1
    writer.write(b"x" * 25)
    assert len(list(store.list("objects/"))) == 1, "the same bytes by the same run"
    writer.write(b"y" * 5)
    assert len(list(store.list("objects/"))) == 2
    assert [part.raw for part in writer.close()] == [10, 10, 10, 10]


def test_content_of_no_length_has_one_empty_object(objects: Objects) -> None:
    (part,) = stored(objects)
    assert part.raw == 0
    assert list(objects.read([part])) == []


def test_two_runs_that_store_the_same_content_write_two_objects(store: LocalStore) -> None:
    one, other = (stored(Objects(store, run), b"the same")[0].object for run in ("one", "other"))
    assert one != other
    assert len(list(store.list("objects/"))) == 2


def test_a_run_that_stores_the_same_content_twice_writes_it_once(store: LocalStore, objects: Objects) -> None:
    assert stored(objects, b"the same") == stored(objects, b"the same")
    assert len(list(store.list("objects/"))) == 1


def change(store: LocalStore, key: str, content: bytes) -> None:
    path = store.path(key)
    path.chmod(0o600)
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["content", "document"])
def test_every_flipped_byte_of_a_stored_object_is_damage(
    store: LocalStore, objects: Objects, kind: str
) -> None:
    if kind == "content":
        parts = stored(objects, b"some content")
        name = parts[0].object
        key = object_key(name)
    else:
        name = objects.put_document(b"some document").meta
        parts, key = [], meta_key(name)
    data = store.get(key)
    for n in range(len(data)):
        changed = bytearray(data)
        changed[n] ^= 0x01
        change(store, key, bytes(changed))
        with pytest.raises(Damage, match=name):
            _ = list(objects.read(parts)) if parts else objects.document(name)
        with pytest.raises(Damage, match=name):
            objects.check(key, name)
    for wrong in (b"", data[:-1], data + b"x"):
        change(store, key, wrong)
        with pytest.raises(Damage, match=name):
            _ = list(objects.read(parts)) if parts else objects.document(name)
    change(store, key, data)
    assert objects.check(key, name) == len(data)


def test_a_missing_object_is_damage_that_names_it(store: LocalStore, objects: Objects) -> None:
    parts = stored(objects, b"x")
    store.delete(object_key(parts[0].object))
    with pytest.raises(Damage, match=f"objects/../{parts[0].object} is missing"):
        list(objects.read(parts))
    with pytest.raises(Damage, match="meta/aa/aa is missing"):
        objects.document("aa")


def test_an_object_of_another_content_under_its_name_is_damage(store: LocalStore, objects: Objects) -> None:
    one, other = stored(objects, b"one"), stored(objects, b"two")
    change(store, object_key(one[0].object), store.get(object_key(other[0].object)))
    with pytest.raises(Damage):
        list(objects.read(one))


def test_a_part_that_is_noted_with_another_length_is_damage(objects: Objects) -> None:
    (part,) = stored(objects, b"content")
    for raw in (6, 8):
        with pytest.raises(Damage):
            list(objects.read([Part(object=part.object, raw=raw, stored=part.stored, to=TO)]))
