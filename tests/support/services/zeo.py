"""ZEO servers: real ``runzeo`` processes on sockets in a short directory, ended with the test."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from site_factory import SiteFiles

DEADLINE = 30.0


class ZeoServer:
    """A server of one FileStorage that can be restarted; ``zope_conf`` is of a client with a blob cache."""

    def __init__(self, files: SiteFiles, directory: Path) -> None:
        self.files, self.directory = files, directory
        # the name of a socket must not be long
        self._short = Path(tempfile.mkdtemp(prefix="zeo-"))
        self.socket, self.zeo_conf, self.zope_conf = (
            self._short / "s",
            directory / "zeo.conf",
            directory / "zope.conf",
        )
        self.log = directory / "zeo.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.zeo_conf.write_text(
            f"<zeo>\naddress {self.socket}\n</zeo>\n<filestorage 1>\npath {files.data_fs}\n"
            f"blob-dir {files.blob_dir}\n</filestorage>\n"
        )
        self.client()

    def client(self, *lines: str, package: bool = False, wrapper: str = "") -> Path:
        """Write the configuration of a client with more lines in its section.

        ``package``: with ZEO's own section, which waits only one second.
        """
        kind, more = ("clientstorage", ["wait-timeout 1"]) if package else ("zeoclient", [])
        section = "\n".join([f"<{kind}>", f"server {self.socket}", *more, *lines, f"</{kind}>"])
        if wrapper:
            section = f"<{wrapper}>\n{section}\n</{wrapper}>"
        imports = "%import ZEO\n" * package + f"%import zc.{wrapper}\n" * bool(wrapper)
        self.zope_conf.write_text(f"{imports}<zodb_db main>\nmount-point /\n{section}\n</zodb_db>\n")
        return self.zope_conf

    def start(self) -> None:
        """Start the server and wait until it listens."""
        self.socket.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "ZEO.runzeo", "-C", str(self.zeo_conf)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + DEADLINE
        while not self.socket.exists():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(DEADLINE)
            self.process = None

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the server for the time of the block."""
        self.stop()
        yield
        self.start()

    @contextlib.contextmanager
    def storage(self) -> Iterator[Any]:
        """Open a client with a blob cache of its own."""
        from ZEO.ClientStorage import ClientStorage

        cache = tempfile.mkdtemp(prefix="cache-", dir=self.directory)
        with contextlib.closing(ClientStorage(str(self.socket), blob_dir=cache, wait_timeout=10)) as storage:
            yield storage

    def close(self) -> None:
        """End everything."""
        self.stop()
        shutil.rmtree(self._short)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[SiteFiles], ZeoServer]]:
    """Start servers for sites."""
    servers: list[ZeoServer] = []

    def started(files: SiteFiles) -> ZeoServer:
        directory = tmp_path / f"zeo-{len(servers)}"
        directory.mkdir()
        servers.append(ZeoServer(files, directory))
        servers[-1].start()
        return servers[-1]

    yield started
    for server in servers:
        server.close()
