"""Back up a small site while a process writes to it; verify and restore the backups; compare the data.

``make demo`` runs it. It works in a directory of its own, which it removes at its end (``--keep``: leaves it
there). It ends with status 1 when the restored data differ from what the writer recorded. ``--break`` damages
a restored blob before the comparison, which then has to fail.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from site_writer import Pages, an_image, pages_of, recorded

HERE = Path(__file__).parent
PAUSE = 1.2
WAIT = 30.0


class Difference(Exception):
    """What was restored is not what was written, or a command failed."""


class Demo:
    """One run, in one directory."""

    def __init__(self, directory: Path, console: Console) -> None:
        self.directory, self.console = directory, console
        self.site, self.log = directory / "site", directory / "written.log"
        self.step_number = 0
        self.environment = os.environ | {
            "ZODB_VAULT_REPOSITORY": str(directory / "backups"),
            "ZODB_VAULT_DATA_FS": str(self.site / "Data.fs"),
            "ZODB_VAULT_BLOB_DIR": str(self.site / "blobs"),
            "COLUMNS": "200",
        }

    # saying

    def step(self, title: str, *proves: str) -> None:
        """Begin a step, and say what it shows."""
        self.step_number += 1
        self.console.print()
        self.console.rule(f"[bold]{self.step_number}. {title}", align="left", style="cyan")
        self.console.print(" ".join(proves))

    def good(self, text: str) -> None:
        """Say that something holds."""
        self.console.print(Text.assemble(("  ✔ ", "bold green"), text), soft_wrap=True)

    # doing

    def vault(self, *arguments: str) -> str:
        """Run the real command line, show it with what it prints, and return its standard output."""
        self.console.print(
            Text.assemble(
                ("  $ ", "dim"), (f"zodb-vault {shlex.join(self.short(one) for one in arguments)}", "bold")
            )
        )
        command = [sys.executable, "-m", "zodb_vault", *arguments]
        done = subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        for line in (done.stderr + done.stdout).splitlines():
            self.console.print(Text(f"    {self.short(line)}", style="bright_black"), soft_wrap=True)
        if done.returncode:
            raise Difference(f"zodb-vault {arguments[0]} ended with status {done.returncode}")
        return done.stdout

    def quietly(self, *arguments: str) -> Any:
        """Ask the command line for a document and show nothing."""
        command = [sys.executable, "-m", "zodb_vault", *arguments, "--json"]
        return json.loads(
            subprocess.run(
                command, env=self.environment, capture_output=True, check=True, stdin=subprocess.DEVNULL
            ).stdout
        )

    def short(self, text: str) -> str:
        """Return a text without the long path of the demo's directory."""
        return text.replace(f"{self.directory}/", "")

    def commits(self) -> int:
        """Return how many transactions the writer has recorded so far."""
        return len(recorded(self.log))

    def wait_for_commits(self, count: int) -> None:
        """Wait until the writer has committed that often."""
        end = time.monotonic() + WAIT
        while self.commits() < count:
            if time.monotonic() > end:
                raise Difference("the writer does not write")
            time.sleep(0.02)

    # the steps

    def run(self, *, damage: bool) -> None:
        """Do everything; raise Difference."""
        self.step(
            "A site that does not stand still",
            "A separate process commits to a Data.fs with a blob directory, many times a second:",
            "it adds, changes and removes pages, each with an image.",
            "After every commit it writes to a log which pages and images exist now.",
            "It never stops for a backup.",
        )
        self.site.mkdir()
        writer = subprocess.Popen(
            [sys.executable, HERE / "site_writer.py", self.site, self.log, self.directory / "stop"]
        )
        try:
            self.wait_for_commits(5)
            self.good(f"the writer is at work: {self.commits()} transactions so far")
            self.back_up()
            earlier = self.look()
            self.restore(earlier)
            if writer.poll() is not None:
                raise Difference(f"the writer ended with status {writer.returncode}")
        finally:
            (self.directory / "stop").touch()
            writer.wait(WAIT)
        self.compare(earlier, damage=damage)

    def back_up(self) -> None:
        """Take three backups under load."""
        self.step(
            "A full backup and two incremental ones, while it writes",
            "Storage and blobs are one backup; later ones read only what is new.",
        )
        self.vault("repository", "init")
        for name in ("monday", "tuesday", "wednesday"):
            before = self.commits()
            self.vault("create", "--name", name)
            self.good(f"the writer committed on: {self.commits() - before} transactions during this backup")
            time.sleep(PAUSE)
        made = self.quietly("list")["backups"]
        if [backup["how"] for backup in made] != ["incremental", "incremental", "full"]:
            raise Difference("not one full and two incremental backups")
        self.good(
            f"the full backup stored {made[2]['added']:,} bytes, "
            f"the incremental ones only {made[1]['added']:,} and {made[0]['added']:,}"
        )

    def look(self) -> str:
        """List the backups, prove the newest, choose a transaction; return its TID."""
        self.step(
            "What there is", "Each line is a whole backup: an incremental one is restored like a full one."
        )
        self.vault("list")
        self.step(
            "The proof",
            "The newest backup is restored into a scratch directory;",
            "then every object is loaded and every blob is opened.",
        )
        self.vault("verify", "--level", "restore")
        self.step(
            "Every transaction is a restore target",
            "Not only the moments of the backups, but each single commit, with who made it and when.",
        )
        self.vault("log", "--limit", "8")
        rows = self.quietly("log")["transactions"]
        ends = sorted(backup["last_tid"] for backup in self.quietly("list")["backups"])
        between = [row for row in rows if ends[0] < row["tid"] < ends[1]]
        chosen = between[len(between) // 2]
        earlier: str = chosen["tid"]
        self.good(
            f"of {len(rows)} transactions we choose {earlier} ({chosen['description']}): "
            "it lies between the backups of monday and tuesday"
        )
        return earlier

    def restore(self, earlier: str) -> None:
        """Restore the newest state and an earlier one into new directories."""
        self.step(
            "Two restores",
            "The newest backup, and the state right after that one transaction,",
            "each into a new directory. The site keeps running.",
        )
        self.vault("restore", "latest", "--output", str(self.directory / "newest"), "--yes")
        self.vault("restore", "--tid", earlier, "--output", str(self.directory / "earlier"), "--yes")

    def compare(self, earlier: str, *, damage: bool) -> None:
        """Open both with ZODB and compare them with the log of the writer."""
        self.step(
            "The comparison",
            "Both are opened with plain ZODB. Every page and every byte of every image must be",
            "what the writer noted in its log after that transaction:",
            "nothing is missing, nothing is left over, and storage and blobs match.",
        )
        newest = self.quietly("log", "--limit", "1")["transactions"][0]["tid"]
        if damage:
            victim = an_image(self.directory / "earlier")
            victim.chmod(0o600)
            victim.write_bytes(b"!" + victim.read_bytes()[1:])
            self.console.print(
                Text(f"  (--break: one byte of {self.short(str(victim))} was changed)", style="yellow")
            )
        log = recorded(self.log)
        for name, tid in (("newest", newest), ("earlier", earlier)):
            self.same(name, tid, log)
        behind = [tid for tid in log if tid > newest]
        self.good(
            f"the site itself was never stopped: it has written {len(behind)} transactions "
            "since the last backup"
        )

    def same(self, name: str, tid: str, log: dict[str, Pages]) -> None:
        """Compare one restored directory with what was written; raise Difference."""
        found_tid, found = pages_of(self.directory / name)
        if found_tid != tid:
            raise Difference(f"{name} ends with transaction {found_tid}, not {tid}")
        wanted = log[tid]
        wrong = sorted(page for page in wanted.keys() | found.keys() if wanted.get(page) != found.get(page))
        if wrong:
            raise Difference(f"{name} differs from what was written at {tid}: {', '.join(wrong)}")
        self.good(f"{name}: {len(found)} pages with their images, exactly as written up to {tid}")


def main() -> int:
    """Run the demo and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="leave the directory of the demo for inspection")
    parser.add_argument(
        "--break", dest="damage", action="store_true", help="damage a restored blob: the demo has to notice"
    )
    options = parser.parse_args()
    console = Console(highlight=False, width=min(shutil.get_terminal_size((120, 40)).columns, 140))
    directory = Path(tempfile.mkdtemp(prefix="zodb-vault-demo-")).resolve()
    begun = time.monotonic()
    console.print(Text.assemble(("zodb-vault demo", "bold"), f", in {directory}"))
    try:
        Demo(directory, console).run(damage=options.damage)
    except Difference as difference:
        console.print(Text.assemble(("\n  ✘ ", "bold red"), str(difference)))
        console.print(f"The demo failed. Everything is left in {directory}")
        return 1
    console.print()
    console.rule("[bold green]Everything that was restored is what was written", align="left", style="green")
    console.print(f"{time.monotonic() - begun:.0f} seconds. ", end="")
    if options.keep:
        console.print(
            f"Everything is left in {directory}: look at backups/RECOVERY.md, or open newest/Data.fs."
        )
    else:
        shutil.rmtree(directory)
        console.print(f"{directory} was removed; `make demo ARGS=--keep` leaves it for inspection.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
