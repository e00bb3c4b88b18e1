"""What a command prints beside its result, and what it asks the user."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ..errors import NoTerminal

if TYPE_CHECKING:
    from ..runtime.progress import Progress


class Console:
    """Prints messages on standard error, as far as --quiet and --verbose allow, and asks questions."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    @property
    def quiet(self) -> bool:
        """Tell whether only problems are printed."""
        return bool(self.options.get("quiet"))

    @property
    def verbose(self) -> bool:
        """Tell whether details are printed."""
        return bool(self.options.get("verbose"))

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Yield how progress is shown: a bar on a terminal, lines elsewhere, nothing with --quiet."""
        from .progress import choose

        with choose(quiet=self.quiet, terminal=sys.stderr.isatty()) as progress:
            yield progress

    def say(self, text: str) -> None:
        """Print a line unless --quiet is given."""
        if not self.quiet:
            click.echo(text, err=True)

    def detail(self, text: str) -> None:
        """Print a line if --verbose is given."""
        if self.verbose:
            click.echo(text, err=True)

    def ask_secret(self, question: str) -> str:
        """Ask for a text that is not shown; raise NoTerminal without a terminal."""
        if not has_terminal():
            raise NoTerminal("there is no terminal to ask for it", "run this on a terminal")
        return str(click.prompt(question, hide_input=True, err=True))

    def confirm(self, question: str) -> bool:
        """Ask a question and tell whether the answer is yes; raise NoTerminal without a terminal."""
        if not has_terminal():
            raise NoTerminal(
                "this needs an answer, and there is no terminal", "give --yes to continue without a question"
            )
        return click.confirm(question, err=True)


def has_terminal() -> bool:
    """Tell whether a user can answer a question."""
    return sys.stdin is not None and sys.stdin.isatty()
