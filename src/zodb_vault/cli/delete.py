"""``zodb-vault delete``."""

from __future__ import annotations

import click

from ..errors import Declined
from .context import Context, pass_context
from .options import Text, site_options


@click.command("delete")
@click.argument("id", type=Text())
@click.option("--force", is_flag=True, help="Delete it even if it is the last complete backup.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@site_options
@pass_context
def command(context: Context, id: str, force: bool, yes: bool) -> None:
    """Move a backup to the trash; `undelete` brings it back.

    ID is the id of the backup, a unique prefix of it, the name of the backup, or `latest`.
    """
    from ..operations.prune.trash import delete

    backup = context.select(id, changes=True)
    backup_id = backup.manifest.id
    question = f"Move backup {backup_id} of {backup.manifest.created_at} to the trash?"
    if not yes and not context.confirm(question):
        raise Declined("nothing was deleted")
    delete(context.repository, context.catalog, backup, force=force)
    context.say(f"{backup_id} is in the trash; `zodb-vault undelete {backup_id}` brings it back")
