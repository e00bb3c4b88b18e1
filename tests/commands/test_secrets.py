"""No secret leaves the process that needs it: every one is set, every command runs, and everything that others could see is searched."""

from __future__ import annotations

import threading
from pathlib import Path

import factories
import keys
import pytest
from commandline import process
from services.s3 import SECRET_KEY, Service

TOKEN = "a-session-token-that-is-secret"


class Watch(threading.Thread):
    """Looks at the arguments of all processes all the time."""

    def __init__(self) -> None:
        super().__init__()
        self._done = threading.Event()
        self.seen: set[bytes] = set()

    def run(self) -> None:
        while not self._done.wait(0.005):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    continue  # it has just ended

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()


@pytest.mark.parametrize("place", ["s3", "directory"])
def test_no_secret_is_seen_in_arguments_output_or_the_repository(rclone: Service, tmp_path: Path, place: str) -> None:
    files = factories.populate(tmp_path / "site")
    recipient, identity = keys.x25519(tmp_path / "identity")
    private = identity.read_text().splitlines()[-1]
    signer, signing = keys.ssh(tmp_path / "signing")
    bucket = rclone.bucket()
    location = f"s3://{bucket}/place" if place == "s3" else str(tmp_path / "repository")
    variables = rclone.variables(location) | {
        "ZODB_VAULT_REPOSITORY_ENCRYPTION_RECIPIENTS": recipient, "ZODB_VAULT_IDENTITY_COMMAND": f"sleep 0.2; printf '%s\\n' {private}",
        "ZODB_VAULT_REPOSITORY_SIGNING_KEY": str(signing), "ZODB_VAULT_REPOSITORY_SIGNING_SIGNERS": signer,
        "ZODB_VAULT_DATA_FS": str(files.data_fs), "ZODB_VAULT_BLOB_DIR": str(files.blob_dir), "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }  # fmt: skip
    wrong = {"AWS_SECRET_ACCESS_KEY": "another-secret-key", "ZODB_VAULT_IDENTITY_COMMAND": f"echo {private[:-4]}; exit 1"}
    secrets = [SECRET_KEY, wrong["AWS_SECRET_ACCESS_KEY"], private[:-4], TOKEN, signing.read_text().splitlines()[2]]
    printed = ""
    with Watch() as watch:
        for command in (
            ("repository", "check"), ("repository", "init"), ("create", "-v"), ("create", "--json"), ("list", "--json"), ("show", "latest", "--json"),
            ("log", "--json"), ("verify", "-v"), ("doctor", "--json"), ("restore", "--output", str(tmp_path / "out"), "--yes", "--json"),
            ("repository", "info", "--json"),
        ):  # fmt: skip
            outcome = process(*command, env=variables)
            assert outcome.status == 0, (command, outcome)
            printed += outcome.out + outcome.err
        for command in (("verify", "-v"), ("restore", "--output", str(tmp_path / "other"), "--yes", "-v"), ("create", "-v")):
            bad = variables | (wrong if place == "s3" else {"ZODB_VAULT_IDENTITY_COMMAND": wrong["ZODB_VAULT_IDENTITY_COMMAND"]})
            outcome = process(*command, env=bad | {"AWS_SESSION_TOKEN": TOKEN})
            printed += outcome.out + outcome.err
    assert any(b"ageworker" in one for one in watch.seen), "the watch looks at all processes"
    # the service itself, which knows no other way to be told
    arguments = {one for one in watch.seen if b"--auth-key" not in one}
    stored = [path.read_bytes() for folder in ("repository", "cache", "out") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    client = rclone.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        stored += [client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in page.get("Contents", ())]
    for secret in secrets:
        assert secret not in printed
        assert not [one for one in arguments if secret.encode() in one]
        assert not any(secret.encode() in data for data in stored)
