"""Real processes receive a signal: in the middle of a part, of a restore, and while a service hangs."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import site_factory
from command_line import DEADLINE, Vault, command, environment
from services.s3 import Service

from zodb_vault.cli.main import run
from zodb_vault.cli.signals import SAME_SIGNAL_SECONDS
from zodb_vault.runtime import shutdown

SIZE = 12_000_000
# A blob of that size takes twelve seconds, and two minutes for a run without a signal.
SLOWLY = ["--limit-rate", "100k"]
# What a run needs to put things in order, on a busy machine.
SOON = 5.0


class Link:
    """A connection to a service that can stop answering."""

    def __init__(self, port: int) -> None:
        self._port, self.cut = port, threading.Event()
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End all connections and take no more."""
        self._listener.close()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours = self._listener.accept()[0]
                theirs = socket.create_connection(("127.0.0.1", self._port))
                self._ends += [ours, theirs]
                for source, target in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.cut.is_set():
                    return  # what came is lost, and the connections stay
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def large(vault: Vault) -> Vault:
    """A site whose blob takes a while."""
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(photo=site_factory.noise(SIZE, 3))
    return vault


class Bucket:
    """The same site, with its repository in S3."""

    def __init__(self, service: Service, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
        self.service, self.name = service, service.bucket()
        self.location = f"s3://{self.name}/site"
        for name, value in service.variables(self.location).items():
            monkeypatch.setenv(name, value)
        self.options = ["--data-fs", str(vault.files.data_fs), "--blob-dir", str(vault.files.blob_dir)]
        assert vault.bare(*self.options, "repository", "init").status == 0

    def keys(self, prefix: str) -> set[str]:
        return {
            one["Key"]
            for one in self.service.client()
            .list_objects_v2(Bucket=self.name, Prefix=f"site/{prefix}")
            .get("Contents", ())
        }

    def marker(self) -> Any:
        return json.loads(
            self.service.client()
            .get_object(Bucket=self.name, Key="site/sites/default/running/create.json")["Body"]
            .read()
        )


def start(options: list[str], *arguments: str, **variables: str) -> subprocess.Popen[str]:
    streams: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    return subprocess.Popen(command(*options, *arguments), text=True, env=environment(**variables), **streams)


def wait_for(child: subprocess.Popen[str], begun: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not begun():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def ended(child: subprocess.Popen[str], within: float) -> str:
    """Wait for its end, which has to be that of an interrupted run; return what it said."""
    begun = time.monotonic()
    out, err = child.communicate(timeout=DEADLINE)
    assert time.monotonic() - begun < within
    assert (child.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    return err


@contextlib.contextmanager
def ending_at_last(child: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    "numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM, signal.SIGHUP]]
)
def test_a_create_is_stopped_soon_in_the_middle_of_a_blob_and_the_next_one_uses_what_it_stored(
    large: Vault, numbers: list[signal.Signals]
) -> None:
    objects = large.repository / "objects"
    child = start(large.options, "create", *SLOWLY)
    with ending_at_last(child):
        wait_for(child, lambda: any(objects.glob("*/*")))
        time.sleep(0.5)
        for number in numbers:  # as timeout(1) and systemd do it
            child.send_signal(number)
            time.sleep(0.003)
        ended(child, SOON)
    marker = json.loads((large.repository / "sites" / "default" / "running" / "create.json").read_text())
    assert marker["ended"] is True
    before = {path.name for path in objects.glob("*/*")}
    made = large.done("create", "--json").document
    assert made["reason"]["code"] == "resumed"
    manifest = large.done("show", made["id"], "--json").document["manifest"]
    segments = {
        part["object"]
        for one in manifest["databases"]
        for segment in one["storage"]["tail"]
        for part in segment["parts"]
    }
    assert segments and segments <= before
    assert large("verify").status == 0


def test_a_create_into_s3_is_stopped_soon_in_the_middle_of_an_upload(
    large: Vault, moto: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(moto, large, monkeypatch)
    child = start(bucket.options, "create", *SLOWLY)
    with ending_at_last(child):
        wait_for(child, lambda: bucket.keys("objects/"))
        time.sleep(1.5)
        child.send_signal(signal.SIGINT)
        ended(child, SOON)
    assert bucket.marker()["ended"] is True
    before = bucket.keys("objects/")
    made = large.bare(*bucket.options, "create", "--json").document
    assert made["reason"]["code"] == "resumed"
    manifest = large.bare(*bucket.options, "show", made["id"], "--json").document["manifest"]
    segments = {
        part["object"]
        for one in manifest["databases"]
        for segment in one["storage"]["tail"]
        for part in segment["parts"]
    }
    assert segments and segments <= {key.rpartition("/")[2] for key in before}
    assert large.bare(*bucket.options, "verify").status == 0


def test_a_service_that_hangs_keeps_a_run_from_stopping_and_a_second_signal_ends_it_at_once(
    large: Vault, moto: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(moto, large, monkeypatch)
    link = Link(int(moto.endpoint.rpartition(":")[2]))
    with contextlib.closing(link):
        child = start(
            bucket.options,
            "create",
            *SLOWLY,
            ZODB_VAULT_REPOSITORY_S3_ENDPOINT=f"http://127.0.0.1:{link.port}",
        )
        with ending_at_last(child):
            wait_for(child, lambda: bucket.keys("objects/"))
            link.cut.set()
            child.send_signal(signal.SIGINT)
            time.sleep(2 * SAME_SIGNAL_SECONDS)
            assert child.poll() is None  # it waits for the service to take note of what is stored
            child.send_signal(signal.SIGINT)
            assert "interrupted" not in ended(child, 1.0)  # nothing was put in order
    before = bucket.keys("objects/")
    assert large.bare(*bucket.options, "create", "--json").status == 0
    assert before <= bucket.keys("objects/")


def test_on_a_terminal_it_is_said_that_it_stops_and_how_to_abort(large: Vault) -> None:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        command(*large.options, "create", *SLOWLY),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=environment(TERM="xterm", COLUMNS="120"),
        preexec_fn=lambda: _own(theirs),
    )
    os.close(theirs)
    screen, typed, end = b"", False, time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            screen += os.read(ours, 1 << 16)
        except OSError:
            break
        if not typed and any((large.repository / "objects").glob("*/*")):
            os.write(ours, b"\x03")
            typed = True
    os.close(ours)
    assert child.wait(DEADLINE) == 130
    assert b"a second Ctrl-C aborts at once" in screen
    assert screen.count(b"interrupted") == 1
    assert screen.rfind(b"\x1b[?25h") > screen.rfind(b"\x1b[?25l")  # the cursor is back


def _own(terminal: int) -> None:
    """Make it the terminal whose Ctrl-C this process gets."""
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def test_a_restore_in_place_leaves_the_old_state_and_is_finished_by_the_next_one(large: Vault) -> None:
    made = large.make()
    with site_factory.Site(large.files.data_fs.parent) as site:
        site.put(title="what is to be replaced")
    for path in large.files.blob_dir.rglob("*.blob"):
        if path.stat().st_size == SIZE:
            path.unlink()  # so that it is to be brought back
    before = large.files.data_fs.read_bytes()
    child = start(large.options, "restore", made, "--yes", "--no-safety-backup", *SLOWLY)
    with ending_at_last(child):
        wait_for(child, lambda: list(large.files.data_fs.parent.rglob("*zodb-vault*")))
        time.sleep(1.5)
        child.send_signal(signal.SIGTERM)
        ended(child, SOON)
    assert large.files.data_fs.read_bytes() == before
    assert large("restore", made, "--yes", "--no-safety-backup").status == 0
    assert large.files.data_fs.read_bytes() == before[: large.files.data_fs.stat().st_size] != before
    assert [path for path in large.files.blob_dir.rglob("*.blob") if path.stat().st_size == SIZE]
    assert large.done("create", "--json").document["databases"][0]["missing"] == []


def test_what_fails_because_a_run_is_to_end_is_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "REQUESTED", threading.Event())
    arguments = ["--repository", str(tmp_path / "none"), "--data-fs", str(tmp_path / "none"), "list"]
    assert run(arguments) == 10
    shutdown.request()
    assert run(arguments) == 130
