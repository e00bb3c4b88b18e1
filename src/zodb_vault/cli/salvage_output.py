"""What ``zodb-vault restore --salvage`` prints: what was brought back and what is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from .context import Context
from .output import count, print_problem, printable

if TYPE_CHECKING:
    from ..operations.restore.salvage import SalvagedDatabase

MOST_SHOWN: Final = 20


def salvage_document(backup: str, output: Path, done: list[SalvagedDatabase]) -> dict[str, Any]:
    """Return the JSON document."""
    return {"id": backup, "target": str(output), "databases": msgspec.to_builtins(done)}


def print_salvaged(context: Context, output: Path, done: list[SalvagedDatabase]) -> None:
    """Print what is lost, and then what to do with the rest."""
    for one in done:
        context.say(
            f"{printable(one.name)}: {'everything' if one.complete else 'what is good'} is in {one.where}"
        )
        lost = list(_lost(one))
        for line in lost[:MOST_SHOWN]:
            print_problem(f"{one.name}: {line}")
        if len(lost) > MOST_SHOWN:
            print_problem(f"{one.name}: and {len(lost) - MOST_SHOWN} more")
    if all(one.complete for one in done):
        click.echo("nothing is lost")
    else:
        click.echo(f"all that is lost is listed in {output / 'LOST.json'}")
        click.echo("Look at the databases before you use them: objects can be older than others, or missing.")


def _lost(one: SalvagedDatabase) -> Iterator[str]:
    for lost in one.ranges:
        what = "some transactions" if lost.transactions is None else count(lost.transactions, "transaction")
        when = f", {lost.first_tid} to {lost.last_tid}" if lost.first_tid else ""
        yield f"bytes {lost.start} to {lost.end} of Data.fs are lost ({what}{when}): {lost.why}"
    for blob in one.blobs:
        what = f"the blob {blob.oid} {blob.tid} is" if blob.oid else f"{blob.count} blobs or packs are"
        yield f"{what} lost: {blob.why}"
    for file in one.files:
        yield f"{file.path} ends after {file.kept} bytes: {file.why}"
