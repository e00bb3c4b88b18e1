"""``zodb-vault plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import VaultError
from .context import Context, pass_context
from .options import PATH, json_option, method_option, site_options
from .output import count, print_json, printable

if TYPE_CHECKING:
    from ..model.source import Method
    from ..operations.create.preview import BackupStep, Planned


@click.command("plan")
@click.option("--full", is_flag=True, help="As for `create --full`.")
@method_option
@click.option("--mirror", type=PATH, metavar="DIR", help="As for `create --mirror`.")
@json_option
@site_options
@pass_context
def command(context: Context, full: bool, method: Method | None, mirror: Path | None, as_json: bool) -> None:
    """Show what `create` would back up, from where, how, in which order, and why; nothing is changed."""
    from ..operations.create.preview import PlanOptions, plan

    site = context.site
    repository, problem = None, None
    try:
        context.use_cache()
        repository = context.repository
    except VaultError as error:
        problem = f"no earlier backup is known: {error.message}"
    options = PlanOptions(full=full, method=method or context.method, mirror=mirror)
    planned = plan(site, repository, problem, options)
    if as_json:
        print_json(planned.document())
        return
    origin = f", from {printable(site.config)}" if site.config else ""
    click.echo(f"site {planned.site}{origin}")
    for database in planned.databases:
        _print(database, context.verbose)
    for skipped in planned.skipped:
        click.echo(f"not backed up: {printable(skipped.name)}: {printable(skipped.why)}")


def _print(planned: Planned, verbose: bool) -> None:
    database = planned.database
    click.echo(f"database {printable(database.name)}: {printable(_description(planned))}")
    if planned.elsewhere:
        click.echo(f"  {printable(str(planned.elsewhere))}")
    if planned.how and planned.reason:
        click.echo(f"  {planned.how} backup ({planned.reason['code']}): {planned.reason['text']}")
    for step in planned.steps:
        click.echo(f"  {step.order}. {step.what} from {printable(step.source)}{_tool(step)}")
        click.echo(f"     why: {printable(step.why)}")
    for left in planned.left:
        click.echo(f"  not copied: {printable(left)}")
    for warning in planned.warnings:
        click.echo(f"  warning: {printable(warning)}")
    if verbose:
        _print_options(planned)


def _description(planned: Planned) -> str:
    """Describe a database: its storage, the wrappers around it, its mount point, its history, its blobs."""
    database = planned.database
    kind = f"{database.backend} ({database.adapter})" if database.adapter else database.backend
    wrapped = "".join(f" in {wrapper}" for wrapper in reversed(database.wrappers))
    mount = f", mounted at {database.mount_point}" if database.mount_point else ""
    history = ""
    if not database.data_fs and database.history is not None:
        history = ", history kept" if database.history else ", without history"
    return f"{kind}{wrapped}{mount}{history}, blobs: {database.blob_mode}"


def _tool(step: BackupStep) -> str:
    return "" if step.tool == "zodb-vault" else f", with {step.tool}"


def _print_options(planned: Planned) -> None:
    """Print how the configuration was understood, without secrets.

    Only keys that zodb-vault knows are printed: an unknown key may itself be a secret that ended up on its
    own line.
    """
    from ..config.masking import may_be_named
    from ..model.source import masked

    options = masked(planned.database.options)
    shown = sorted(key for key in options if may_be_named(key))
    for key in shown:
        for line in options[key].split("\n"):
            click.echo(f"  configured: {printable(key)} {printable(line)}")
    if unknown := len(options) - len(shown):
        click.echo(f"  configured: {count(unknown, 'key')} more that zodb-vault does not know")
