"""``zodb-vault doctor``."""

from __future__ import annotations

import click

from .context import Context, json_option, pass_context, site_options
from .output import print_json, printable

FINDINGS = 1


@click.command("doctor")
@json_option
@site_options
@pass_context
def command(context: Context, as_json: bool) -> int:
    """Check whether backups can be made and restored here: configuration, packages, tools, permissions, space, clock, locks.

    The repository is really written to, read, listed and deleted in; nothing is left behind. Exit status 1: there are findings.
    """
    from ..operations.doctor import Patient, examine

    checks = examine(Patient(lambda: context.settings, lambda: context.site_name, lambda: context.site, lambda: context.repository))
    if as_json:
        found = [{"name": one.name, "ok": one.ok, "message": one.message, "hint": None if one.ok else one.hint} for one in checks]
        print_json({"checks": found})
    else:
        for one in checks:
            if one.ok and context.quiet:
                continue
            click.echo(f"{'ok' if one.ok else 'FAILED':6}  {printable(one.name)}: {printable(one.message)}")
            if one.hint and not one.ok:
                click.echo(f"        -> {printable(one.hint)}")
    return 0 if all(one.ok for one in checks) else FINDINGS
