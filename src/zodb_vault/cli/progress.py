"""How progress is shown: a bar with rate and remaining time on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from .output import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from ..runtime.progress import Progress, Unit

REFRESH_SECONDS: Final = 0.1


class Silent:
    """Shows nothing."""

    def begin(self, what: str, total: int | None) -> None:
        """Show nothing."""

    def expect(self, total: int, unit: Unit) -> None:
        """Show nothing."""

    def advance(self, count: int) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""


class Lines(Silent):
    """Prints notes only; for logs."""

    def note(self, text: str) -> None:
        """Print a line."""
        click.echo(printable(text), err=True)


class Bars(Lines):
    """Draws one bar per phase with rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        from .bar_columns import AmountColumn, RateColumn

        columns = (
            TextColumn("{task.description:>8}"),
            BarColumn(),
            AmountColumn(),
            RateColumn(),
            TimeRemainingColumn(),
        )
        # rich would print redirected standard output on the terminal of standard error
        self._progress: RichProgress = Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", visible=False, unit="B")
        self._what, self._pending, self._last_refresh = "", 0, 0.0
        self._progress.start()

    def begin(self, what: str, total: int | None) -> None:
        """Start a new bar."""
        self._what = what
        self._start(total, "B")

    def expect(self, total: int, unit: Unit) -> None:
        """Replace the present bar by one with this total; rich would still draw parts of the old one."""
        self._start(total, unit)

    def _start(self, total: int | None, unit: Unit) -> None:
        self._progress.update(self._task, visible=False)
        self._task = self._progress.add_task(self._what, total=total, unit=unit)
        self._pending = 0

    def advance(self, count: int) -> None:
        """Move the bar at most ten times a second: thousands of blobs may pass in one."""
        self._pending += count
        if time.monotonic() - self._last_refresh >= REFRESH_SECONDS:
            self._last_refresh, pending, self._pending = time.monotonic(), self._pending, 0
            self._progress.update(self._task, advance=pending)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()


@contextlib.contextmanager
def choose(*, quiet: bool, terminal: bool) -> Iterator[Progress]:
    """Yield how progress is shown; the bar is removed afterwards, also after an error."""
    if quiet:
        yield Silent()
    elif not terminal:
        yield Lines()
    else:
        bars = Bars()
        try:
            yield bars
        finally:
            bars.close()
