"""Backups of zodb-pgjsonb with real PostgreSQL and S3: exactly the objects that the snapshot's rows name."""

from __future__ import annotations

import contextlib
import io
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pgjsonb_sites
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pgjsonb_sites import SMALL, PgjsonbSite, Place
from relstorage_sites import OpenRelSite
from relstorage_vault import NOISE, RelVault, by_hand, committing, pg_restore
from services.postgres import PASSWORD, Cluster, execute
from services.s3 import SECRET_KEY, Service
from ZODB.POSException import POSKeyError, UndoError

from zodb_vault.stores.retry import RetryPolicy
from zodb_vault.strategies.base import Captured
from zodb_vault.strategies.blobs import cache
from zodb_vault.strategies.blobs import s3 as buckets
from zodb_vault.strategies.postgres import scratch as postgres_scratch
from zodb_vault.strategies.sql.capture import SqlBlobCapture

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="zodb-pgjsonb needs Python 3.12")
EACH = pytest.mark.parametrize(
    ("history", "tiered"), [(False, False), (False, True), (True, False), (True, True)]
)
Make = Callable[..., RelVault]


@pytest.fixture
def make(postgres: Cluster, moto: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Make:
    """Make a site with some content."""

    def make(history: bool = False, tiered: bool = True, prefix: str = "plone") -> RelVault:
        place = Place(moto, moto.bucket(), prefix) if tiered else None
        return pgjsonb_sites.filled(
            tmp_path, capsys, PgjsonbSite(postgres.database(), history, tmp_path / "cache", place)
        )

    return make


def place_of(vault: RelVault) -> Place:
    place = vault.site.place
    assert isinstance(place, Place)
    return place


def elsewhere(
    vault: RelVault, postgres: Cluster, backup: str, directory: Path, prefix: str = "other"
) -> PgjsonbSite:
    """Get a backup back by hand, into another database of another role, another bucket and another prefix."""
    site: PgjsonbSite = vault.site
    by_hand(vault.repository, backup, directory)
    login, place = (
        postgres.database(),
        site.place and Place(site.place.service, site.place.service.bucket(), prefix),
    )
    pg_restore(directory / "database.dump", login)
    for path in sorted((directory / "blobs").rglob("*.blob")):
        assert place is not None
        oid, tid = int("".join(part[2:] for part in path.parts[-9:-1]), 16), int(path.stem, 16)
        place.put(f"blobs/{oid:016x}/{tid:016x}.blob", path.read_bytes())
    return PgjsonbSite(login, site.history, directory / "cache", place)


@contextlib.contextmanager
def asked(patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Give the addresses of the objects that are read."""
    found: list[str] = []
    open_ = buckets.BlobBucket.open

    def watched(bucket: buckets.BlobBucket, ref: Any) -> Any:
        found.append(bucket.path(ref))
        return open_(bucket, ref)

    with patch.context() as inner:
        inner.setattr(buckets.BlobBucket, "open", watched)
        yield found


@EACH
def test_a_backup_is_all_there_is(
    make: Make, postgres: Cluster, tmp_path: Path, history: bool, tiered: bool
) -> None:
    vault = make(history, tiered)
    made = vault.created()
    assert (made["status"], made["reason"]["code"], made["how"]) == ("complete", "first", "full")
    named = pgjsonb_sites.keys(vault.login)
    assert made["databases"][0]["blobs"] == ({"added": 4, "count": 4} if tiered else None) and len(named) == (
        4 if tiered else 0
    )
    report = vault.done("verify", "--json").document
    assert (report["damage"], report["source"]) == ([], [])
    assert report["checked"]["blobs in the dump"] == (1 if tiered else 5)
    found = elsewhere(vault, postgres, made["id"], tmp_path / "by hand")
    assert pgjsonb_sites.rows(found.login) == pgjsonb_sites.rows(vault.login)
    assert pgjsonb_sites.revisions(found) == pgjsonb_sites.revisions(vault.site)
    assert pgjsonb_sites.state(found) == pgjsonb_sites.state(vault.site)
    if tiered:
        assert found.place is not None and found.place.objects() == place_of(vault).objects()
    with found.opened() as opened:
        opened.put(more="and goes on", another=NOISE[4])


@EACH
def test_what_is_committed_while_it_runs_is_there_or_not(
    make: Make, postgres: Cluster, tmp_path: Path, history: bool, tiered: bool
) -> None:
    vault = make(history, tiered)
    with committing(vault.site):
        backups = [vault.created() for _ in range(3)]
    assert [one["reason"]["code"] for one in backups] == ["first", "continued", "continued"]
    assert vault.done("verify", "--all", "--json").document
    for made in backups[1:]:
        found = elsewhere(vault, postgres, made["id"], tmp_path / made["id"])
        named = pgjsonb_sites.keys(found.login)
        assert len(named) == (made["databases"][0]["blobs"]["count"] if tiered else 0)
        assert set(pgjsonb_sites.state(found)) >= {"title", "number"}
        assert len(pgjsonb_sites.revisions(found)) >= len(named)


def test_an_object_that_a_backup_has_is_not_read_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = make()
    first = vault.created()["databases"][0]["blobs"]
    with asked(monkeypatch) as read:
        again = vault.created()
        assert (read, again["how"], again["databases"][0]["blobs"]) == (
            [],
            "incremental",
            {"added": 0, "count": first["count"]},
        )
        with vault.site.opened() as opened:
            opened.put(logo=NOISE[5])
        assert vault.created()["databases"][0]["blobs"] == {"added": 1, "count": first["count"] + 1}
        newest = pgjsonb_sites.keys(vault.login)[-1]
        assert read == [f"s3://{place_of(vault).bucket}/plone/{newest}"]


def test_a_key_that_is_gone_is_missing_and_found_when_it_is_back(make: Make) -> None:
    vault = make()
    place, key = place_of(vault), pgjsonb_sites.keys(vault.login)[1]
    content = place.objects()[key]
    place.delete(key)
    done = vault("create", "--json")
    assert (done.status, done.document["status"]) == (3, "incomplete")
    (row,) = done.document["databases"][0]["missing"]
    assert row["path"] == f"s3://{place.bucket}/plone/{key}"
    assert (f"{int(row['oid'], 16):016x}", f"{int(row['tid'], 16):016x}.blob") == tuple(key.split("/")[1:])
    assert vault.done("verify", done.document["id"], "--json").document["damage"] == []
    place.put(key, content)
    made = vault.created()
    assert (made["status"], made["databases"][0]["blobs"]["added"]) == ("complete", 1)


def test_an_object_of_another_length_is_not_the_blob(make: Make) -> None:
    vault = make()
    place, key = place_of(vault), pgjsonb_sites.keys(vault.login)[0]
    place.put(key, b"x" * 4999)
    done = vault("create", "--json")
    assert (done.status, done.document["status"]) == (3, "incomplete")
    (row,) = done.document["databases"][0]["missing"]
    assert row["path"] == f"s3://{place.bucket}/plone/{key} (4999 bytes, the database says 5000)"


def test_what_no_row_names_is_not_copied(make: Make) -> None:
    vault = make(prefix="plone")
    place = place_of(vault)
    place.put("blobs/00000000000000ff/03ffffffffffffff.blob", b"left by a transaction that was aborted")
    other = place._replace(prefix="plone2")
    for key, data in place.objects().items():
        other.put(key, data[::-1])
    count = len(pgjsonb_sites.keys(vault.login))
    assert vault.created()["databases"][0]["blobs"]["count"] == count
    kept = blobs_of(vault)
    assert kept == {data for key, data in place.objects().items() if "00ff" not in key}


def test_a_blob_that_is_nowhere_is_missing(make: Make) -> None:
    vault = make()
    execute(vault.login, "DELETE FROM blob_state WHERE s3_key IS NULL")
    done = vault("create", "--json")
    assert (done.status, [row["path"] for row in done.document["databases"][0]["missing"]]) == (
        3,
        ["blob_state"],
    )
    execute(
        vault.login,
        "UPDATE blob_state SET s3_key = NULL WHERE s3_key = %s",
        (pgjsonb_sites.keys(vault.login)[-1],),
    )
    done = vault("create", "--json")
    assert (done.status, [row["path"] for row in done.document["databases"][0]["missing"]]) == (
        3,
        ["blob_state", "blob_state"],
    )


def test_a_blob_that_an_undo_has_lost_is_missing(make: Make) -> None:
    """zodb-pgjsonb 1.19 creates the object again under the TID of the undo, and leaves its blob."""
    vault = make(history=True)
    with vault.site.opened() as opened:
        opened.put(logo=NOISE[5])
        undo(opened)
    done = vault("create", "--json")
    assert (done.status, [row["path"] for row in done.document["databases"][0]["missing"]]) == (
        3,
        ["blob_state"],
    )
    with vault.site.opened() as opened, pytest.raises(POSKeyError):
        opened.root["logo"].open("r")


def test_a_pack_between_dump_and_copy_starts_over(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = make()
    with vault.site.opened() as opened:
        opened.put(logo=None)
        copy = SqlBlobCapture.copy_blobs
        packed: list[bool] = []

        def pack_first(capture: SqlBlobCapture) -> Captured:
            if not packed:
                packed.append(True)
                opened.pack()  # deletes rows, then objects
            return copy(capture)

        monkeypatch.setattr(SqlBlobCapture, "copy_blobs", pack_first)
        made = vault.created()
    assert packed and made["status"] == "complete"
    assert (
        made["databases"][0]["blobs"]["count"]
        == len(pgjsonb_sites.keys(vault.login))
        == len(place_of(vault).objects())
    )


def test_the_snapshot_is_let_go_before_objects_are_read(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose oldest snapshot is that of a first backup of terabytes could not clean up for hours."""
    vault = make()
    ages: list[Any] = []
    open_ = buckets.BlobBucket.open

    def watched(bucket: buckets.BlobBucket, ref: Any) -> Any:
        ours = "application_name = 'zodb-vault' AND datname = current_database()"
        ages.extend(execute(vault.login, f"SELECT backend_xmin FROM pg_stat_activity WHERE {ours}"))
        return open_(bucket, ref)

    monkeypatch.setattr(buckets.BlobBucket, "open", watched)
    vault.created()
    assert ages and all(xmin is None for (xmin,) in ages)


def test_keys_are_those_of_the_rows(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = make()
    place, key = place_of(vault), pgjsonb_sites.keys(vault.login)[0]
    place.put("blobs/moved/by/somebody", place.objects()[key])
    place.delete(key)
    execute(vault.login, "UPDATE blob_state SET s3_key = 'blobs/moved/by/somebody' WHERE s3_key = %s", (key,))
    made = vault.created()
    assert made["status"] == "complete"


@pytest.mark.parametrize("wrong", ["bucket", "endpoint", "secret"])
def test_a_bucket_that_cannot_be_read_is_an_error_that_shows_no_secret(
    make: Make, moto: Service, wrong: str, rclone: Service
) -> None:
    vault = make()
    place, conf = place_of(vault), vault.conf.read_text()
    if wrong == "bucket":
        conf = conf.replace(place.bucket, "nobodys-bucket")
    elif wrong == "endpoint":
        conf = conf.replace(moto.endpoint, "http://127.0.0.1:9")
    else:
        conf = conf.replace(moto.endpoint, rclone.endpoint).replace(SECRET_KEY, "another-secret-of-s3")
    vault.conf.write_text(conf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RetryPolicy.__init__, "__defaults__", (2, 0.0, lambda _seconds: None))
        done = vault("create", "--json")
    assert (done.status, done.error["kind"]) == (1, "source") and "zope.conf" in done.error["hint"]
    for secret in (SECRET_KEY, "another-secret-of-s3", PASSWORD):
        assert secret not in done.err + done.out
    assert vault.backups() == []


def test_secrets_are_in_nothing_that_is_stored_or_said(make: Make) -> None:
    vault = make()
    done = vault.done("create", "-v")
    shown = vault.done("show", "latest").out + vault.done("plan").out + done.out + done.err
    files = b"".join(path.read_bytes() for path in vault.repository.rglob("*.json"))
    for secret in (SECRET_KEY, PASSWORD):
        assert secret not in shown and secret.encode() not in files


def test_a_blob_in_the_database_that_is_shorter_than_it_says_is_reported(make: Make) -> None:
    vault = make()
    execute(vault.login, "UPDATE blob_state SET blob_size = blob_size + 1 WHERE data IS NOT NULL")
    vault.created()
    report = vault.done("verify", "--json").document
    assert report["damage"] == [] and [one["why"] for one in report["source"]] == [
        f"it has {len(SMALL)} bytes in the database, which says {len(SMALL) + 1}"
    ]


def test_a_pack_of_blobs_that_is_damaged_is_found(make: Make) -> None:
    from command_line import flip

    vault = make()
    made = vault.created()
    manifest = vault.done("show", made["id"], "--json").document["manifest"]
    (part,) = manifest["databases"][0]["blobs"]["tail"][0]["parts"]
    flip(vault.repository / "objects" / part["object"][:2] / part["object"])
    done = vault("verify", "--json")
    assert (done.status, done.document["ok"]) == (4, False)


def test_a_role_that_only_reads_suffices(make: Make, postgres: Cluster) -> None:
    vault = make()
    role = postgres.role("backup")
    execute(postgres.login(vault.login.name), f"GRANT pg_read_all_data TO {role}")
    vault.conf.write_text(
        vault.conf.read_text().replace(vault.login.dsn, vault.login._replace(user=role).dsn)
    )
    made = vault.created()
    assert (made["status"], made["databases"][0]["blobs"]["count"]) == ("complete", 4)
    assert vault.done("verify", "--json").document["damage"] == []


@settings(
    max_examples=2,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_backups_follow_any_history(
    postgres: Cluster, moto: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    """After any commit, undo, removal, pack and restore, a backup has exactly the objects of the rows."""
    directory, history = Path(tempfile.mkdtemp(dir=tmp_path)), data.draw(st.booleans(), label="history")
    site = PgjsonbSite(postgres.database(), history, directory / "cache", Place(moto, moto.bucket(), "plone"))
    vault = pgjsonb_sites.filled(directory, capsys, site)
    names, made = st.sampled_from(["logo", "photo", "scan", "news blob"]), vault.created()
    for number in range(data.draw(st.integers(3, 6), label="steps")):
        for action in data.draw(
            st.lists(st.sampled_from(["put", "remove", "pack", "undo"]), min_size=1, max_size=3),
            label="actions",
        ):
            with vault.site.opened() as opened:
                name = data.draw(names, label="name")
                if action == "put":
                    opened.put(**{name: b"%d" % number + NOISE[number]})
                elif action == "pack":
                    opened.pack()
                elif action == "remove" and name in opened.root:
                    opened.put(**{name: None})
                elif action == "undo" and history:
                    opened.put(
                        title=f"to be undone {number}"
                    )  # a blob whose change is undone is lost at the source
                    undo(opened)
        made = vault.created()
        assert made["databases"][0]["blobs"]["count"] == len(pgjsonb_sites.keys(vault.login))
    report = vault.done("verify", "--json").document
    assert (report["damage"], report["source"]) == ([], [])
    found = elsewhere(vault, postgres, made["id"], directory / "by hand")
    assert pgjsonb_sites.rows(found.login) == pgjsonb_sites.rows(vault.login)
    assert pgjsonb_sites.revisions(found) == pgjsonb_sites.revisions(vault.site)


@EACH
def test_level_restore_loads_all_objects_and_blobs(make: Make, history: bool, tiered: bool) -> None:
    vault = make(history, tiered)
    with vault.site.opened() as opened:
        opened.pack()
        opened.put(logo=NOISE[5])  # history or not, an earlier revision stays
    vault.created()
    before = place_of(vault).objects() if tiered else {}
    report = vault.done("verify", "--level", "restore", "--json").document
    ((objects,),), ((blobs,),) = (
        execute(vault.login, f"SELECT count(*) FROM {table}") for table in ("object_state", "blob_state")
    )
    assert (report["damage"], report["source"]) == ([], [])
    assert (report["checked"]["objects loaded"], report["checked"]["blobs opened"]) == (
        objects,
        blobs,
    ) and blobs >= 4
    if tiered:
        assert place_of(vault).objects() == before


def test_the_level_restore_misses_what_the_storage_does_not_find(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = make()
    vault.created()
    fill, current = cache.fill_cache, pgjsonb_sites.keys(vault.login)[-1]

    def lose(entry: Any, objects: Any, directory: Path, progress: Any) -> None:
        fill(entry, objects, directory, progress)
        oid, tid = current.removesuffix(".blob").split("/")[1:]
        (directory / oid.lstrip("0") / f"{tid.lstrip('0')}.blob").unlink()

    monkeypatch.setattr(cache, "fill_cache", lose)
    done = vault("verify", "--level", "restore", "--json")
    assert (done.status, [one["what"] for one in done.document["damage"]]) == (4, ["blob"])
    assert done.document["damage"][0]["tid"] == f"0x{Path(current).stem}"


def test_the_level_restore_knows_what_the_source_had_lost(
    make: Make, postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, names = make(), postgres.names()
    key = pgjsonb_sites.keys(vault.login)[-1]
    place_of(vault).delete(key)
    made = vault("create", "--json").document
    monkeypatch.setenv("ZODB_VAULT_SCRATCH_DSN", postgres.login("postgres").dsn)
    monkeypatch.setattr(postgres_scratch, "program_of", None)  # no server of our own is started
    report = vault.done("verify", made["id"], "--level", "restore", "--json").document
    assert report["damage"] == [] and [one["tid"] for one in report["source"]] == [f"0x{Path(key).stem}"]
    assert postgres.names() == names


def undo(opened: OpenRelSite) -> None:
    """Undo the newest transaction, if it can be."""
    newest = opened.db.undoLog(0, 1)
    opened.manager.begin()
    try:
        opened.db.undoMultiple([one["id"] for one in newest], opened.manager.get())
        opened.manager.commit()
    except UndoError:
        opened.manager.abort()


def blobs_of(vault: RelVault) -> set[bytes]:
    """Return the content of all blobs in the packs of the newest backup, taken out with tar."""
    import zstandard

    manifest = vault.done("show", "latest", "--json").document["manifest"]
    found = set()
    for pack in manifest["databases"][0]["blobs"]["tail"]:
        stored = [
            vault.repository / "objects" / part["object"][:2] / part["object"] for part in pack["parts"]
        ]
        tar = b"".join(
            zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True).read()
            for path in stored
        )
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            found |= {archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    return found
