"""``zodb-vault delete``."""

from __future__ import annotations

import click

from ..errors import Declined
from .context import Context, Text, pass_context, site_options


@click.command("delete")
@click.argument("id", type=Text())
@click.option("--force", is_flag=True, help="Also the last complete backup.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@site_options
@pass_context
def command(context: Context, id: str, force: bool, yes: bool) -> None:
    """Move a backup to the trash; `undelete` brings it back (ID: id, unique prefix, name, or `latest`)."""
    from ..operations.prune.trash import delete

    backup = context.catalog.select(id)
    if not yes and not context.confirm(
        f"Move backup {backup.manifest.id} of {backup.manifest.created_at} to the trash?"
    ):
        raise Declined("nothing was deleted")
    delete(context.repository, context.catalog, backup, force=force)
    context.say(
        f"{backup.manifest.id} is in the trash; `zodb-vault undelete {backup.manifest.id}` brings it back"
    )
