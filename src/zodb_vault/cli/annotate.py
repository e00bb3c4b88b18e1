"""``zodb-vault annotate``."""

from __future__ import annotations

from typing import Any

import click

from ..errors import UsageError
from .context import A_NAME, A_NOTE, Context, Text, pass_context, site_options


@click.command("annotate")
@click.argument("id", type=Text())
@click.option("--name", type=A_NAME, help="A new name; an empty one removes it.")
@click.option("--note", type=A_NOTE, help="A new note; an empty one removes it.")
@click.option("--pin/--unpin", default=None, help="Never remove it, or no longer so.")
@click.option(
    "--accept-missing",
    is_flag=True,
    help="What is missing is lost: backups that lack only that count as complete.",
)
@click.option(
    "--accept-history",
    is_flag=True,
    help="The new history is the site's: older backups may be removed again.",
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
    """Change what is known of a backup: its name, its note, whether it is pinned (ID: id, unique prefix, name, or `latest`)."""
    from ..operations.annotate import annotate

    backup = context.catalog.select(id)
    facts: dict[str, Any] = {
        fact: value or None for fact, value in (("name", name), ("note", note)) if value is not None
    }
    if pin is not None:
        facts["pinned"] = pin
    facts |= {
        fact: True
        for fact, given in (("accept-missing", accept_missing), ("accept-history", accept_history))
        if given
    }
    if not facts:
        raise UsageError("nothing to change was given", "`zodb-vault annotate --help` shows what can be")
    annotate(context.repository, context.catalog, backup, facts)
    context.say(f"{backup.manifest.id} annotated")
