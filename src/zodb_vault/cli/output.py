"""How results look as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..errors import ExitCode
from ..model.canonical import escaped
from ..model.units import readable_size

if TYPE_CHECKING:
    from ..operations.doctor.check import CheckResult


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
    state = "ok" if result.ok else "FAILED"
    click.echo(f"{state:6}  {printable(result.name)}: {printable(result.message)}")
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


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table with aligned columns."""
    cells = [list(headings), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(headings))]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 blob`` or ``2 blobs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
