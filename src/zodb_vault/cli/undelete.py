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

    ID is the id of the backup, a unique prefix of it, or the name of the backup. `list --trash` shows what is
    in the trash.
    """
    from ..operations.prune.deleted import find_deleted
    from ..operations.prune.trash import undelete

    context.use_site_of(id, changes=True)
    backup_id = find_deleted(context.catalog, id)
    undelete(context.repository, context.site_name, backup_id)
    context.say(f"{backup_id} is back in the list of backups")
