"""``zodb-vault log``."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING

import click
import msgspec

from ..errors import UsageError
from .context import Context, pass_context
from .options import Text, json_option, site_options
from .output import print_json, size, table

if TYPE_CHECKING:
    from ..model.manifest import DatabaseEntry
    from ..operations.catalog import Backup
    from ..operations.log import LogRow

HEADINGS = ("TID", "TIME", "SIZE", "OBJECTS", "BLOBS", "RESTORABLE", "USER", "DESCRIPTION")
# Which columns a narrow terminal loses first; USER and DESCRIPTION are shortened.
FIT = ("DESCRIPTION", "USER", "BLOBS", "OBJECTS", "SIZE", "RESTORABLE")


@click.command("log")
@click.argument("id", type=Text(), default="latest")
@click.option(
    "--database", "databases", multiple=True, metavar="NAME", help="Only this database (repeatable)."
)
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="Only the newest N transactions.")
@json_option
@site_options
@pass_context
def command(context: Context, id: str, databases: tuple[str, ...], limit: int | None, as_json: bool) -> None:
    """List the transactions of a backup, newest first, to choose one for `restore --tid`.

    ID is the id of the backup, a unique prefix of it, the name of the backup, or `latest` (the default).
    """
    from ..operations.log import is_concealed, log

    context.use_cache()
    entries = _choose(context.select(id), databases)
    documents = context.repository.objects("")
    if any(is_concealed(documents, entry) for entry in entries):
        context.say("users and descriptions are encrypted, and no private key is configured")
    # merged by TID, so that the parts of a transaction in several databases follow each other
    logs = (log(documents, entry) for entry in entries)
    rows = list(islice(merge(*logs, key=lambda row: row.tid, reverse=True), limit))
    if as_json:
        print_json({"transactions": [msgspec.to_builtins(row) for row in rows]})
    else:
        _print(rows, with_database=len(entries) > 1)


def _choose(backup: Backup, databases: tuple[str, ...]) -> list[DatabaseEntry]:
    """Return the databases of a backup that are named, all when none is; raise UsageError."""
    entries = backup.manifest.databases
    names = [entry.name for entry in entries]
    if unknown := sorted(set(databases) - set(names)):
        raise UsageError(
            f"backup {backup.manifest.id} has no database {', '.join(unknown)}", f"it has {', '.join(names)}"
        )
    return [entry for entry in entries if not databases or entry.name in databases]


def _print(rows: Iterable[LogRow], *, with_database: bool) -> None:
    cells = (
        [
            row.database,
            row.tid,
            row.time[:19] + "Z",
            size(row.size),
            str(row.objects),
            str(row.blobs),
            "yes" if row.restorable else "no",
            row.user or "",
            row.description or "",
        ]
        for row in rows
    )
    first = 0 if with_database else 1
    for line in table(["DATABASE", *HEADINGS][first:], (row[first:] for row in cells), FIT):
        click.echo(line)
