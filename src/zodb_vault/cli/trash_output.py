"""How ``zodb-vault list --trash`` shows the removed backups."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Final

import click

from ..errors import ExitCode
from ..runtime import clock
from .context import Context
from .output import ago, print_json, print_problem, size, table

if TYPE_CHECKING:
    from ..operations.prune.deleted import DeletedBackup

HEADINGS: Final = ("ID", "NAME", "DELETED", "KEPT UNTIL", "SIZE")


def print_trash(context: Context, *, as_json: bool) -> ExitCode:
    """Print the backups in the trash of the site, and return the exit code: DAMAGE if one cannot be read."""
    from ..operations.prune.deleted import deleted_backups

    rows = deleted_backups(context.catalog, context.settings.retention.grace)
    if as_json:
        print_json({"trash": rows})
    elif not rows:
        context.say(f"the trash of the site {context.site_name} is empty")
    else:
        now = clock.now()
        for line in table(HEADINGS, (_cells(row, now) for row in rows)):
            click.echo(line)
        context.say(
            "`zodb-vault undelete ID` brings a backup back; a `prune` after KEPT UNTIL can remove it for good"
        )
    damaged = [row.damage for row in rows if row.damage is not None]
    for problem in damaged:
        print_problem(problem)
    return ExitCode.DAMAGE if damaged else ExitCode.SUCCESS


def _cells(row: DeletedBackup, now: datetime) -> list[str]:
    """Return the cells of a row, in the order of the headings."""
    deleted = row.deleted_at or "-"
    if row.deleted_at and sys.stdout is not None and sys.stdout.isatty():
        deleted = ago(clock.parse(row.deleted_at), now)
    return [row.id, row.name or "-", deleted, row.kept_until, size(row.raw)]
