"""Every command on a repository in S3, against both services."""

from __future__ import annotations

from pathlib import Path

import factories
import oracle
import pytest
from commandline import Outcome, Vault
from services.s3 import Service


class Remote:
    """A site of nine transactions and a repository in a bucket of its own."""

    def __init__(self, service: Service, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.service, self.bucket = service, service.bucket()
        self.files = factories.populate(directory / "site")
        self.location = f"s3://{self.bucket}/some/place"
        for name, value in service.variables(self.location).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        self._vault = Vault(directory, capsys)

    def __call__(self, *arguments: object) -> Outcome:
        return self._vault.bare("--data-fs", self.files.data_fs, "--blob-dir", self.files.blob_dir, *arguments)

    def done(self, *arguments: object) -> Outcome:
        outcome = self(*arguments)
        assert outcome.status == 0, outcome
        return outcome

    def stored(self, prefix: str = "") -> list[str]:
        """Return the keys of the bucket itself."""
        pages = self.service.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]


@pytest.fixture
def remote(s3: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Remote:
    return Remote(s3, tmp_path / "work", monkeypatch, capsys)


def test_a_site_is_backed_up_verified_and_restored(remote: Remote, tmp_path: Path) -> None:
    init = remote.done("repository", "init")
    assert ("no conditional writes" in init.err) is not remote.service.conditional
    first = remote.done("create", "--name", "one", "--json").document
    with factories.Site(remote.files.data_fs.parent) as site:
        site.put(news="Third news", photo=factories.noise(4000, 9))
    second = remote.done("create", "--json").document
    assert (first["how"], second["how"], second["reason"]["code"]) == ("full", "incremental", "continued")
    listed = remote.done("list", "--json").document["backups"]
    assert [one["id"] for one in listed] == [second["id"], first["id"]]
    for level in ("objects", "bytes", "records", "restore"):
        assert remote.done("verify", "--level", level, "--json").document["ok"]
    remote.done("restore", "--output", tmp_path / "out", "--yes")
    assert (tmp_path / "out" / "Data.fs").read_bytes() == remote.files.data_fs.read_bytes()
    wanted = oracle.blob_files(remote.files.data_fs, remote.files.blob_dir)
    assert oracle.blob_files(tmp_path / "out" / "Data.fs", tmp_path / "out" / "blobs") == wanted
    remote.done("delete", "--yes", first["id"])
    remote.done("undelete", first["id"])
    assert len(remote.done("log", "--json").document["transactions"]) == 10
    assert all(key.startswith("some/place/") for key in remote.stored())
    assert not [key for key in remote.stored() if "/running/" in key]


def test_a_second_create_finds_the_site_locked(remote: Remote) -> None:
    from zodb_vault.model import clock
    from zodb_vault.repository.running import Run

    remote.done("repository", "init")
    store = remote.service.store(remote.bucket, "some/place")
    run = Run.start(store, "default", "create", "20260101T000000Z-abcdef", [])
    assert clock.parse(run.marker.heartbeat) <= store.clock()
    outcome = remote("create")
    assert outcome.status == 11, outcome
    run.finish()
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
        ("ZODB_VAULT_REPOSITORY", "s3://no-such-bucket-anywhere/x", 1, "make the bucket"),
        ("ZODB_VAULT_REPOSITORY", "s3://bucket/with blanks", 2, "write s3://bucket/prefix"),
        ("ZODB_VAULT_REPOSITORY_S3_ENDPOINT", "ftp://127.0.0.1", 2, "has to be a URL"),
        ("ZODB_VAULT_REPOSITORY_S3_ENDPOINT", "http://user:hunter2@127.0.0.1", 2, "holds credentials"),
        ("ZODB_VAULT_REPOSITORY_S3_ADDRESSING_STYLE", "paths", 2, "one of auto, path, virtual"),
        ("ZODB_VAULT_REPOSITORY_S3_OBJECT_LOCK", "compliance", 2, "both object_lock and object_lock_for"),
        ("ZODB_VAULT_REPOSITORY_S3_PROFILE", "nobody", 1, "check"),
    ],
)
def test_what_is_set_wrongly_is_said(
    moto: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    setting: str, value: str, status: int, said: str,
) -> None:  # fmt: skip
    remote = Remote(moto, tmp_path / "work", monkeypatch, capsys)
    monkeypatch.setenv(setting, value)
    outcome = remote("repository", "info")
    assert outcome.status == status, outcome
    assert said in outcome.err
    assert "hunter2" not in outcome.err


def test_an_empty_place_has_no_repository(remote: Remote) -> None:
    assert remote("list").status == 10
    remote.done("repository", "init")
    assert remote("repository", "init").status == 1
