"""``zodb-vault doctor``."""

from __future__ import annotations

import click

from .context import Context, json_option, pass_context, site_options
from .output import print_checks


@click.command("doctor")
@json_option
@site_options
@pass_context
def command(context: Context, as_json: bool) -> int:
    """Check whether backups can be made and restored here: configuration, packages, tools, permissions, space, clock, locks.

    The repository is really written to, read, listed and deleted in; nothing is left behind. Exit status 1: there are findings.
    """
    from ..operations.doctor.inputs import CheckInputs
    from ..operations.doctor.run import examine

    checks = examine(
        CheckInputs(
            lambda: context.settings,
            lambda: context.site_name,
            lambda: context.site,
            lambda: context.repository,
        )
    )
    return print_checks(checks, as_json=as_json, quiet=context.quiet)
