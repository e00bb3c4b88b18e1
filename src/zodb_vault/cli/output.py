"""How results look as text and as JSON."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from ..errors import ExitCode
from ..model.canonical import escaped
from ..model.units import readable_size

if TYPE_CHECKING:
    from ..operations.doctor.check import CheckResult

# The states that a user has to notice.
COLOURS: Final = {
    "FAILED": "red",
    "DAMAGED": "red",
    "damaged": "red",
    "failed": "red",
    "incomplete": "yellow",
    "CANNOT BE PROVEN HERE": "yellow",
}
# Columns that are still useful when they are short, and how short they can get.
SHORTENED: Final = ("NAME", "USER", "DESCRIPTION")
SHORTEST: Final = 12


# The end of the first plural in a phrase.
PLURAL: Final = re.compile(r"s\b")


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(msgspec.json.format(_encoded(document), indent=2).decode())


def print_problem(problem: str, hint: str = "") -> None:
    """Print a problem on standard error, and what to do next; for problems that do not end the command."""
    click.echo(f"zodb-vault: {printable(problem)}", err=True)
    if hint:
        click.echo(f"  -> {printable(hint)}", err=True)


def print_error(kind: str, problems: Sequence[str], hint: str, code: ExitCode, *, as_json: bool) -> None:
    """Print the error that ends a command on standard error: what failed and why, then what to do next."""
    if as_json:
        error = {"code": code, "kind": kind, "message": "\n".join(problems), "hint": hint or None}
        click.echo(_encoded({"error": error}).decode(), err=True)
        return
    first, *more = problems or [""]
    click.echo(f"zodb-vault: {printable(first)}", err=True)
    for line in more:
        click.echo(f"  {printable(line)}", err=True)
    if hint:
        click.echo(f"  -> {printable(hint)}", err=True)


def print_checks(results: Sequence[CheckResult], *, as_json: bool, quiet: bool) -> ExitCode:
    """Print the results of checks, failed ones with what to do, and return the exit code."""
    if as_json:
        checks = [
            {"name": one.name, "ok": one.ok, "message": one.message, "hint": None if one.ok else one.hint}
            for one in results
        ]
        print_json({"checks": checks})
    else:
        for one in results:
            if not (one.ok and quiet):
                _print_check(one)
    codes = {one.code for one in results if not one.ok}
    return ExitCode.FAILURE if ExitCode.FAILURE in codes else next(iter(codes), ExitCode.SUCCESS)


def _print_check(result: CheckResult) -> None:
    word = "ok    " if result.ok else "FAILED"
    line = folded(f"{word}  {printable(result.name)}: {printable(result.message)}", 8)
    click.echo(state(word) + line[len(word) :])
    if result.hint and not result.ok:
        click.echo(f"        -> {printable(result.hint)}")


def _encoded(document: Any) -> bytes:
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:  # a path that is not valid UTF-8
        return msgspec.json.encode(escaped(msgspec.to_builtins(document)))


def printable(text: str) -> str:
    """Return text on one line, without control characters that a terminal would interpret."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: int | None) -> str:
    """Return a number of bytes in a unit that suits it, such as ``6.3 GB``."""
    return "-" if count is None else readable_size(count)


def ago(time: datetime, now: datetime) -> str:
    """Return how long ago a time is, such as ``7 minutes ago``."""
    passed = max(now - time, timedelta())
    for unit, seconds in (("day", 86400), ("hour", 3600), ("minute", 60)):
        number = int(passed.total_seconds() // seconds)
        if number:
            return f"{count(number, unit)} ago"
    return "just now"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], fit: Sequence[str] = ()) -> Iterator[str]:
    """Yield the lines of a table with aligned columns; on a terminal, no line is longer than the screen.

    ``fit`` names columns in the order in which they are shortened (NAME, USER, DESCRIPTION) or left out (all
    others) until the table fits. The first column is never touched.
    """
    cells = [list(headings), *([printable(cell) for cell in row] for row in rows)]
    columns = [list(column) for column in zip(*cells, strict=True)]
    screen = screen_width()
    for name in fit if screen else ():
        if _width(columns) <= screen:
            break
        columns = [one for column in columns if (one := _narrowed(column, name, _width(columns) - screen))]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        yield _with_state(line[: screen or None], columns, row)


def _width(columns: Sequence[Sequence[str]]) -> int:
    """Return how long the lines of a table are; two spaces separate the columns."""
    return sum(max(map(len, column)) for column in columns) + 2 * (len(columns) - 1)


def _narrowed(column: list[str], name: str, surplus: int) -> list[str] | None:
    """Return a column unchanged if it has another name, else with shorter cells, or None to leave it out."""
    if column[0] != name:
        return column
    if name not in SHORTENED:
        return None
    width = max(SHORTEST, max(map(len, column)) - surplus)
    return [cell if len(cell) <= width else f"{cell[: width - 3]}..." for cell in column]


def _with_state(line: str, columns: Sequence[Sequence[str]], row: Sequence[str]) -> str:
    """Return a line of a table with the cell of the column STATUS in its colour."""
    at = next((n for n, column in enumerate(columns) if column[0] == "STATUS"), 0)
    if not at:
        return line
    start = _width(columns[:at]) + 2
    end = start + len(row[at])
    return line[:start] + state(line[start:end]) + line[end:]


def screen_width() -> int:
    """Return how many characters fit in a line of standard output, 0 if that is no terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return 0
    return shutil.get_terminal_size().columns


def folded(text: str, indent: int) -> str:
    """Return a text that is broken between words to fit the terminal; later lines are indented."""
    screen = screen_width()
    if screen <= 2 * indent:
        return text
    return "\n".join(
        textwrap.wrap(
            text,
            screen,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
    )


def state(text: str) -> str:
    """Return a state such as FAILED in its colour, if standard output is a terminal that shows colours.

    NO_COLOR (https://no-color.org) and TERM=dumb turn colours off.
    """
    colour = COLOURS.get(text) or COLOURS.get(text.partition(" ")[0])
    if not colour or not screen_width() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return click.style(text, fg=colour, bold=True)


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 blob`` or ``2 blobs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def counted(number: int, things: str) -> str:
    """Return a number with its things, given as a plural, such as ``1 object of missing classes``."""
    return f"{number:,} {re.sub(PLURAL, '', things, count=1) if number == 1 else things}"
