"""Every command on a repository in S3, against both services."""

from __future__ import annotations

import hashlib
import stat
from datetime import timedelta
from pathlib import Path

import independent_reader
import key_pairs
import pytest
import site_factory
from botocore.exceptions import ClientError
from s3_vault import Remote
from services.s3 import Service
from services.s3_requests import Denied, behind, counted

from zodb_vault.runtime import clock


@pytest.fixture
def remote(
    s3: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Remote:
    return Remote(s3, tmp_path / "work", monkeypatch, capsys)


def test_a_site_is_backed_up_verified_and_restored(remote: Remote, tmp_path: Path) -> None:
    init = remote.done("repository", "init")
    assert ("does not support all conditional writes" in init.err) is not remote.service.conditional
    first = remote.done("create", "--name", "one", "--json").document
    with site_factory.Site(remote.files.data_fs.parent) as site:
        site.put(news="Third news", photo=site_factory.noise(4000, 9))
    second = remote.done("create", "--json").document
    assert (first["how"], second["how"], second["reason"]["code"]) == ("full", "incremental", "continued")
    listed = remote.done("list", "--json").document["backups"]
    assert [one["id"] for one in listed] == [second["id"], first["id"]]
    for level in ("objects", "bytes", "records", "restore"):
        assert remote.done("verify", "--level", level, "--json").document["ok"]
    remote.done("restore", "--output", tmp_path / "out", "--yes")
    assert (tmp_path / "out" / "Data.fs").read_bytes() == remote.files.data_fs.read_bytes()
    wanted = independent_reader.blob_files(remote.files.data_fs, remote.files.blob_dir)
    assert independent_reader.blob_files(tmp_path / "out" / "Data.fs", tmp_path / "out" / "blobs") == wanted
    remote.done("delete", "--yes", first["id"])
    remote.done("undelete", first["id"])
    assert len(remote.done("log", "--json").document["transactions"]) == 10
    assert all(key.startswith("some/place/") for key in remote.stored())
    assert not [key for key in remote.stored() if "/running/" in key]


def test_an_encrypted_site_is_backed_up_without_the_key_and_restored_with_it(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipient, identity = key_pairs.x25519(tmp_path / "identity")
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY_ENCRYPTION_RECIPIENTS", recipient)
    remote.done("repository", "init")
    remote.done("create")
    with site_factory.Site(remote.files.data_fs.parent) as site:
        site.put(news="Third news", photo=site_factory.noise(4000, 9))
    assert remote.done("create", "--json").document["how"] == "incremental"
    for level in ("objects", "bytes"):
        remote.done("verify", "--level", level)
    assert remote("restore", "--output", tmp_path / "out", "--yes").status == 12
    monkeypatch.setenv("ZODB_VAULT_IDENTITY_FILE", str(identity))
    for level in ("records", "restore"):
        remote.done("verify", "--level", level)
    remote.done("restore", "--output", tmp_path / "out", "--yes")
    assert (tmp_path / "out" / "Data.fs").read_bytes() == remote.files.data_fs.read_bytes()
    wanted = independent_reader.blob_files(remote.files.data_fs, remote.files.blob_dir)
    assert independent_reader.blob_files(tmp_path / "out" / "Data.fs", tmp_path / "out" / "blobs") == wanted


def test_a_second_create_finds_the_site_locked(remote: Remote) -> None:
    from zodb_vault.repository.markers import RunMarker

    remote.done("repository", "init")
    store = remote.service.store(remote.bucket, "some/place")
    run = RunMarker.start(store, "default", "create", "20260101T000000Z-abcdef", [])
    assert clock.parse(run.marker.heartbeat) <= store.clock()
    outcome = remote("create")
    assert outcome.status == 11, outcome
    run.remove()
    remote.done("create")


def test_damage_in_the_bucket_is_found(remote: Remote) -> None:
    remote.done("repository", "init")
    remote.done("create")
    client, key = remote.service.client(), next(key for key in remote.stored() if "/objects/" in key)
    data = client.get_object(Bucket=remote.bucket, Key=key)["Body"].read()
    client.put_object(Bucket=remote.bucket, Key=key, Body=data[:-1] + bytes([data[-1] ^ 1]))
    assert remote("verify", "--level", "objects").status == 0
    outcome = remote("verify", "--level", "bytes")
    assert outcome.status == 4
    assert key.rpartition("/")[2] in outcome.out + outcome.err
    client.delete_object(Bucket=remote.bucket, Key=key)
    assert remote("verify", "--level", "objects").status == 4


@pytest.mark.parametrize(
    ("setting", "value", "status", "said"),
    [
        ("ZODB_VAULT_REPOSITORY", "s3://no-such-bucket-anywhere/x", 1, "create the bucket"),
        ("ZODB_VAULT_REPOSITORY", "s3://bucket/with blanks", 2, "write s3://bucket/prefix"),
        ("ZODB_VAULT_REPOSITORY_S3_ENDPOINT", "ftp://127.0.0.1", 2, "has to be a URL"),
        ("ZODB_VAULT_REPOSITORY_S3_ENDPOINT", "http://user:hunter2@127.0.0.1", 2, "contains credentials"),
        ("ZODB_VAULT_REPOSITORY_S3_ADDRESSING_STYLE", "paths", 2, "one of auto, path, virtual"),
        ("ZODB_VAULT_REPOSITORY_S3_OBJECT_LOCK", "compliance", 2, "both object_lock and object_lock_for"),
        ("ZODB_VAULT_REPOSITORY_S3_PROFILE", "nobody", 1, "check"),
    ],
)
def test_what_is_set_wrongly_is_said(
    moto: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    value: str,
    status: int,
    said: str,
) -> None:
    remote = Remote(moto, tmp_path / "work", monkeypatch, capsys)
    monkeypatch.setenv(setting, value)
    outcome = remote("repository", "info")
    assert outcome.status == status, outcome
    assert said in outcome.err
    assert "hunter2" not in outcome.err


def test_an_empty_location_has_no_repository(remote: Remote) -> None:
    assert remote("list").status == 10
    remote.done("repository", "init")
    assert remote("repository", "init").status == 1


# the budget


def test_list_is_one_list_with_a_warm_cache_and_an_unchanged_backup_six_requests(
    moto: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = Remote(moto, tmp_path / "work", monkeypatch, capsys)
    remote.done("repository", "init")
    for number in range(4):
        remote.done("create", "--name", f"number {number}")
    copy(remote, 96)
    assert len(remote.done("list", "--json").document["backups"]) == 100
    with counted() as counts:
        assert len(remote.done("list", "--json").document["backups"]) == 100
    assert counts == {"ListObjectsV2": 2, "GetObject": 1}, (
        "a list of the site, one of all, and repository.json"
    )
    with counted() as counts:
        assert remote.done("create", "--json").document["reason"]["code"] == "unchanged"
    # one of them lists the sites of the repository: the same source may also be backed up as another one
    assert counts.total() <= 7, counts


def copy(remote: Remote, number: int) -> None:
    """Store copies of the newest manifest under later ids, each with a label."""
    import msgspec

    from zodb_vault.operations.catalog import Catalog
    from zodb_vault.repository.ids import new_id
    from zodb_vault.repository.repository import Repository

    repository = Repository.open(remote.service.store(remote.bucket, "some/place"))
    catalog = Catalog(repository, "default")
    newest, ids = catalog.backup(catalog.listing.backups[-1]).manifest, list(catalog.listing.backups)
    for n in range(number):
        ids.append(new_id(ids, clock.parse(newest.created_at)))
        repository.commit(msgspec.structs.replace(newest, id=ids[-1]))
        repository.labels.add("default", ids[-1], "name", f"copy {n}", catalog.listing)


def test_what_exists_comes_from_the_list_and_what_is_proven_from_the_store(remote: Remote) -> None:
    remote.done("repository", "init")
    ids = [remote.done("create", "--json").document["id"] for _ in range(2)]
    remote.done("list")
    client = remote.service.client()
    manifests = {one: f"some/place/sites/default/backups/{one}.json" for one in ids}
    client.delete_object(Bucket=remote.bucket, Key=manifests[ids[0]])
    data = client.get_object(Bucket=remote.bucket, Key=manifests[ids[1]])["Body"].read()
    client.put_object(
        Bucket=remote.bucket, Key=manifests[ids[1]], Body=data.replace(b"complete", b"complate")
    )
    assert [one["id"] for one in remote.done("list", "--json").document["backups"]] == ids[1:]
    assert remote("verify", ids[1]).status == 4
    assert remote("restore", ids[1], "--output", "out", "--yes").status == 4


def test_a_cache_that_is_damaged_or_cannot_be_written_changes_nothing(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    remote.done("repository", "init")
    remote.done("create", "--name", "one")
    before = remote.done("list", "--json").document
    for path in remote.cache.rglob("*.json"):
        path.write_bytes(path.read_bytes().replace(b"o", b"0"))
    assert remote.done("list", "--json").document == before
    assert stat.S_IMODE(remote.cache.stat().st_mode) == 0o700
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert remote.done("list", "--json").document == before


def test_verifying_ten_thousand_objects_is_a_list_of_a_dozen_requests(
    moto: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from moto.s3.models import s3_backends

    remote = Remote(moto, tmp_path / "work", monkeypatch, capsys)
    remote.done("repository", "init")
    remote.done("create")
    there = [key for key in remote.stored() if "/objects/" in key or "/meta/" in key]
    for n in range(10_000 - len(there)):  # on its disk: through the service it would take a minute
        s3_backends["123456789012"]["aws"].put_object(
            remote.bucket, f"some/place/objects/{n % 256:02x}/{n:064}", b""
        )
    with counted() as counts:
        checked = remote.done("verify", "--level", "objects", "--json").document
    assert checked["ok"]
    # that of the sites is one of them, and three of the site: its backups, what is damaged, and the result
    assert 10 <= counts["ListObjectsV2"] <= 12 + 4, counts
    assert counts.total() <= 24, (
        "beside it a few are asked for what describes the backup, and for the note that it was verified"
    )
    moto.client().delete_object(Bucket=remote.bucket, Key=max(there))
    assert remote("verify", "--level", "objects").status == 4


# check


def test_check_tries_everything_before_and_after_init_and_leaves_nothing(remote: Remote) -> None:
    before = remote.done("repository", "check", "--json").document["checks"]
    assert all(check["ok"] for check in before)
    assert remote.stored() == ([] if remote.service.conditional else ["some/place/.mutex/keep"])
    remote.done("repository", "init")
    after = {
        check["name"]: check["message"]
        for check in remote.done("repository", "check", "--json").document["checks"]
    }
    assert ("cannot do conditional_put" in after["repository service"]) is not remote.service.conditional
    assert list(after) == ["repository", "repository access", "repository service", "clock"]
    info = remote.done("repository", "info", "--json").document
    assert bool(info["limits"]) is not remote.service.conditional
    names = {check["name"] for check in remote.done("doctor", "--json").document["checks"]}
    assert {"package boto3", "repository access", "repository service"} <= names


def test_a_service_that_does_less_than_it_did_is_a_finding(remote: Remote) -> None:
    remote.done("repository", "init")
    client, key = remote.service.client(), "some/place/repository.json"
    info = client.get_object(Bucket=remote.bucket, Key=key)["Body"].read()
    lines = info.replace(b'"conditional_put":false', b'"conditional_put":true').splitlines(keepends=True)[:-1]
    body = b"".join(lines)
    client.put_object(
        Bucket=remote.bucket,
        Key=key,
        Body=body + b'"self_sha256":"%s"}\n' % hashlib.sha256(body).hexdigest().encode(),
    )
    outcome = remote("repository", "check")
    assert outcome.status == (0 if remote.service.conditional else 1)
    assert ("worked when the repository was created" in outcome.out) is not remote.service.conditional


# append only, and object lock


def test_create_needs_to_read_what_describes_to_write_and_to_remove_its_marker_and_nothing_else(
    moto: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = Remote(moto, tmp_path / "work", monkeypatch, capsys)
    monkeypatch.setenv(
        "ZODB_VAULT_REPOSITORY_ENCRYPTION_RECIPIENTS", key_pairs.x25519(tmp_path / "identity")[0]
    )
    remote.done("repository", "init")
    place = "some/place/"
    policy = Denied(
        remote.bucket,
        [
            ("GET", place + r"(repository\.json|sites/|meta/)"),
            ("LIST", place + "sites/"),
            ("PUT", place),
            ("DELETE", place + "sites/[^/]+/running/"),
        ],
    )
    with behind(policy):
        for number in range(3):
            remote.done("create", "--name", f"number {number}")
            with site_factory.Site(remote.files.data_fs.parent) as site:
                site.put(news=f"News {number}", photo=site_factory.noise(4000, number))
        remote.done("create", "--full")
        remote.done("list")
        assert not policy.denied
        assert remote("delete", "--yes", "number 0").status == 1
        assert remote("restore", "--output", tmp_path / "out", "--yes").status in (1, 12)
    assert policy.denied
    assert len(remote.done("list", "--json").document["backups"]) == 4


@pytest.mark.parametrize("mode", ["governance", "compliance"])
def test_what_is_stored_is_locked_and_markers_are_not(
    moto: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: str,
) -> None:
    remote = Remote(moto, tmp_path / "work", monkeypatch, capsys, ObjectLockEnabledForBucket=True)
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY_S3_OBJECT_LOCK", mode)
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY_S3_OBJECT_LOCK_FOR", "30d")
    remote.done("repository", "check")
    remote.done("repository", "init")
    remote.done("create", "--name", "one")
    first = remote.done("create", "--json").document["id"]
    # a quarter longer, so that not each backup has to renew it
    client, until = moto.client(), clock.now() + timedelta(days=37.5)
    assert not [key for key in remote.stored() if "/running/" in key or "_doctor" in key]
    for key in remote.stored():
        kept = client.head_object(Bucket=remote.bucket, Key=key)
        assert kept.get("ObjectLockMode") == mode.upper(), key
        assert abs(kept["ObjectLockRetainUntilDate"] - until) < timedelta(minutes=5)
        version = kept["VersionId"]
        with pytest.raises(ClientError):
            client.delete_object(Bucket=remote.bucket, Key=key, VersionId=version)
    remote.done("delete", "--yes", first)
    remote.done("undelete", first)
    remote.done("verify", first)


def test_object_lock_on_a_bucket_without_it_is_said(
    moto: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = Remote(moto, tmp_path / "work", monkeypatch, capsys)
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY_S3_OBJECT_LOCK", "governance")
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY_S3_OBJECT_LOCK_FOR", "30d")
    outcome = remote("repository", "init")
    assert outcome.status == 1, outcome
    assert "a bucket that was created with object lock" in outcome.err


def test_prune_frees_space_and_a_copy_goes_there(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZODB_VAULT_RETENTION_GRACE", "0s")
    remote.done("repository", "init")
    ids = [remote.done("create", "--full", "--json").document["id"] for _ in range(2)]
    before = set(remote.stored("some/place/objects/"))
    remote.done("delete", "--yes", ids[0])
    remote.done("undelete", ids[0])
    remote.done("delete", "--yes", ids[0])
    swept = [remote.done("prune", "--json").document["swept"]["objects"] for _ in range(3)]
    assert swept[0] == swept[1] == 0
    gone = before - set(remote.stored("some/place/objects/"))
    assert swept[2] > len(gone) > 0
    remote.done("verify", "--all")
    local = tmp_path / "local"
    remote.done("--repository", local, "repository", "init")
    remote.done("repository", "copy", local)
    remote.done("--repository", local, "verify", ids[1])
    remote.done("--repository", local, "create")
    copied = remote.done("--repository", local, "repository", "copy", remote.location, "--json").document
    assert (len(copied["copied"]), copied["present"]) == (1, 1)
    remote.done("verify", "--all")
    assert remote.done("prune", "--json").document["keep"]
