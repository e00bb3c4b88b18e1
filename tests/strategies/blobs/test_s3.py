"""Backups of sites with zodb-s3blobs: wrapper and service are real, and the bucket itself is compared."""

from __future__ import annotations

import base64
import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import independent_reader
import msgspec
import pytest
from pgjsonb_sites import Place
from relstorage_vault import NOISE, by_hand, committing
from s3blobs_sites import WrappedVault
from services.s3 import SECRET_KEY, Service
from services.s3_requests import EachFailsOnce, EachReadIsCut, EachWriteIsLost, Faults, behind, counted
from site_factory import noise

from zodb_vault.errors import StoreError
from zodb_vault.model.manifest import MissingBlobs
from zodb_vault.repository.repository import Repository
from zodb_vault.runtime import clock
from zodb_vault.stores.local import LocalStore
from zodb_vault.stores.retry import RetryPolicy
from zodb_vault.strategies.blobs import capture, s3_restore
from zodb_vault.strategies.blobs import s3 as buckets
from zodb_vault.strategies.filestorage.capture import FileStorageBlobCapture
from zodb_vault.strategies.filestorage.restore import phases
from zodb_vault.strategies.sql.capture import SqlBlobCapture

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="zodb-s3blobs needs Python 3.12")
EACH = pytest.mark.parametrize("base", ["filestorage", "sqlite", "postgresql"])
CHEAP = pytest.mark.parametrize("base", ["filestorage", "sqlite"])
Make = Callable[..., WrappedVault]


