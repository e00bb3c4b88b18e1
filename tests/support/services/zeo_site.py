"""A ZEO site: ``runzeo`` with several storages, at a socket or a port, and the zope.conf of its clients."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

DEADLINE = 30.0
STORAGE = (
    "<filestorage {name}>\n  path {directory}/{folder}/Data.fs\n  blob-dir {directory}/{folder}/blobs\n"
    "</filestorage>\n"
)
CLIENT = """\
<zodb_db {database}>
  mount-point /{database}
  <zeoclient>
    server {address}
    storage {storage}
    blob-dir {blobs}
    {options}
  </zeoclient>
</zodb_db>
"""


class Zeo:
    """The configuration of a server with one storage or several; ``running`` starts and stops it."""

    def __init__(self, directory: Path, storages: dict[str, str], address: str) -> None:
        self.directory, self.storages, self.address = directory, storages, address
        self.conf = directory / "zeo.conf"
        directory.mkdir(exist_ok=True)
        for folder in storages.values():
            (directory / folder).mkdir(exist_ok=True)
        sections = "".join(
            STORAGE.format(name=name, folder=folder, directory=directory) for name, folder in storages.items()
        )
        self.conf.write_text(f"<zeo>\n  address {address}\n</zeo>\n{sections}")

    def data_fs(self, storage: str) -> Path:
        """Return the path of a storage."""
        return self.directory / self.storages[storage] / "Data.fs"

    def blob_dir(self, storage: str) -> Path:
        """Return the path of the blobs of a storage."""
        return self.directory / self.storages[storage] / "blobs"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the server."""
        log = self.directory / "zeo.log"
        with log.open("ab") as stream:
            server = subprocess.Popen(
                [sys.executable, "-m", "ZEO.runzeo", "-C", self.conf],
                stdout=stream,
                stderr=stream,
                cwd=self.directory,
            )
        try:
            self._wait(server, log)
            yield
        finally:
            server.terminate()
            server.wait(DEADLINE)

    def _wait(self, server: subprocess.Popen[bytes], log: Path) -> None:
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            with contextlib.suppress(OSError), self._connected():
                return
            if server.poll() is not None:
                break
            time.sleep(0.02)
        pytest.fail(f"the ZEO server did not start:\n{log.read_text()}")

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        if self.address.startswith("/"):
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(self.address)
                yield
        else:
            host, _, port = self.address.rpartition(":")
            with socket.create_connection((host or "localhost", int(port))):
                yield

    def client_conf(
        self, name: str, *, databases: dict[str, str], shared: bool = False, persistent: bool = False
    ) -> Path:
        """Write the zope.conf of a client: its databases by name, and the storage of each."""
        home = self.directory / name
        home.mkdir(exist_ok=True)
        options = ["shared-blob-dir on"] if shared else []
        options += [f"client {name}", f"var {home}"] if persistent else []
        text = "".join(
            CLIENT.format(
                database=database,
                storage=storage,
                address=self.address,
                options="\n    ".join(options),
                blobs=self.blob_dir(storage) if shared else home / f"blobs-{storage}",
            )
            for database, storage in databases.items()
        )
        conf = home / "zope.conf"
        conf.write_text(f"instancehome {home}\n{text}")
        return conf


def free_port() -> int:
    """Return a port without a listener."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture
def zeo_directory() -> Iterator[Path]:
    """A directory with a path that is short enough for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="zeo-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(params=["socket", "port"])
def zeo(request: pytest.FixtureRequest, zeo_directory: Path) -> Zeo:
    """A server with the storages ``1`` and ``catalog``, not started yet, at a socket or a port."""
    address = str(zeo_directory / "zeo.sock") if request.param == "socket" else f"localhost:{free_port()}"
    return Zeo(zeo_directory, {"1": "main", "catalog": "catalog"}, address)
