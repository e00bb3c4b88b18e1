"""``zodb-vault undelete``."""

from __future__ import annotations

import click

from .context import Context, pass_context
from .options import Text, site_options


@click.command("undelete")
@click.argument("id", type=Text())
@site_options
@pass_context
def command(context: Context, id: str) -> None:
    """Bring a backup back from the trash.

    ID is the whole id of the backup.
    """
    from ..operations.prune.trash import undelete

    context.use_site_of(id, changes=True)
    undelete(context.repository, context.site_name, id)
    context.say(f"{id} is back in the list of backups")