@pytest.fixture
def make(
    request: pytest.FixtureRequest, moto: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Make:
    """Make a site with some content."""

    def make(base: str = "filestorage", prefix: str = "plone", **options: Any) -> WrappedVault:
        postgres = request.getfixturevalue("postgres") if base == "postgresql" else None
        vault = WrappedVault(tmp_path, capsys, base, Place(moto, moto.bucket(), prefix), postgres, **options)
        vault.fill()
        return vault

    return make


@contextlib.contextmanager
def asked(patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Give the addresses of the objects that are read."""
    found: list[str] = []
    open_ = buckets.BlobBucket.open

    def watched(bucket: buckets.BlobBucket, ref: Any) -> Any:
        found.append(str(bucket.path(ref)))
        return open_(bucket, ref)

    with patch.context() as inner:
        inner.setattr(buckets.BlobBucket, "open", watched)
        yield found


@EACH
def test_a_backup_opens_without_the_wrapper(make: Make, tmp_path: Path, base: str) -> None:
    vault = make(base)
    made = vault.created()
    assert (made["status"], made["reason"]["code"], made["how"]) == ("complete", "first", "full")
    assert made["databases"][0]["blobs"] == {"added": 4, "count": 4}
    assert vault.done("show", "latest", "--json").document["manifest"]["databases"][0]["blob_mode"] == "s3"
    for level in ("objects", "bytes", "records", "restore"):
        report = vault.done("verify", "--level", level, "--json").document
        assert (report["damage"], report["source"]) == ([], [])
    assert report["checked"]["blobs opened"] == 3
    by_hand(vault.repository, made["id"], tmp_path / "by hand")
    assert vault.reads(vault.restored()) == vault.reads(tmp_path / "by hand") == vault.site.transactions()


@CHEAP
@pytest.mark.parametrize("slash", ["", "/"])
def test_history_and_prefix_may_be_other_ones(make: Make, slash: str, base: str) -> None:
    vault = make(base, slash and "plone", history=base != "sqlite")
    vault.conf.write_text(vault.conf.read_text().replace("s3-prefix plone", f"s3-prefix plone{slash}"))
    vault.created()
    assert vault.reads(vault.restored()) == vault.site.transactions()


@EACH
def test_what_is_committed_while_it_runs_is_there_or_not(make: Make, base: str) -> None:
    vault = make(base)
    with committing(vault.site):
        backups = [vault.created() for _ in range(3)]
    assert [one["reason"]["code"] for one in backups] == ["first", "continued", "continued"]
    everything = vault.site.transactions()
    for made in backups:
        found = vault.reads(vault.restored(made["id"]))
        assert found == everything[: len(found)]
        assert f"0x{found[-1].tid.hex()}" == made["databases"][0]["last_tid"]


@CHEAP
def test_only_what_is_new_is_read(make: Make, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    vault = make(base)
    vault.created()
    with asked(monkeypatch) as read:
        again = vault.created()
        assert (read, again["how"], again["databases"][0]["blobs"]) == (
            [],
            "incremental",
            {"added": 0, "count": 4},
        )
        before = vault.place.objects().keys()
        with vault.site.opened() as opened:
            opened.put(logo=NOISE[5])
        assert vault.created()["databases"][0]["blobs"] == {"added": 1, "count": 5}
        (new,) = vault.place.objects().keys() - before
        assert read == [f"s3://{vault.place.bucket}/plone/{new}"]
    assert vault.reads(vault.restored()) == vault.site.transactions()


@CHEAP
def test_a_key_that_is_gone_is_missing_and_found_when_it_is_back(make: Make, base: str) -> None:
    vault = make(base)
    key, content = next(iter(vault.place.objects().items()))
    vault.place.delete(key)
    done = vault("create", "--json")
    assert (done.status, done.document["status"]) == (3, "incomplete")
    (row,) = done.document["databases"][0]["missing"]
    assert row["path"] == f"s3://{vault.place.bucket}/plone/{key}"
    assert (f"{int(row['oid'], 16):x}", f"{int(row['tid'], 16):x}.blob") == tuple(key.split("/")[1:])
    report = vault.done("verify", done.document["id"], "--json").document
    assert (report["damage"], [one["why"] for one in report["source"]]) == (
        [],
        [f"was missing at {row['path']}"],
    )
    assert vault("create", "--json").status == 3
    vault.place.put(key, content)
    made = vault.created()
    assert (made["status"], made["databases"][0]["blobs"]) == ("complete", {"added": 1, "count": 4})


@CHEAP
def test_an_undo_that_the_wrapper_makes_no_copy_for_is_named(make: Make, base: str) -> None:
    vault = make(base)
    vault.created()
    with vault.site.opened() as opened:
        opened.put(logo=NOISE[6])
    vault.site.undo()
    done = vault("create", "--json")
    assert (done.status, done.document["databases"][0]["blobs"]["added"]) == (3, 1)
    last = vault.site.transactions()[-1]
    assert [record.blob for record in last.records] == [independent_reader.MISSING]
    assert [row["tid"] for row in done.document["databases"][0]["missing"]] == [f"0x{last.tid.hex()}"]


@EACH
def test_a_pack_between_storage_and_blobs_starts_over(
    make: Make, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    vault = make(base)
    kind: Any = FileStorageBlobCapture if base == "filestorage" else SqlBlobCapture
    with vault.site.opened() as opened:
        opened.put(logo=None)
        copy, packed = kind.copy_blobs, list[bool]()

        def pack_first(capture: Any) -> Any:
            if not packed:
                packed.append(True)
                opened.pack()  # deletes records, then objects
            return copy(capture)

        monkeypatch.setattr(kind, "copy_blobs", pack_first)
        made = vault.created()
    assert packed and made["status"] == "complete"
    assert made["databases"][0]["blobs"]["count"] == len(vault.place.objects()) < 4
    assert vault.reads(vault.restored()) == vault.site.transactions()


@EACH
def test_a_blob_that_no_pack_has_is_damage(make: Make, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    vault = make(base)
    with monkeypatch.context() as patch:
        patch.setattr(capture, "pack_missing", lambda *_arguments: iter(()))
        patch.setattr(capture, "note_missing", lambda *_arguments: MissingBlobs(count=0, list=None))
        made = vault("create", "--json").document["id"]
    done = vault("verify", made, "--json")
    assert (done.status, [one["what"] for one in done.document["damage"]]) == (4, 4 * ["blob"])


def test_what_no_record_names_is_not_copied(make: Make) -> None:
    vault = make(prefix="plone")
    vault.place.put("blobs/ff/3ffffffffffffff.blob", b"left by a transaction that was aborted")
    other = vault.place._replace(prefix="plone2")
    for key, data in vault.place.objects().items():
        other.put(key, data[::-1])
    assert vault.created()["databases"][0]["blobs"]["count"] == 4
    assert vault.reads(vault.restored()) == vault.site.transactions()


def test_changes_become_a_delta_of_a_dump(make: Make) -> None:
    vault = make("postgresql")
    vault.created("--method", "transactions")
    with vault.site.opened() as opened:
        opened.put(logo=NOISE[5], photo=None, later=NOISE[6])
    made = vault.created("--method", "transactions")
    assert (made["status"], made["databases"][0]["blobs"]) == ("complete", {"added": 2, "count": 6})
    assert vault.done("verify", "--json").document["damage"] == []
    before, state = vault.site.transactions(), vault.site.state()
    for key in vault.place.objects():
        vault.place.delete(key)
    vault.done("restore", "--yes", "--replace", "--no-safety-backup")
    assert (vault.site.transactions(), vault.site.state()) == (before, state)


@CHEAP
def test_components(make: Make, base: str) -> None:
    vault = make(base)
    storage = vault.created("--only", "storage")
    assert storage["databases"][0]["blobs"] is None
    blobs = vault.created("--only", "blobs")
    assert blobs["databases"][0]["blobs"] == {"added": 4, "count": 4}


def test_a_mirror_and_the_site_itself_are_one_timeline(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vault = make()
    with asked(monkeypatch) as read:
        vault.created("--method", "portable", "--mirror", str(tmp_path / "mirror"))
        assert not read  # the blobs of a mirror are files
    made = vault.created()
    assert (made["reason"]["code"], made["databases"][0]["blobs"]) == ("unchanged", {"added": 0, "count": 4})
    assert vault.reads(vault.restored()) == vault.site.transactions()


@pytest.mark.parametrize("wrong", ["bucket", "endpoint", "secret"])
def test_a_bucket_that_cannot_be_read_is_an_error_that_shows_no_secret(
    make: Make, moto: Service, rclone: Service, wrong: str
) -> None:
    vault, conf = make(), ""
    if wrong == "bucket":
        conf = vault.conf.read_text().replace(vault.place.bucket, "nobodys-bucket")
    elif wrong == "endpoint":
        conf = vault.conf.read_text().replace(moto.endpoint, "http://127.0.0.1:9")
    else:
        conf = (
            vault.conf.read_text()
            .replace(moto.endpoint, rclone.endpoint)
            .replace(SECRET_KEY, "another-secret-of-s3")
        )
    vault.conf.write_text(conf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RetryPolicy.__init__, "__defaults__", (2, 0.0, lambda _seconds: None))
        done = vault("create", "--json")
    assert (done.status, done.error["kind"]) == (1, "source") and "zope.conf" in done.error["hint"]
    assert SECRET_KEY not in done.err + done.out and "another-secret-of-s3" not in done.err + done.out
    assert {row["status"] for row in vault.done("list", "--json").document["backups"]} <= {"failed"}


# restores


@EACH
def test_a_copy_in_another_bucket_goes_on_by_itself(
    make: Make, moto: Service, tmp_path: Path, base: str
) -> None:
    vault = make(base)
    vault.created()
    copy = vault.copy(tmp_path / "copy", Place(moto, moto.bucket(), "other"))
    done = vault.done("restore", "--target", tmp_path / "copy" / "zope.conf", "--yes")
    assert f"blobs to s3://{copy.place.bucket}/other" in done.err and "another site" not in done.err
    assert copy.transactions() == vault.site.transactions() and copy.place.objects() == vault.place.objects()
    with copy.opened() as opened:
        opened.put(more="and goes on", logo=NOISE[5])
        opened.pack()
    assert vault.site.state() != copy.state()
    assert not [
        record
        for one in vault.site.transactions()
        for record in one.records
        if record.blob == independent_reader.MISSING
    ]


@EACH
def test_a_site_goes_back_in_place(make: Make, base: str) -> None:
    vault = make(base)
    before, state = vault.site.transactions(), vault.site.state()
    made = vault.created()
    with vault.site.opened() as opened:
        opened.put(logo=NOISE[5], photo=None, later=NOISE[6])
        opened.pack()  # takes away what the backup has
    later = vault.place.objects()
    done = vault.done("restore", made["id"], "--yes", "--replace")
    assert vault.site.transactions() == before and vault.site.state() == state
    assert "until a pack of the site deletes them" in done.err
    assert vault.place.objects().items() >= later.items()


def test_what_is_discarded_is_in_the_safety_backup(make: Make) -> None:
    vault = make()
    made = vault.created()
    with vault.site.opened() as opened:
        opened.put(later=NOISE[5], latest=NOISE[6])
    left = vault.site.transactions()
    done = vault.done("restore", made["id"], "--yes", "--json")
    assert [
        note
        for note in done.document["notes"]
        if note.startswith(f"2 objects in s3://{vault.place.bucket}/plone belong only to the replaced state")
    ]
    with vault.site.opened() as opened:
        opened.put(more="and goes on")
        opened.pack()  # deletes what it does not know
    assert vault.reads(vault.restored(done.document["safety_backup"])) == left


def test_only_what_a_time_needs_is_put_there_and_existing_objects_stay(
    make: Make, moto: Service, tmp_path: Path
) -> None:
    vault = make()
    moment = vault.site.transactions()[1].tid
    vault.created()
    copy = vault.copy(tmp_path / "copy", Place(moto, moto.bucket(), ""))
    arguments = (
        "--target",
        tmp_path / "copy" / "zope.conf",
        "--yes",
        "--tid",
        f"0x{moment.hex()}",
        "--no-safety-backup",
    )
    vault.done("restore", *arguments)
    assert copy.transactions() == vault.site.transactions()[:2] and len(copy.place.objects()) == 2
    with counted() as requests:
        vault.done("restore", "--target", tmp_path / "copy" / "zope.conf", "--yes", "--no-safety-backup")
    assert copy.transactions() == vault.site.transactions()
    assert (requests["PutObject"], requests["DeleteObject"]) == (2, 0)


@pytest.mark.parametrize("base", ["sqlite", "postgresql"])
def test_a_time_of_a_relational_database(make: Make, moto: Service, tmp_path: Path, base: str) -> None:
    vault = make(base)
    moment = vault.site.transactions()[2].tid
    vault.created()
    copy = vault.copy(tmp_path / "copy", Place(moto, moto.bucket(), ""))
    vault.done("restore", "--target", tmp_path / "copy" / "zope.conf", "--yes", "--tid", f"0x{moment.hex()}")
    assert copy.transactions() == vault.site.transactions()[:3]
    with copy.opened() as opened:
        opened.put(more="and goes on", logo=NOISE[5])
        opened.pack()
    assert independent_reader.MISSING not in {
        record.blob for one in copy.transactions() for record in one.records
    }


@CHEAP
def test_another_object_is_in_the_way_until_it_is_to_be_kept(make: Make, tmp_path: Path, base: str) -> None:
    vault = make(base)
    vault.created()
    state, key = (
        vault.site.state(),
        next(key for key, data in vault.place.objects().items() if data == NOISE[2]),
    )
    vault.place.put(key, NOISE[7])
    for other in (NOISE[7], b"short"):
        vault.place.put(key, other)
        refused = vault("restore", "--yes", "--json", "--no-safety-backup", "--replace")
        assert (refused.status, refused.error["kind"]) == (1, "target-refused")
        assert key in refused.error["message"] and "--replace-blobs" in refused.error["hint"]
        assert vault.place.objects()[key] == other
    done = vault.done("restore", "--yes", "--no-safety-backup", "--replace", "--replace-blobs")
    assert vault.site.state() == state
    (kept,) = [name for name in vault.place.objects() if name.startswith(".zodb-vault-kept-")]
    assert kept.endswith(f"/{key}") and vault.place.objects()[kept] == b"short"
    assert (
        "1 objects were replaced by blobs of the backup; copies of the old objects are in "
        f"s3://{vault.place.bucket}/plone/{kept.split('/')[0]}/"
    ) in done.err
    with vault.site.opened() as opened:
        opened.pack()
    assert kept in vault.place.objects()


@CHEAP
def test_a_restore_that_broke_off_goes_on(
    make: Make, monkeypatch: pytest.MonkeyPatch, moto: Service, tmp_path: Path, base: str
) -> None:
    vault = make(base)
    vault.created()
    copy, puts = vault.copy(tmp_path / "copy", Place(moto, moto.bucket(), "other")), list[Any]()
    put = buckets.BlobBucket.put

    def twice(bucket: buckets.BlobBucket, ref: Any, data: bytes) -> None:
        puts.append(ref)
        if len(puts) > 2:
            raise StoreError("the network is gone")
        put(bucket, ref, data)

    arguments = ("restore", "--target", tmp_path / "copy" / "zope.conf", "--yes")
    with monkeypatch.context() as patch:
        patch.setattr(buckets.BlobBucket, "put", twice)
        assert vault(*arguments).status == 1
    assert len(copy.place.objects()) == 2
    assert (
        not (tmp_path / "copy" / "site" / "Data.fs").exists()
        and not (tmp_path / "copy" / "site" / "main.sqlite3").exists()
    )
    with counted() as requests:
        done = vault.done(*arguments)
    assert copy.transactions() == vault.site.transactions()
    assert (
        requests["PutObject"] == 2
        and "if another site uses them, a pack of one site deletes blobs of the other one" in done.err
    )


def test_an_interrupted_restore_in_place_is_taken_back(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = make()
    made = vault.created()
    with vault.site.opened() as opened:
        opened.put(logo=NOISE[5], photo=None)
        opened.pack()
    now = vault.site.transactions()

    def fails(*_arguments: Any) -> None:
        raise StoreError("the network is gone")

    with monkeypatch.context() as patch:
        patch.setattr(buckets.BlobBucket, "put", fails)
        assert vault("restore", made["id"], "--yes").status == 1
    vault.done("restore", "--abort", "--yes")
    assert vault.site.transactions() == now


def test_an_interrupted_restore_is_not_finished_into_another_bucket(
    make: Make, monkeypatch: pytest.MonkeyPatch, moto: Service, tmp_path: Path
) -> None:
    vault = make()
    vault.created()
    copy = vault.copy(tmp_path / "copy", Place(moto, moto.bucket(), "other"))

    def fails(*_arguments: Any) -> None:
        raise StoreError("nothing can be put aside")

    arguments = ("restore", "--target", tmp_path / "copy" / "zope.conf", "--yes", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(phases.DataFsRestore, "put_aside", fails)
        assert vault(*arguments).status == 1  # the Data.fs is the new one by now
    another = copy._replace(place=Place(moto, moto.bucket(), "other"))
    another.write_conf(tmp_path / "copy" / "zope.conf")
    refused = vault(*arguments)
    assert (refused.status, refused.error["kind"]) == (
        1,
        "target-refused",
    ) and "was interrupted" in refused.error["message"]
    copy.write_conf(tmp_path / "copy" / "zope.conf")
    vault.done(*arguments)
    assert copy.transactions() == vault.site.transactions()


def test_long_blobs_go_there_in_parts_and_a_damaged_one_not_at_all(
    make: Make, monkeypatch: pytest.MonkeyPatch, moto: Service, tmp_path: Path
) -> None:
    monkeypatch.setattr(s3_restore, "WHOLE", 5 << 20)
    monkeypatch.setattr(s3_restore, "PART", 5 << 20)  # the service takes no shorter ones
    vault = make()
    with vault.site.opened() as opened:
        opened.put(film=noise(11 << 20, 1), clip=noise(5 << 20, 2))
    vault.created()
    copy = vault.copy(tmp_path / "copy", Place(moto, moto.bucket(), "other"))
    arguments = ("restore", "--target", tmp_path / "copy" / "zope.conf", "--yes", "--json")
    checked = s3_restore.S3BlobWriter.checked_content

    def other(writer: s3_restore.S3BlobWriter, member: Any, chunks: Any) -> Any:
        return checked(
            writer,
            msgspec.structs.replace(member, sha256=64 * "0") if member.size == 11 << 20 else member,
            chunks,
        )

    with monkeypatch.context() as patch:
        patch.setattr(s3_restore.S3BlobWriter, "checked_content", other)
        damaged = vault(*arguments)
    assert (damaged.status, damaged.error["kind"]) == (4, "damage")
    assert not [data for data in copy.place.objects().values() if len(data) > 5 << 20]
    assert "Uploads" not in moto.client().list_multipart_uploads(Bucket=copy.place.bucket)
    with counted() as requests:
        vault.done(*arguments)
    assert (requests["UploadPart"], requests["CompleteMultipartUpload"]) == (3, 1)
    assert copy.transactions() == vault.site.transactions()


def test_of_a_blob_in_two_packs_the_last_one_holds(
    make: Make, monkeypatch: pytest.MonkeyPatch, moto: Service, tmp_path: Path
) -> None:
    vault = make()
    first = Repository.open(LocalStore(vault.repository)).objects("")
    vault.created()
    manifest = Repository.open(LocalStore(vault.repository)).manifest("default", vault.backups()[0])
    earlier = list(s3_restore.packs_of(manifest.databases[0], first))
    changed = next(key for key, data in vault.place.objects().items() if data == NOISE[2])
    vault.place.put(changed, NOISE[7])
    vault.created("--full")
    packs_of = s3_restore.packs_of
    monkeypatch.setattr(
        s3_restore, "packs_of", lambda entry, documents: [*earlier, *packs_of(entry, documents)]
    )
    copy = vault.copy(tmp_path / "copy", Place(moto, moto.bucket(), ""))
    vault.done("restore", "--target", tmp_path / "copy" / "zope.conf", "--yes")
    assert copy.place.objects() == vault.place.objects()


def test_the_bucket_of_another_site_is_refused(make: Make, moto: Service, tmp_path: Path) -> None:
    vault = make()
    vault.created()
    copy = vault.copy(tmp_path / "copy", Place(moto, moto.bucket(), "other"))
    with copy.opened() as opened:
        opened.put(mine=NOISE[5])
    before = copy.transactions()
    arguments = ("restore", "--target", tmp_path / "copy" / "zope.conf", "--yes", "--json")
    refused = vault(*arguments)
    assert (refused.status, refused.error["kind"]) == (1, "target-refused")
    assert f"s3://{copy.place.bucket}/other belongs to another site" in refused.error["message"]
    assert copy.transactions() == before
    vault.done(*arguments, "--replace-blobs")
    assert copy.transactions() == vault.site.transactions()


@CHEAP
def test_components_are_restored_one_by_one(make: Make, base: str) -> None:
    vault = make(base)
    before = vault.site.transactions()
    vault.created()
    for key in vault.place.objects():
        vault.place.delete(key)
    vault.done("restore", "--yes", "--only", "blobs", "--no-safety-backup")
    assert vault.site.transactions() == before
    for key in vault.place.objects():
        vault.place.delete(key)
    vault.done("restore", "--yes", "--only", "storage", "--no-safety-backup", "--replace")
    assert vault.place.objects() == {}


class Encrypting(Faults):
    """What a service does that keeps objects encrypted by a key of its customer: nothing without that."""

    def __init__(self, key: str) -> None:
        self.key, self.operations = key, list[str]()

    def act(self, request: Any, send: Callable[[Any], Any]) -> Any:
        self.operations.append(request.method)
        given = [request.headers.get("x-amz-server-side-encryption-customer-key")]
        if "x-amz-copy-source" in request.headers:
            given.append(request.headers.get("x-amz-copy-source-server-side-encryption-customer-key"))
        assert set(given) == {self.key.encode()} or "list-type" in request.url, request.headers
        return send(request)


def test_the_key_of_a_customer_goes_with_every_request(make: Make, moto: Service, tmp_path: Path) -> None:
    key = base64.b64encode(bytes(range(32))).decode()
    vault = make(key=key)
    with behind(service := Encrypting(key)):
        vault.created()
        copy = vault.copy(tmp_path / "copy", Place(moto, moto.bucket(), ""))
        arguments = ("restore", "--target", tmp_path / "copy" / "zope.conf", "--yes", "--no-safety-backup")
        done = vault.done(*arguments)
        assert service.operations.count("PUT") == 4 and service.operations.count("GET") >= 4
        copy.place.put(next(iter(copy.place.objects())), b"another object")
        vault.done(*arguments, "--replace-blobs")
        assert service.operations.count("PUT") == 6
    assert copy.transactions() == vault.site.transactions()
    stored = b"".join(path.read_bytes() for path in vault.repository.rglob("*.json"))
    assert key not in done.out + done.err + vault.done("plan", "-v").out and key.encode() not in stored


def test_the_wrapper_of_a_zeo_client_is_sent_to_the_server(make: Make, tmp_path: Path) -> None:
    """The storage is at the server, and only the client's configuration names the bucket."""
    vault = make()
    client, server = tmp_path / "client.conf", tmp_path / "zeo.conf"
    section = "<zeoclient>\nserver localhost:8100\n</zeoclient>"
    client.write_text(
        re.sub("<filestorage>.*</filestorage>", section, vault.conf.read_text(), flags=re.DOTALL)
    )
    planned = vault.bare("--repository", vault.repository, "--zope-conf", client, "plan")
    assert "in which this <s3blobstorage> contains the <filestorage> of the server's zeo.conf" in planned.out
    assert vault.bare("--repository", vault.repository, "--zope-conf", client, "create").status == 2
    server.write_text(f"<zeo>\naddress localhost:8100\n</zeo>\n{vault.site.base}")
    refused = vault.bare("--repository", vault.repository, "--zeo-conf", server, "create", "--json")
    assert (refused.status, refused.error["kind"]) == (
        2,
        "configuration",
    ) and "no blob directory is configured" in refused.error["message"]
    server.write_text(f"%import zodb_s3blobs\n<zeo>\naddress localhost:8100\n</zeo>\n{vault.site.section}")
    done = vault.bare("--repository", vault.repository, "--zeo-conf", server, "create", "--json")
    assert done.status == 0 and done.document["databases"][0]["blobs"] == {"added": 4, "count": 4}
    assert vault.reads(vault.restored()) == vault.site.transactions()


def test_doctor_asks_the_bucket(make: Make) -> None:
    vault = make()
    assert f"s3://{vault.place.bucket}/plone: there are blobs" in vault("doctor").out
    vault.conf.write_text(vault.conf.read_text().replace(vault.place.bucket, "nobodys-bucket"))
    done = vault("doctor", "--json")
    (check,) = [check for check in done.document["checks"] if check["name"] == "blobs main"]
    assert (done.status, check["ok"], check["hint"]) == (1, False, buckets.CORRECT)


@pytest.mark.parametrize("faults", [EachFailsOnce, EachWriteIsLost, EachReadIsCut])
def test_a_service_that_stumbles_changes_nothing(
    make: Make, moto: Service, tmp_path: Path, faults: type[Faults]
) -> None:
    vault = make()
    with behind(faults()):
        vault.created()
        copy = vault.copy(tmp_path / "copy", Place(moto, moto.bucket(), ""))
        for _ in range(2):
            vault.done("restore", "--target", tmp_path / "copy" / "zope.conf", "--yes", "--no-safety-backup")
    assert vault.reads(vault.restored()) == vault.site.transactions() == copy.transactions()
    assert copy.place.objects() == vault.place.objects()


def test_two_restores_within_a_second_keep_what_each_replaced(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, now = make("sqlite"), clock.now()
    vault.created()
    monkeypatch.setattr(clock, "now", lambda: now)
    kept = [
        vault.done("restore", "--yes", "--replace", "--no-safety-backup", "--json").document["kept"]
        for _ in range(2)
    ]
    assert all(Path(path).exists() for some in kept for path in some) and not set(kept[0]) & set(kept[1])
