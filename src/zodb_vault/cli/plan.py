"""``zodb-vault plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import VaultError
from .context import A_METHOD, A_PATH, Context, json_option, pass_context, site_options
from .output import count, print_json, printable

if TYPE_CHECKING:
    from ..model.source import Method
    from ..operations.create.plan import BackupStep, Planned


@click.command("plan")
@click.option("--full", is_flag=True, help="As for `create --full`.")
@click.option("--method", type=A_METHOD, default="native", show_default=True, help="As for `create`.")
@click.option("--mirror", type=A_PATH, metavar="DIR", help="As for `create`.")
@json_option
@site_options
@pass_context
def command(context: Context, full: bool, method: Method, mirror: Path | None, as_json: bool) -> None:
    """Say what would be backed up, from where, how, in which order, and why; changes nothing."""
    from ..operations.create.plan import PlanOptions, plan

    site = context.site
    repository, problem = None, None
    try:
        repository = context.remembering.repository
    except VaultError as error:
        problem = f"no earlier backup is known: {error.message}"
    planned = plan(site, repository, problem, PlanOptions(full=full, method=method, mirror=mirror))
    if as_json:
        print_json(planned.document())
        return
    click.echo(f"site {planned.site}{f', as {printable(site.config)} describes it' if site.config else ''}")
    for database in planned.databases:
        _print(database, context.verbose)
    for skipped in planned.skipped:
        click.echo(f"not backed up: {printable(skipped.name)}: {printable(skipped.why)}")


def _print(planned: Planned, verbose: bool) -> None:
    database = planned.database
    click.echo(f"database {printable(database.name)}: {printable(_kind(planned))}")
    if planned.elsewhere:
        click.echo(f"  {printable(planned.elsewhere)}")
    if planned.how and planned.reason:
        click.echo(f"  {planned.how} backup ({planned.reason['code']}): {planned.reason['text']}")
    for step in planned.steps:
        click.echo(f"  {step.order}. {step.what} from {printable(step.source)}{_with(step)}")
        click.echo(f"     why: {printable(step.why)}")
    for left in planned.left:
        click.echo(f"  not copied: {printable(left)}")
    for warning in planned.warnings:
        click.echo(f"  warning: {printable(warning)}")
    if verbose:
        _print_options(planned)


def _kind(planned: Planned) -> str:
    """Return what a database is: its storage, what is around it, where it is mounted, whether it keeps history."""
    database = planned.database
    kind = f"{database.backend} ({database.adapter})" if database.adapter else database.backend
    wrapped = f" in {' in '.join(reversed(database.wrappers))}" if database.wrappers else ""
    mount = f", mounted at {database.mount_point}" if database.mount_point else ""
    history = {None: "", True: ", history kept", False: ", without history"}[
        None if database.backend == "filestorage" else database.history
    ]
    return f"{kind}{wrapped}{mount}{history}, blobs: {database.blob_mode}"


def _with(step: BackupStep) -> str:
    return "" if step.tool == "zodb-vault" else f", with {step.tool}"


def _print_options(planned: Planned) -> None:
    """Print what was understood of the configuration, secrets concealed; a key that nobody knows may be one, too."""
    from ..config.masking import may_be_named
    from ..model.source import masked

    options = masked(planned.database.options)
    shown = sorted(key for key in options if may_be_named(key))
    for key in shown:
        for line in options[key].split("\n"):
            click.echo(f"  configured: {printable(key)} {printable(line)}")
    if len(options) > len(shown):
        click.echo(
            f"  configured: {count(len(options) - len(shown), 'key')} more that zodb-vault does not know"
        )
