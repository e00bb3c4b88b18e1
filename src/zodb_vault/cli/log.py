"""``zodb-vault log``."""

from __future__ import annotations

from heapq import merge
from itertools import islice

import click
import msgspec

from ..errors import UsageError
from .context import Context, Text, json_option, pass_context, site_options
from .output import print_json, size, table


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
    """List the transactions of a backup, newest first, to choose one for `restore --tid`."""
    from ..operations.log import log

    backup = context.remembering.catalog.select(id)
    documents = context.repository.objects("")
    names = [entry.name for entry in backup.manifest.databases]
    if unknown := sorted(set(databases) - set(names)):
        raise UsageError(
            f"backup {backup.manifest.id} has no database {', '.join(unknown)}", f"it has {', '.join(names)}"
        )
    entries = [entry for entry in backup.manifest.databases if not databases or entry.name in databases]
    newest = [
        one
        for entry in entries
        for one in (entry.data_fs.tail if entry.data_fs else entry.dump.log if entry.dump else [])
    ]
    if any(documents.concealed(one.log) for one in newest):
        context.say("users and descriptions are encrypted, and nothing says where the private key is")
    # of several databases the parts of one commit stand together
    rows = list(
        islice(
            merge(*(log(documents, entry) for entry in entries), key=lambda row: row.tid, reverse=True), limit
        )
    )
    if as_json:
        print_json({"transactions": [msgspec.to_builtins(row) for row in rows]})
        return
    several = len(entries) > 1
    cells = (
        [
            *([row.database] if several else []),
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
    for line in table(
        [
            *(["DATABASE"] if several else []),
            "TID",
            "TIME",
            "SIZE",
            "OBJECTS",
            "BLOBS",
            "RESTORABLE",
            "USER",
            "DESCRIPTION",
        ],
        cells,
    ):
        click.echo(line)
