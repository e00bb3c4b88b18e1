"""How results look as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from ..model.canonical import escaped
from ..model.units import readable_size

if TYPE_CHECKING:
    from ..operations.doctor.check import CheckResult

FINDINGS: Final = 1


def print_json(document: Any) -> None:
    """Print one JSON document."""
    click.echo(msgspec.json.format(_encoded(document), indent=2).decode())


def print_error(kind: str, problems: Sequence[str], hint: str, code: int, *, as_json: bool) -> None:
    """Print an error on standard error: the thing and the cause, then the next step."""
    if as_json:
        document = {
            "error": {"code": code, "kind": kind, "message": "\n".join(problems), "hint": hint or None}
        }
        click.echo(_encoded(document).decode(), err=True)
        return
    first, *more = problems or [""]
    click.echo(f"zodb-vault: {printable(first)}", err=True)
    for line in more:
        click.echo(f"  {printable(line)}", err=True)
    if hint:
        click.echo(f"  -> {printable(hint)}", err=True)


def print_checks(checks: Sequence[CheckResult], *, as_json: bool, quiet: bool) -> int:
    """Print what was checked, findings with what to do about them, and return the exit status."""
    if as_json:
        found = [
            {"name": one.name, "ok": one.ok, "message": one.message, "hint": None if one.ok else one.hint}
            for one in checks
        ]
        print_json({"checks": found})
    for one in checks if not as_json else ():
        if one.ok and quiet:
            continue
        click.echo(f"{'ok' if one.ok else 'FAILED':6}  {printable(one.name)}: {printable(one.message)}")
        if one.hint and not one.ok:
            click.echo(f"        -> {printable(one.hint)}")
    return 0 if all(one.ok for one in checks) else FINDINGS


def _encoded(document: Any) -> bytes:
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:  # a path that is no UTF-8
        return msgspec.json.encode(escaped(msgspec.to_builtins(document)))


def printable(text: str) -> str:
    """Return text on one line without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: int | None) -> str:
    """Return a number of bytes in the unit that suits it (powers of ten), such as ``6.3 GB``."""
    return "-" if count is None else readable_size(count)


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment is, such as ``7 minutes ago``."""
    passed = max(now - moment, timedelta())
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(passed.total_seconds() // length)
        if count:
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return "just now"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """Yield the lines of a table with aligned columns."""
    cells = [list(headings), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(headings))]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def count(number: int, what: str) -> str:
    """Return a number with its noun, such as ``1 blob`` or ``2 blobs``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
