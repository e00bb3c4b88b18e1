"""The command line: in this process (fast), as a separate process, on a terminal, or as another user."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import site_factory

import zodb_vault
from zodb_vault.cli.main import run

NOBODY = 65534
DEADLINE = 60.0
# Another user may not start this Python, so everything is imported as root, and then the rights are dropped.
AS_NOBODY = """
import importlib, os, pkgutil, sys
import zodb_vault, importlib.readers, encodings.ascii, encodings.idna, encodings.unicode_escape
import _strptime, ctypes, zc.lockfile, zoneinfo, rich.progress
for module in pkgutil.walk_packages(zodb_vault.__path__, "zodb_vault."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from zodb_vault.cli.main import run
os.setgroups([]); os.setgid({gid}); os.setuid({uid}); os.umask({umask})
sys.exit(run(sys.argv[1:]))
"""


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Return standard output, which has to be one JSON document."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """Return the error that a command with --json printed: all of standard error after the notes."""
        found: dict[str, Any] = json.loads(self.err.splitlines()[-1])["error"]
        return found


class Vault:
    """One site, one repository, and the command line for them."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self.repository, self.capsys = directory, directory / "repository", capsys
        self.files = site_factory.SiteFiles(directory / "site" / "Data.fs", directory / "site" / "blobs")

    @property
    def options(self) -> list[str]:
        """Return what says where things are."""
        return [
            "--repository",
            str(self.repository),
            "--data-fs",
            str(self.files.data_fs),
            "--blob-dir",
            str(self.files.blob_dir),
        ]

    def __call__(self, *arguments: object) -> Outcome:
        """Run a command about this site in this process."""
        return self.bare(*self.options, *arguments)

    def bare(self, *arguments: object) -> Outcome:
        """Run a command line without any added option in this process."""
        self.capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        printed = self.capsys.readouterr()
        return Outcome(status, printed.out, printed.err)

    def process(self, *arguments: object, **options: Any) -> Outcome:
        """Run a command about this site as a process of its own, without a terminal."""
        return process(*self.options, *arguments, **options)

    def done(self, *arguments: object) -> Outcome:
        """Run a command that has to succeed."""
        outcome = self(*arguments)
        assert outcome.status == 0, outcome
        return outcome

    def make(self, *arguments: object) -> str:
        """Make a backup and return its id."""
        made: str = self.done("create", "--json", *arguments).document["id"]
        return made


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that finds what this one has imported, wherever it runs."""
    return os.environ | {"PYTHONPATH": str(Path(zodb_vault.__file__).parent.parent)} | more


def command(*arguments: object) -> list[bytes]:
    """Return the command line of a separate process."""
    return [os.fsencode(part) for part in (sys.executable, "-m", "zodb_vault", *map(str, arguments))]


def process(*arguments: object, **options: Any) -> Outcome:
    """Run a command line as a process of its own, without a terminal."""
    settings: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "capture_output": True,
        "timeout": DEADLINE,
    } | options
    settings["env"] = environment(**settings.get("env", {}))
    done = subprocess.run(command(*arguments), check=False, **settings)
    return Outcome(
        done.returncode,
        *(
            stream.decode(errors="backslashreplace") if stream else ""
            for stream in (done.stdout, done.stderr)
        ),
    )


def process_as_nobody(
    *arguments: object, cwd: str | Path = "/", uid: int = NOBODY, gid: int = NOBODY, umask: int = 0o022
) -> Outcome:
    """Run a command line as a user without rights: ``nobody`` for root, otherwise the user of the tests.

    ``uid`` and ``gid`` are another user.
    """
    if os.geteuid() != 0:
        return process(*arguments, cwd=cwd)
    script = AS_NOBODY.format(uid=uid, gid=gid, umask=umask)
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(),
        cwd=cwd,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def give_to_nobody(*paths: Path) -> None:
    """Make everything below paths belong to that user."""
    for path in paths if os.geteuid() == 0 else ():
        for found in (path, *path.rglob("*")):
            os.chown(found, NOBODY, NOBODY, follow_symlinks=False)


def take_from_nobody(path: Path) -> None:
    """Make a path unreadable for that user."""
    if os.geteuid() == 0:
        os.chown(path, 0, 0)
    path.chmod(0o700 if path.is_dir() and os.geteuid() == 0 else 0o600 if os.geteuid() == 0 else 0)


class Terminal(NamedTuple):
    """The result of a command on a terminal: ``screen`` is all that was drawn, ``out`` was redirected."""

    status: int
    screen: str
    out: str


def on_terminal(*arguments: object, answer: str = "", out: Path | None = None, **variables: str) -> Terminal:
    """Run a command line on a terminal and answer its question; ``out``: redirect standard output there."""
    ours, theirs = pty.openpty()
    with out.open("wb") if out else open(os.devnull, "wb") as file:
        child = subprocess.Popen(
            command(*arguments),
            stdin=theirs,
            stdout=file if out else theirs,
            stderr=theirs,
            start_new_session=True,
            env=environment(**{"TERM": "xterm", "COLUMNS": "120"} | variables),
        )
    os.close(theirs)
    screen = _watch(ours, child, answer)
    os.close(ours)
    return Terminal(child.wait(DEADLINE), screen, out.read_text() if out else "")


def _watch(fd: int, child: subprocess.Popen[bytes], answer: str) -> str:
    screen, end = b"", time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if not select.select([fd], [], [], 0.1)[0]:
            continue
        try:
            chunk = os.read(fd, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        screen += chunk
        if answer and b"[y/N]" in screen:
            os.write(fd, f"{answer}\n".encode())
            answer = ""
    else:
        child.send_signal(signal.SIGKILL)
    return screen.decode(errors="replace")


def tree(root: Path) -> dict[str, tuple[int, str]]:
    """Return mode and digest (or target, or kind) of everything in a directory except empty lock files."""
    found = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        if path.name in (".lock", "Data.fs.lock"):
            continue
        content = os.readlink(path) if path.is_symlink() else "other"
        if stat.S_ISREG(info.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(root))] = (info.st_mode, content)
    return found


def stored(root: Path) -> dict[str, tuple[int, str]]:
    """Return the files of a tree: directories that were made for a marker that is gone again hold nothing."""
    return {path: entry for path, entry in tree(root).items() if not stat.S_ISDIR(entry[0])}


def flip(path: Path, position: int = -30) -> None:
    """Change one byte of a file that is not to be written."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x20
    path.chmod(0o600)
    path.write_bytes(data)


def keys_of(document: Any) -> list[str]:
    """Return the keys of a JSON object, sorted."""
    assert isinstance(document, dict), document
    return sorted(document)


def words(text: str) -> Sequence[str]:
    """Return the sorted words of a text: how key sets are written down in the tests."""
    return sorted(text.split())
