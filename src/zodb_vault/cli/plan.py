"""``zodb-vault plan``."""

from __future__ import annotations

from typing import Any

import click

from ..errors import VaultError
from .context import Context, json_option, pass_context, site_options
from .output import print_json, printable


@click.command("plan")
@click.option("--full", is_flag=True, help="As for `create --full`.")
@json_option
@site_options
@pass_context
def command(context: Context, full: bool, as_json: bool) -> None:
    """Say what would be backed up, from where, how, in which order, and why; changes nothing."""
    from ..operations.plan import plan

    site = context.site
    repository, problem = None, None
    try:
        repository = context.repository
    except VaultError as error:
        problem = f"no earlier backup is known: {error.message}"
    document = plan(site, repository, problem, full=full)
    if as_json:
        print_json(document)
    else:
        _print(document)


def _print(document: dict[str, Any]) -> None:
    click.echo(f"site {document['site']}")
    for database in document["databases"]:
        mount = f", mounted at {database['mount_point']}" if database["mount_point"] else ""
        click.echo(f"database {printable(database['name'])}: {database['backend']}{mount}, blobs: {database['blob_mode']}")
        if database["how"]:
            click.echo(f"  {database['how']} backup ({database['reason']['code']}): {database['reason']['text']}")
        for step in database["steps"]:
            click.echo(f"  {step['order']}. {step['what']} from {printable(str(step['from']))}")
        if not database["copies_blobs"]:
            click.echo("  no blob directory is copied")
        for warning in database["warnings"]:
            click.echo(f"  warning: {printable(warning)}")
    for skipped in document["skipped"]:
        click.echo(f"not backed up: {skipped['name']}: {skipped['why']}")
