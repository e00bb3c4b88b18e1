"""A RelStorage site, a repository, and the command line for them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Vault
from relstorage_sites import RelSite, on
from services.postgres import Cluster, Login

NOISE = [os.urandom(5000) for _ in range(8)]


class RelVault(Vault):
    """A site on RelStorage (see ``RelSite``), or on zodb-pgjsonb, with its repository."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str], site: Any) -> None:
        super().__init__(directory, capsys)
        self.site = site
        self.login = Login("", "", "", None)
        self.conf = site.write_conf(directory / "zope.conf")
        self.done("repository", "init")

    @property
    def options(self) -> list[str]:
        """Return what says where things are."""
        return ["--repository", str(self.repository), "--zope-conf", str(self.conf)]

    def created(self, *arguments: object) -> Any:
        """Make a backup and return what was printed."""
        return self.done("create", "--json", *arguments).document

    def fill(self) -> None:
        """Commit texts and blobs, change and remove some."""
        with self.site.opened() as opened:
            opened.put(title="one", logo=NOISE[0], photo=NOISE[1])
            opened.put(title="two", logo=NOISE[2], draft="to be removed", scan=NOISE[3])
            opened.put(draft=None, scan=None, news="three")

    def objects(self) -> set[str]:
        """Return the names of all objects of the repository."""
        return {path.name for path in self.repository.glob("objects/*/*")}

    def backups(self) -> list[str]:
        """Return the ids of all backups."""
        return [row["id"] for row in self.done("list", "--json").document["backups"]]


@contextlib.contextmanager
def committing(site: Any) -> Iterator[None]:
    """Commit texts and blobs to a site, again and again in a thread, from before the body until its end."""
    ready, stop = threading.Event(), threading.Event()

    def commit() -> None:
        with site.opened() as opened:  # before a dump: opening it may alter the tables
            number = 0
            while not stop.is_set():
                number += 1
                opened.put(number=str(number), **{f"blob-{number % 5}": b"%d " % number + NOISE[number % 8]})
                ready.set()

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        ready.wait(20)
        yield
    finally:
        stop.set()
        thread.join()


def in_postgres(
    cluster: Cluster, directory: Path, capsys: pytest.CaptureFixture[str], *, history: bool, shared: bool
) -> RelVault:
    """Return a site in a database of its own, with some content."""
    login = cluster.database()
    vault = RelVault(directory, capsys, RelSite(on(login), history, directory / "blobs", shared))
    vault.login = login
    vault.fill()
    return vault


def by_hand(repository: Path, backup: str, output: Path) -> None:
    """Paste the blocks of RECOVERY.md into a shell."""
    first, *rest = re.findall(
        r"^```sh\n(.*?)^```$", (repository / "RECOVERY.md").read_text(), re.DOTALL | re.MULTILINE
    )
    for name, value in {"BACKUP": backup, "SITE": "default", "FOLDER": "main", "OUTPUT": str(output)}.items():
        first = re.sub(rf"^{name}=.*$", f"{name}={shlex.quote(value)}", first, flags=re.MULTILINE)
    done = subprocess.run(
        ["sh"], input="\n".join([first, *rest]), text=True, cwd=repository, capture_output=True, check=False
    )
    computed, noted, *checks = done.stdout.splitlines()
    assert computed == noted and checks and all(line.endswith(": OK") for line in checks), done


def pg_restore(dump: Path, login: Login) -> None:
    """Run the command that RECOVERY.md names."""
    who = [f"--host={login.host}", f"--username={login.user}", f"--dbname={login.name}"]
    command = ["pg_restore", *who, "--no-owner", "--no-acl", "--exit-on-error"]
    done = subprocess.run(
        [*command, str(dump)],
        env=os.environ | {"PGPASSWORD": login.password or ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
