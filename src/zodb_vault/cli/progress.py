"""How far a long operation is: a bar with rate and remaining time on a terminal, a line for what is worth one elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from .output import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from ..runtime.progress import Progress

REFRESH_SECONDS: Final = 0.1


class Silent:
    """Says nothing."""

    def begin(self, what: str, total: int | None) -> None:
        """Ignore it."""

    def advance(self, count: int) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""


class Lines(Silent):
    """Prints notes and nothing else, for logs."""

    def note(self, text: str) -> None:
        """Print a line."""
        click.echo(printable(text), err=True)


class Bars(Lines):
    """Draws one bar per phase with rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (
            TextColumn("{task.description:>8}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        # redirected, standard output would end up on the terminal of standard error
        self._bar: Bar = Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", visible=False)
        self._pending, self._last = 0, 0.0
        self._bar.start()

    def begin(self, what: str, total: int | None) -> None:
        """Start a new bar."""
        self._bar.update(self._task, visible=False)
        self._task = self._bar.add_task(what, total=total)
        self._pending = 0

    def advance(self, count: int) -> None:
        """Move the bar, at most ten times a second: thousands of blobs pass in one."""
        self._pending += count
        if time.monotonic() - self._last >= REFRESH_SECONDS:
            self._last, pending, self._pending = time.monotonic(), self._pending, 0
            self._bar.update(self._task, advance=pending)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


@contextlib.contextmanager
def choose(*, quiet: bool, terminal: bool) -> Iterator[Progress]:
    """Give who is told about progress; a bar is gone afterwards, whatever happens."""
    if quiet or not terminal:
        yield Silent() if quiet else Lines()
        return
    bars = Bars()
    try:
        yield bars
    finally:
        bars.close()
