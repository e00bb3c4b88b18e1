"""``zodb-vault prune``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .context import Context, json_option, pass_context, site_options
from .output import count, print_json, printable, size

if TYPE_CHECKING:
    from ..operations.prune.run import Pruned


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Tell what would be removed and why; change nothing.")
@click.option(
    "--policy", metavar="NAME", help="The retention policy, instead of the one configured for the site."
)
@click.option(
    "--accept-gone",
    multiple=True,
    metavar="ID",
    help="A backup that somebody removed by hand: it is not missed any more (repeatable).",
)
@json_option
@site_options
@pass_context
def command(
    context: Context, dry_run: bool, policy: str | None, accept_gone: tuple[str, ...], as_json: bool
) -> None:
    """Remove the backups that the retention policy lets go.

    They go to the trash first, from where `undelete` brings them back for as long as `retention.grace` says, at least.
    """
    from ..operations.prune.run import PruneOptions, prune

    options = PruneOptions(
        rules=context.rules(policy),
        grace=context.settings.retention.grace,
        dry_run=dry_run,
        accept_gone=accept_gone,
    )
    done = prune(context.repository, context.site_name, options)
    for text in done.withheld:
        click.echo(f"zodb-vault: {printable(text)}", err=True)
    if as_json:
        print_json(
            {
                "keep": done.keep,
                "remove": done.remove,
                "frees_estimate": done.frees_estimate,
                "swept": done.swept,
                "withheld": done.withheld,
            }
        )
    else:
        _print(context, done, dry_run=dry_run)


def _print(context: Context, done: Pruned, *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    if dry_run or context.verbose:
        for verdict in done.keep:
            click.echo(f"keep    {verdict.id}  {'; '.join(verdict.reasons)}")
    for verdict in done.remove if not context.quiet else []:
        click.echo(f"remove  {verdict.id}  {'; '.join(verdict.reasons)}")
    if not context.quiet:
        removed = f"{count(len(done.remove), 'backup')} {would}moved to the trash, which frees about {size(done.frees_estimate)} later"
        click.echo(
            f"{removed}; {count(done.swept.objects, 'file')} with {size(done.swept.bytes)} {would}swept"
        )
