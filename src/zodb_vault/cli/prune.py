"""``zodb-vault prune``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..errors import ExitCode
from .context import Context, pass_context
from .options import json_option, site_options
from .output import count, folded, print_json, print_problem, size

if TYPE_CHECKING:
    from ..operations.prune.run import Pruned


@click.command("prune")
@click.option(
    "--dry-run", is_flag=True, help="Show what would be removed, and why, without changing anything."
)
@click.option(
    "--policy", metavar="NAME", help="Use this retention policy, not the one configured for the site."
)
@click.option(
    "--accept-gone",
    multiple=True,
    metavar="ID",
    help="Confirm that this backup was removed by hand; prune no longer looks for it (repeatable).",
)
@json_option
@site_options
@pass_context
def command(
    context: Context, dry_run: bool, policy: str | None, accept_gone: tuple[str, ...], as_json: bool
) -> int:
    """Remove the backups that the retention policy does not keep.

    Removed backups go to the trash. `undelete` can bring them back during the grace period
    (`retention.grace`).

    Exit code 3: backups were removed, but the site may not be the one that was backed up before.
    """
    from ..operations.findings import findings_of
    from ..operations.prune.run import PruneOptions, prune

    options = PruneOptions(
        rules=context.rules(policy),
        grace=context.settings.retention.grace,
        dry_run=dry_run,
        accept_gone=accept_gone,
    )
    # first: the sweep removes labels that a catalog of today still lists
    findings = findings_of(context.catalog)
    done = prune(context.repository, context.catalog.site, options)
    for text in done.withheld:
        print_problem(text)
    for finding in findings:
        print_problem(finding.message, finding.hint)
    if as_json:
        print_json(
            {
                "keep": done.keep,
                "remove": done.remove,
                "frees_estimate": done.frees_estimate,
                "swept": done.swept,
                "withheld": done.withheld,
                "findings": findings,
            }
        )
    else:
        _print(context, done, dry_run=dry_run)
    return ExitCode.SOURCE_INCOMPLETE if findings else ExitCode.SUCCESS


def _print(context: Context, done: Pruned, *, dry_run: bool) -> None:
    would_be = "would be " if dry_run else ""
    if dry_run or context.verbose:
        for one in done.keep:
            click.echo(folded(f"keep    {one.id}  {'; '.join(one.reasons)}", 8))
    if context.quiet:
        return
    for one in done.remove:
        click.echo(folded(f"remove  {one.id}  {'; '.join(one.reasons)}", 8))
    removed = f"{count(len(done.remove), 'backup')} {would_be}moved to the trash"
    swept = f"{count(done.swept.objects, 'file')} with {size(done.swept.bytes)} {would_be}deleted for good"
    click.echo(folded(f"{removed}, which frees about {size(done.frees_estimate)} later; {swept}", 2))
    if done.between and dry_run:
        context.say(
            f"{count(len(done.between), 'backup')} of these lie between two daily ones: once the site is "
            "packed, the states that only they have cannot be restored; `retention.scheduled.hourly` and "
            "`retention.scheduled.last` keep more of them"
        )
    if done.remove and not dry_run:
        context.say(
            "`zodb-vault list --trash` shows the trash, `zodb-vault undelete ID` brings a backup back"
        )
