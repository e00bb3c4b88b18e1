"""``zodb-vault doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .context import Context, pass_context
from .options import json_option, method_option, site_options
from .output import print_checks

if TYPE_CHECKING:
    from ..model.source import Method


@click.command("doctor")
@method_option
@json_option
@site_options
@pass_context
def command(context: Context, method: Method | None, as_json: bool) -> int:
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
        lambda: method or context.method,
    )
    return print_checks(examine(inputs), as_json=as_json, quiet=context.quiet)
