"""``zodb-vault doctor``."""

from __future__ import annotations

import click

from .context import Context, pass_context
from .options import json_option, site_options
from .output import print_checks


@click.command("doctor")
@json_option
@site_options
@pass_context
def command(context: Context, as_json: bool) -> int:
    """Check whether backups can be made and restored here.

    It checks configuration, packages, programs, permissions, free space, clock and locks. It writes, reads,
    lists and deletes a test file in the repository, and leaves nothing behind. Exit code 1: a check failed.
    """
    from ..operations.doctor.inputs import CheckInputs
    from ..operations.doctor.run import examine

    inputs = CheckInputs(
        lambda: context.settings,
        lambda: context.site_name,
        lambda: context.site,
        lambda: context.repository,
    )
    return print_checks(examine(inputs), as_json=as_json, quiet=context.quiet)
