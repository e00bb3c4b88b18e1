"""``zodb-vault annotate``."""

from __future__ import annotations

from typing import Any

import click

from ..errors import UsageError
from .context import Context, pass_context
from .options import BACKUP_NAME, BACKUP_NOTE, Text, site_options


@click.command("annotate")
@click.argument("id", type=Text())
@click.option("--name", type=BACKUP_NAME, help="Set the name of the backup; an empty one removes the name.")
@click.option("--note", type=BACKUP_NOTE, help="Set the note of the backup; an empty one removes the note.")
@click.option(
    "--pin/--unpin", default=None, help="Protect the backup from `prune` and `delete`, or end the protection."
)
@click.option(
    "--accept-missing",
    is_flag=True,
    help="Confirm that the missing blobs are lost: a backup that misses only these counts as complete.",
)
@click.option(
    "--accept-history",
    is_flag=True,
    help="Confirm the new history of the site: older backups can be removed again.",
)
@site_options
@pass_context
def command(
    context: Context,
    id: str,
    name: str | None,
    note: str | None,
    pin: bool | None,
    accept_missing: bool,
    accept_history: bool,
) -> None:
    """Change the name, the note or the pin of a backup, or accept a loss.

    ID is the id of the backup, a unique prefix of it, the name of the backup, or `latest`.
    """
    from ..operations.annotate import annotate

    backup = context.select(id, changes=True)
    facts: dict[str, Any] = {}
    if name is not None:
        facts["name"] = name or None
    if note is not None:
        facts["note"] = note or None
    if pin is not None:
        facts["pinned"] = pin
    if accept_missing:
        facts["accept-missing"] = True
    if accept_history:
        facts["accept-history"] = True
    if not facts:
        raise UsageError("no change was given", "`zodb-vault annotate --help` lists what can be changed")
    annotate(context.repository, context.catalog, backup, facts)
    context.say(f"{backup.manifest.id} annotated")
